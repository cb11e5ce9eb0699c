"""The part of Go's template language that is written for Ollama: nodes, their text, and what they come to.

Only what is needed is here, so that it can be computed in Python exactly as Go's text/template (1.19 and later) does; a test
compares both where Go is installed. Values are those that Ollama gives its templates: maps are dicts in sorted order.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Path:
    """A value by its name: `.Content`, `$.Tools`, `$name`."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function of Go's templates: `eq`, `ne`, `and`, `or`, `not`, `gt`, `len`."""

    name: str
    arguments: tuple[Expression, ...]


Expression = Path | Call | str | int | bool


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Put:
    """The value of a name: as it is, as Go writes JSON, as a text in quotes (JSON without escapes of <, > and &).

    `value` is JSON too, quoted where it is a text.
    """

    path: Path
    form: Literal["plain", "json", "quoted", "value"] = "plain"


@dataclass(frozen=True, slots=True)
class PutNext:
    """A number plus one; Go's templates cannot add, but they can measure a padded text."""

    path: Path


@dataclass(frozen=True, slots=True)
class Set:
    """A variable, new or given another value."""

    name: str
    value: Expression
    new: bool = False


@dataclass(frozen=True, slots=True)
class If:
    """One of two parts."""

    condition: Expression
    then: tuple[Node, ...]
    other: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """A part for every element of a list or map; inside, `.` is the element, `key` its number or key."""

    over: Path
    body: tuple[Node, ...]
    key: str = "$_"
    value: str = "$element"


Node = Text | Put | PutNext | Set | If | Range


_FORMS = {"plain": "", "json": "json ", "quoted": 'printf "%q" '}


# --- as Go's text ---


def write_template(nodes: Sequence[Node]) -> str:
    """Return the text of a template."""
    return "".join(_write(node) for node in join_texts(nodes))


def join_texts(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes with neighbouring texts as one and empty ones left out."""
    found: list[Node] = []
    for node in nodes:
        if isinstance(node, Text) and found and isinstance(last := found[-1], Text):
            found[-1] = Text(last.text + node.text)
        elif not isinstance(node, Text) or node.text:
            found.append(node)
    return found


def _write(node: Node) -> str:
    if isinstance(node, Text):
        return _write_text(node.text)
    if isinstance(node, Put) and node.form == "value":
        quoted, written = (_write(Put(node.path, form)) for form in ("quoted", "json"))
        return f'{{{{ if eq (printf "%T" {node.path.text}) "string" }}}}{quoted}{{{{ else }}}}{written}{{{{ end }}}}'
    if isinstance(node, Put):
        return f"{{{{ {_FORMS[node.form]}{node.path.text} }}}}"
    if isinstance(node, PutNext):
        return f'{{{{ len (printf "%*s " {node.path.text} "") }}}}'
    if isinstance(node, Set):
        return f"{{{{ {node.name} {':=' if node.new else '='} {_write_expression(node.value)} }}}}"
    if isinstance(node, If):
        other = f"{{{{ else }}}}{write_template(node.other)}" if node.other else ""
        return f"{{{{ if {_write_expression(node.condition)} }}}}{write_template(node.then)}{other}{{{{ end }}}}"
    head = f"range {node.key}, {node.value} := {node.over.text}"
    return f"{{{{ {head} }}}}{write_template(node.body)}{{{{ end }}}}"


def _write_text(text: str) -> str:
    """Write text so that no brace of it is read as the beginning of an action, and no quotes end the Modelfile's."""
    found = text.replace('"""', "\0q\0").replace("{{", "\0b\0")
    if found.endswith("{"):
        found = found[:-1] + "\0o\0"
    return found.replace("\0q\0", '{{ "\\"\\"\\"" }}').replace("\0b\0", '{{ "{{" }}').replace("\0o\0", '{{ "{" }}')


def _write_expression(value: Expression, *, inside: bool = False) -> str:
    if isinstance(value, Path):
        return value.text
    if isinstance(value, Call):
        words = " ".join([value.name, *(_write_expression(one, inside=True) for one in value.arguments)])
        return f"({words})" if inside else words
    return json.dumps(value, ensure_ascii=False)


# --- what it comes to ---


def evaluate(nodes: Sequence[Node], values: Mapping[str, Any]) -> str:
    """Return the text that Go's text/template makes of the nodes with these values."""
    return _Evaluation(values).run(nodes, values, {})


class _Evaluation:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def run(self, nodes: Sequence[Node], dot: Any, scope: dict[str, Any]) -> str:  # noqa: ANN401 - any value of a template
        parts = []
        for node in nodes:
            if isinstance(node, Text):
                parts.append(node.text)
            elif isinstance(node, Put):
                value = self._find(node.path, dot, scope)
                parts.append(_print(value) if node.form == "plain" else _WRITERS[node.form](value))
            elif isinstance(node, PutNext):
                parts.append(str(self._find(node.path, dot, scope) + 1))
            elif isinstance(node, Set):
                scope[node.name] = self._value(node.value, dot, scope)
            elif isinstance(node, If):
                chosen = node.then if is_true(self._value(node.condition, dot, scope)) else node.other
                parts.append(self._inner(chosen, dot, scope, {}))
            else:
                over = self._find(node.over, dot, scope)
                entries = sorted(over.items()) if isinstance(over, Mapping) else list(enumerate(over or ()))
                for key, value in entries:
                    parts.append(self._inner(node.body, value, scope, {node.key: key, node.value: value}))
        return "".join(parts)

    def _inner(self, nodes: Sequence[Node], dot: Any, scope: dict[str, Any], own: dict[str, Any]) -> str:  # noqa: ANN401
        """Run a part: variables that are new in it end with it, others keep what it sets."""
        inside = {**scope, **own}
        text = self.run(nodes, dot, inside)
        new = {node.name for node in nodes if isinstance(node, Set) and node.new} | set(own)
        scope.update({name: value for name, value in inside.items() if name in scope and name not in new})
        return text

    def _value(self, value: Expression, dot: Any, scope: dict[str, Any]) -> Any:  # noqa: ANN401 - any value of a template
        if isinstance(value, Path):
            return self._find(value, dot, scope)
        if not isinstance(value, Call):
            return value
        given = [self._value(one, dot, scope) for one in value.arguments]
        if value.name == "and":
            return next((one for one in given if not is_true(one)), given[-1])
        if value.name == "or":
            return next((one for one in given if is_true(one)), given[-1])
        results = {
            "eq": lambda: given[0] == given[1],
            "ne": lambda: given[0] != given[1],
            "gt": lambda: given[0] > given[1],
            "not": lambda: not is_true(given[0]),
            "len": lambda: len(given[0] or ()),
        }
        return results[value.name]()

    def _find(self, path: Path, dot: Any, scope: dict[str, Any]) -> Any:  # noqa: ANN401 - any value of a template
        first, *rest = path.text.split(".")
        value: Any = dot if first == "" else self._root if first == "$" else scope[first]
        for name in rest:
            value = value[name] if name else value
        return value


def is_true(value: Any) -> bool:  # noqa: ANN401 - any value of a template
    """Whether Go's templates take a value for true: not for zero, false, nil, or what is empty."""
    return bool(value)


def _print(value: Any) -> str:  # noqa: ANN401 - any value of a template
    if isinstance(value, str):
        return value
    return go_json(value) if isinstance(value, (Mapping, list)) else str(value)


def go_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return JSON as Go's `json.Marshal` writes it: no blanks, keys of maps sorted, <, > and & escaped."""
    text = json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Struct(dict[str, Any]):
    """A value that Go keeps in a struct: its keys stay in their order."""


def _sorted(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Struct):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value


_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def go_quote(text: str) -> str:
    """Return a text as Go's `%q` writes it: characters that `unicode.IsPrint` does not know are escaped."""
    return '"' + "".join(_quote(character) for character in text) + '"'


def _quote(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if character == " " or unicodedata.category(character)[0] in "LMNPS":
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _write_value(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return go_quote(value) if isinstance(value, str) else go_json(value)


_WRITERS = {"json": go_json, "quoted": go_quote, "value": _write_value}
