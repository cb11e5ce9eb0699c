"""The methods of text and the filters and tests of Jinja, each with an estimate of what it makes before it does.

All take the guard of the rendering (`actune.render.sandbox.Guard`), which counts and refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from jinja2 import pass_context
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS
from jinja2.runtime import Context
from jinja2.utils import _PassArg

from actune.render.budget import SCALARS, SMALL, TooCostlyError

if TYPE_CHECKING:
    from actune.render.sandbox import Guard

Value = Any
PLAIN_CODECS = frozenset(("utf-8", "utf_8", "utf8", "ascii", "latin-1"))  # linear, and as long as their text
_MOST_DIGITS = 400  # of a precision


# -- methods of text


def _pieces(text: str, split: Callable[[str], list[str]]) -> int:
    """Return at least the number of pieces of a text, without making them all at once."""
    size = 1 << 16
    return sum(len(split(text[at : at + size])) + 1 for at in range(0, len(text), size))


def _same_length(name: str, growth: int = 1) -> Callable[..., Value]:
    """Bound a method whose result is about as long as its text."""
    do = getattr(str, name)

    def run(guard: Guard, text: str, *args: Value, **kwargs: Value) -> Value:
        if len(text) >= SMALL or args:
            guard.room(len(text) if text.isascii() else growth * len(text))
            # Stripping looks every character up in its argument.
            for value in args:
                guard.spend((len(text) * len(value) >> 4) if isinstance(value, str) else guard.weigh(value))
        value = do(text, *args, **kwargs)
        return value if value is text else guard.made(value)

    return run


def _search(name: str) -> Callable[..., Value]:
    do = getattr(str, name)

    def run(guard: Guard, text: str, *args: Value, **kwargs: Value) -> Value:
        if len(text) >= SMALL:
            given = sum(map(guard.weigh, args))
            # Searching from the right compares all of the argument at each place.
            guard.spend((len(text) >> 2) + (len(text) * given >> 4 if name[0] == "r" else 0))
        elif args and type(args[0]) is not str:
            guard.weigh(args[0])
        return do(text, *args, **kwargs)

    return run


def _split(name: str) -> Callable[..., Value]:
    do = getattr(str, name)

    def run(guard: Guard, text: str, *args: Value, **kwargs: Value) -> Value:
        if len(text) >= SMALL:
            sep = args[0] if args else kwargs.get("sep")
            guard.room(len(text))
            if name == "splitlines":
                guard.spend(64 * _pieces(text, str.splitlines))
            elif isinstance(sep, str) and sep:
                # Found from the right, an argument is compared in full at each place.
                guard.spend((64 * text.count(sep)) + (len(text) * len(sep) >> 4 if name[0] == "r" else 0))
            else:
                guard.spend(64 * _pieces(text, str.split))
        pieces = do(text, *args, **kwargs)
        for piece in pieces:
            if piece is not text:
                guard.made(piece)
        guard.spend(64 * len(pieces))
        return pieces

    return run


def _pad(name: str) -> Callable[..., Value]:
    do = getattr(str, name)

    def run(guard: Guard, text: str, *args: Value, **kwargs: Value) -> Value:
        number = next((abs(value) for value in (*args, *kwargs.values()) if isinstance(value, int)), 8)
        guard.room(len(text) + number * (text.count("\t") if name == "expandtabs" else 1))
        return guard.made(do(text, *args, **kwargs))

    return run


def _replace(guard: Guard, text: str, old: str, new: str, count: int = -1) -> str:
    if isinstance(old, str) and isinstance(new, str) and len(text) + len(new) >= SMALL:
        found = text.count(old)
        found = min(found, count) if isinstance(count, int) and count >= 0 else found
        guard.room(len(text) + found * len(new))
    value = text.replace(old, new, count)
    return value if value is text else guard.made(value)


def _join(guard: Guard, text: str, items: Value) -> str:
    items = guard.iterable(items)
    parts = items if isinstance(items, list | tuple) else list(items)
    length = sum(len(part) for part in parts if isinstance(part, str))
    guard.room(length + len(text) * len(parts))
    return guard.made(text.join(parts))


def _translate(guard: Guard, text: str, table: Value) -> str:
    values = table.values() if isinstance(table, Mapping) else table
    longest = max((len(value) for value in values if isinstance(value, str)), default=1)
    guard.room(len(text) * max(longest, 1))
    return guard.made(text.translate(table))


def _encode(guard: Guard, text: str, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    # Names of characters are the longest replacement; some codecs take quadratic time.
    plain = encoding.lower() in PLAIN_CODECS and errors == "strict"
    guard.room(4 * len(text) if plain else 100 * len(text))
    guard.spend(0 if plain else len(text) ** 2)
    return guard.made(text.encode(encoding, errors))


TEXT_METHODS: dict[str, Callable[..., Value]] = {
    **{name: _same_length(name) for name in ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")},
    **{name: _same_length(name, 3) for name in ("lower", "upper", "casefold", "swapcase", "title", "capitalize")},
    **{name: _search(name) for name in ("find", "rfind", "index", "rindex", "count", "startswith", "endswith")},
    **{name: _search(name) for name in dir(str) if name.startswith("is")},
    **{name: _split(name) for name in ("split", "rsplit", "splitlines", "partition", "rpartition")},
    **{name: _pad(name) for name in ("center", "ljust", "rjust", "zfill", "expandtabs")},
    "replace": _replace,
    "join": _join,
    "translate": _translate,
    "encode": _encode,
}  # fmt: skip


def percent_fields(layout: str) -> tuple[list[int | None], int]:
    """Return widths and precisions of a percent layout, None for one that is an argument, and the number of fields."""
    widths: list[int | None] = []
    fields, at, end = 0, layout.find("%"), len(layout)
    while at >= 0:
        at += 1
        if layout[at : at + 1] == "(":
            depth = 1
            while depth and at + 1 < end:
                at += 1
                depth += {"(": 1, ")": -1}.get(layout[at], 0)
            at += 1
        start = at
        while at < end and layout[at] in "#0- +.*123456789":
            at += 1
        for part in layout[start:at].split("."):
            number = part.lstrip("#0- +")
            if number:
                widths.append(None if "*" in number else _digits(number))
        fields += 1
        at = layout.find("%", at + 1)
    return widths, fields


def _digits(text: str) -> int:
    found = "".join(char for char in text if char.isdigit())
    return int(found) if len(found) < 20 else 10**20


# -- filters

# Filters that read their input item by item, and make theirs so; those that need all of it; those that make text.
_LAZY = ("batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique")
_WHOLE = ("dictsort", "groupby", "list", "max", "min", "sort", "sum", "urlencode", "xmlattr")
# Units a character or value, against one for copying; what makes a list of words counts their memory.
_EFFORT = {"dictsort": 20, "groupby": 20, "sort": 20, "max": 2, "min": 2, "title": 40, "wordcount": 40, "pprint": 100}
# How many times longer the result may be.
_GROWTH = {"e": 6, "escape": 6, "forceescape": 6, "xmlattr": 6, "urlencode": 12, "urlize": 40, "wordwrap": 2}
# These look at the same text again and again.
_QUADRATIC = ("striptags", "urlize", "wordwrap")
# What costs the same whatever it is given.
_FREE = ("abs", "attr", "count", "d", "default", "filesizeformat", "first", "float", "last", "length", "random")


def bounded_filters(guard: Guard) -> dict[str, Callable[..., Value]]:
    """Return every filter of Jinja, bounded by the guard, with `tojson` as transformers has it."""
    special = {name: DEFAULT_FILTERS[name] for name in _FREE}
    for name, filter_ in DEFAULT_FILTERS.items():
        if name not in special:
            special[name] = _bounded(guard, name, filter_)
    for name in ("lower", "upper", "capitalize", "trim"):
        special[name] = _of_text(guard, name, special[name])
    special |= {"string": _string(guard), "join": _join_filter(guard, special["join"]), "tojson": _tojson(guard)}
    special["replace"] = _replace_filter(guard, special["replace"])
    return special


def _bounded(guard: Guard, name: str, do: Callable[..., Value]) -> Callable[..., Value]:
    given = getattr(do, "jinja_pass_arg", None)
    check, effort, growth = _CHECKS.get(name), _EFFORT.get(name, 1), _GROWTH.get(name, 1)

    @pass_context
    def run(context: Context, value: Value, *args: Value, **kwargs: Value) -> Value:
        if name in _LAZY:
            value, size = guard.weighed(value) if name == "unique" else guard.iterable(value), 8
        else:
            if name in _WHOLE and (type(value) is str or hasattr(type(value), "__next__")):
                value = list(guard.iterable(value)) if type(value) is not str else guard.iterable(value)
            size = guard.weigh(value)
        size += sum(map(guard.weigh, (*args, *kwargs.values())))
        guard.room(growth * size)
        guard.spend((effort - 1) * size + (size * size >> 4 if name in _QUADRATIC else 0))
        if check is not None:
            value = check(guard, value, *args, **kwargs)
        if given is _PassArg.context:
            args = (context, value, *args)
        elif given is _PassArg.eval_context:
            args = (context.eval_ctx, value, *args)
        elif given is _PassArg.environment:
            args = (context.environment, value, *args)
        else:
            args = (value, *args)
        made = do(*args, **kwargs)
        if type(made) is GeneratorType:
            return guard.counted(made, 100, source=value)
        return guard.made(made)

    return run


def _of_text(guard: Guard, name: str, other: Callable[..., Value]) -> Callable[..., Value]:
    method = TEXT_METHODS["strip" if name == "trim" else name]

    @pass_context
    def run(context: Context, value: Value, *args: Value, **kwargs: Value) -> Value:
        if type(value) is str and not kwargs:
            return method(guard, value, *args)
        return other(context, value, *args, **kwargs)

    return run


def _string(guard: Guard) -> Callable[..., Value]:
    @pass_context
    def run(_context: Context, value: Value) -> str:
        return value if isinstance(value, str) else guard.text(value)

    return run


def _join_filter(guard: Guard, other: Callable[..., Value]) -> Callable[..., Value]:
    @pass_context
    def run(context: Context, value: Value, d: Value = "", attribute: Value = None) -> str:
        items = guard.iterable(value)
        if attribute is not None or context.eval_ctx.autoescape:
            items = list(items)
            guard.room(6 * (guard.weigh(items) + guard.weigh(d) * len(items)))
            return other(context, items, d, attribute)
        return TEXT_METHODS["join"](guard, guard.text(d), [str(guard.text(item)) for item in items])

    return run


def _replace_filter(guard: Guard, other: Callable[..., Value]) -> Callable[..., Value]:
    @pass_context
    def run(context: Context, s: Value, old: Value, new: Value, count: int | None = None) -> Value:
        if context.eval_ctx.autoescape:
            guard.room(guard.weigh(s) * guard.weigh(new))
            return other(context, s, old, new, count)
        texts = [str(guard.text(value)) for value in (s, old, new)]
        return TEXT_METHODS["replace"](guard, *texts, -1 if count is None else count)

    return run


_KEPT_TEXTS, _KEPT_CHARACTERS = 128, 1 << 15


def _tojson(guard: Guard) -> Callable[..., Value]:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    # A row's tools are written again for every turn, from the same objects, which no template can change.
    written: dict[int, tuple[Value, str]] = {}

    @pass_context
    def run(
        _context: Context,
        value: Value,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, which no chat template wants.
        plain = indent is None and separators is None and not (ensure_ascii or sort_keys)
        known = written.get(id(value)) if plain else None
        if known is not None and known[0] is value:
            guard.spend(len(known[1]) >> 4)
            return guard.made(known[1])
        size, count, depth = guard.measure(value)
        if plain:
            guard.room(size if size < SMALL else 6 * size)
            text = encode(value)
            if type(value) in (dict, list) and len(text) < _KEPT_CHARACTERS:
                if len(written) >= _KEPT_TEXTS:
                    written.clear()
                written[id(value)] = (value, text)
            return guard.made(text)
        step = max(indent, 0) if isinstance(indent, int) else guard.weigh(indent)
        guard.room(12 * size + count * (depth * step + 2 * guard.weigh(separators)))
        guard.spend(0 if indent is None else 500 * count)  # with an indent, Python writes the text, not C
        return guard.made(
            json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        )

    return run


def _check_batch(guard: Guard, value: Value, linecount: int, fill_with: Value = None) -> Value:
    guard.spend(8 * linecount if fill_with is not None else 0)
    return value


def _check_center(guard: Guard, value: Value, width: int = 80) -> Value:
    guard.room(width)
    return value


def _check_indent(guard: Guard, s: Value, width: int | str = 4, first: bool = False, blank: bool = False) -> Value:
    if not isinstance(s, str):
        raise TypeError(f"indent takes text, not {type(s).__name__}")  # it would change a list in place
    lines = _pieces(s, str.splitlines) + 1
    guard.spend(64 * lines)
    guard.room(6 * len(s) + lines * (len(width) if isinstance(width, str) else max(width, 0)))
    return s


def _check_int(guard: Guard, value: Value, default: Value = 0, base: int = 10) -> Value:
    if isinstance(value, str) and base != 10 and len(value) > 5000:
        raise TooCostlyError("a number of more than 5,000 digits")
    return value


def _check_round(guard: Guard, value: Value, precision: int = 0, method: str = "common") -> Value:
    if isinstance(value, str | bytes | list | tuple):
        raise TypeError(f"round takes a number, not {type(value).__name__}")  # it would be multiplied
    if abs(precision) > _MOST_DIGITS:
        raise TooCostlyError(f"a precision of more than {_MOST_DIGITS} digits")
    return value


def _check_sum(guard: Guard, iterable: Value, attribute: Value = None, start: Value = 0) -> Value:
    if type(start) not in SCALARS:
        guard.spend(guard.weigh(iterable) ** 2 >> 4)  # each sum is a new list
    return iterable


def _check_format(guard: Guard, value: Value, *args: Value, **kwargs: Value) -> Value:
    guard.room(guard.formatted(str(guard.text(value)), kwargs or args))
    return value


_CHECKS: dict[str, Callable[..., Value]] = {
    "batch": _check_batch,
    "center": _check_center,
    "format": _check_format,
    "indent": _check_indent,
    "int": _check_int,
    "round": _check_round,
    "sum": _check_sum,
}

# Tests that look at the kind of a value, or at a number.
_FREE_TESTS = (
    "boolean", "callable", "defined", "escaped", "false", "float", "integer", "iterable", "mapping", "none", "number",
    "sameas", "sequence", "string", "test", "true", "undefined",
)  # fmt: skip


def bounded_tests(guard: Guard, known: Iterable[str]) -> dict[str, Callable[..., Value]]:
    """Return every test of Jinja, bounded by the guard; `known` are the names of filters that there are."""
    found: dict[str, Callable[..., Value]] = {name: DEFAULT_TESTS[name] for name in _FREE_TESTS}
    names = frozenset(known)
    for name, test in DEFAULT_TESTS.items():
        if name not in found:
            found[name] = _bounded_test(guard, name, test)
    return found | {"filter": lambda value: value in names}


def _bounded_test(guard: Guard, name: str, do: Callable[..., Value]) -> Callable[..., Value]:
    @pass_context
    def run(context: Context, value: Value, *args: Value) -> Value:
        if name == "in" and args:
            return guard.contains(context, value, *args)
        for one in (value, *args):
            if type(one) not in SCALARS and not (type(one) is str and len(one) < SMALL):
                guard.weigh(one)
        if name in ("even", "odd", "divisibleby"):  # `%`, which formats text
            guard.modulo(context, value, args[0] if args else 2)
        return do(value, *args)

    return run
