"""What is wrong with a call: its name, the text of its arguments, and how they fit the tool's schema."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actune.core.errors import DataError
from actune.core.json_text import read_json
from actune.core.types import ToolCall
from actune.core.values import read_literal
from actune.data.checks.findings import Finding, cut
from actune.data.checks.tools import Offer, Parameters, has_no_parameters, write_path

_FIXES: Mapping[str, str] = {
    "argument-type": "write the value in the type of the schema, or correct the schema",
    "argument-null": "leave the parameter out, or allow null in the schema",
    "argument-encoded": "write the value itself, not its JSON text",
    "argument-missing": "add it, or take it out of the schema's required",
    "argument-unknown": "correct its name, or add it to the schema",
    "argument-enum": "use one of the values, or add it to the schema",
    "argument-schema": "correct the call or the schema",
}
_CONTAINERS = {"array": list, "object": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One way in which arguments do not fit: a code, the path of the value, and words.

    `optional` says of a value that its parameter may be left out; `value` is what an encoded one holds.
    """

    code: str
    path: tuple[str | int, ...]
    message: str
    optional: bool = False
    value: Any = None


def check_call(where: str, call: ToolCall, offer: Offer) -> Iterator[Finding]:
    """Yield the findings of one call; `where` is its place."""
    if offer.tools and call.name not in offer.tools:
        yield Finding(
            level="error",
            code="unknown-tool",
            field=where,
            message=f"call of {call.name!r}, which is not among the tools {', '.join(offer.tools)}",
            fix="correct the name or add the tool",
        )
    field = f"{where}.arguments"
    arguments, as_json, twins = read_arguments(call.arguments)
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        yield from _unreadable(call, field)
        return
    if not as_json:
        yield Finding(
            level="warning",
            code="arguments-python-literal",
            field=field,
            message=f"the arguments of {call.name!r} are a Python literal, not JSON",
            fix="write them as JSON, so that the model learns one form",
        )
    if twins:
        yield Finding(
            level="warning",
            code="arguments-key-twice",
            field=field,
            message=f"the arguments of {call.name!r} have the key {twins[0]!r} twice; readers keep the last one",
            fix="keep one of the two",
        )
    if call.name in offer.parameters:
        yield from _unfitting(call, field, arguments, offer)


def find_violations(parameters: Parameters, arguments: Mapping[str, Any]) -> list[Violation]:
    """Return how arguments do not fit, one entry a code and value.

    Parameters that a plain schema does not name count as unknown, also where it does not forbid them.
    """
    from referencing.exceptions import Unresolvable

    unknown = [] if parameters.known is None else [key for key in arguments if key not in parameters.known]
    if not unknown and parameters.fits is not None and parameters.fits(arguments):
        return []
    try:
        errors = parameters.find_errors(arguments)
    except Unresolvable as error:
        return [Violation(code="argument-schema", path=(), message=f"a reference cannot be resolved: {error}")]
    except Exception as error:  # noqa: BLE001 - patterns that are no regular expressions, references in a circle
        return [Violation(code="argument-schema", path=(), message=f"the schema cannot be followed: {error!r:.100}")]
    root = json.loads(parameters.schema) if errors else {}
    found: dict[tuple[object, ...], Violation] = {}  # a null breaks the rules of type and of enum
    for violation in [*(one for error in errors for one in _read_error(error, root)), *map(_unknown, unknown)]:
        found.setdefault((violation.code, violation.path), violation)
    return list(found.values())


# --- the text ---------------------------------------------------------------------------------------------------------


def read_arguments(text: str) -> tuple[Any, bool, list[str]]:
    """Return the value of arguments, JSON or a Python literal; whether it is JSON; and keys that stand twice in it."""
    twins: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            names = [name for name, _ in pairs]
            twins.append(next(name for name in names if names.count(name) > 1))
        return value

    try:
        return json.loads(text, object_pairs_hook=build), True, twins
    except (ValueError, RecursionError):
        value = read_literal(text)
        return value, False, [] if value is None else _literal_twins(text)


def _literal_twins(text: str) -> list[str]:
    """Return the keys that stand twice in a dict of a Python literal."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        if isinstance(node, ast.Dict):
            names = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
            found += [name for name, count in Counter(names).items() if count > 1]
    return found


def _unreadable(call: ToolCall, field: str) -> Iterator[Finding]:
    try:
        call.parse_arguments()
    except DataError as error:
        twice = error.code == "arguments-encoded-twice"
        yield Finding(
            # What is no object at all is at least what the source said; text in text is taught as a form of calls.
            level="error" if twice else "warning",
            code="arguments-encoded-twice" if twice else "arguments-unreadable",
            field=field,
            message=error.message,
            fix=str(error.fix),
        )


# --- the schema -------------------------------------------------------------------------------------------------------


def _unfitting(call: ToolCall, field: str, arguments: Mapping[str, Any], offer: Offer) -> Iterator[Finding]:
    tool = offer.tools[call.name]
    if arguments and has_no_parameters(tool):
        yield Finding(
            level="warning",
            code="tool-parameters-missing",
            field=field,
            message=f"{call.name!r} is called with arguments, but the row says nothing of its parameters",
            fix="add the tool's parameters as a JSON Schema",
        )
        return
    for violation in _join_items(find_violations(offer.parameters[call.name], arguments)):
        yield Finding(
            level="warning",
            code=violation.code,
            field=f"{field}{write_path(violation.path)}",
            message=f"the arguments of {call.name!r} do not fit its schema: {violation.message}",
            fix=_FIXES[violation.code],
        )


def _read_error(error: Any, root: Mapping[str, Any]) -> Iterator[Violation]:  # noqa: ANN401 - jsonschema is imported late
    path = tuple(error.absolute_path)
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        # One error a missing name; each is told by its place in the words.
        name = next((name for name in missing if error.message.startswith(repr(name))), missing[0])
        yield Violation(code="argument-missing", path=(*path, name), message=f"{name!r} is required")
    elif error.validator == "additionalProperties" and error.validator_value is False:
        known = error.schema.get("properties", {})
        extra = [name for name in error.instance if name not in known and error.message.count(repr(name))]
        for name in extra:
            yield _unknown(name, path)
    elif error.instance is None and error.validator in ("type", "enum", "const", "anyOf", "oneOf"):
        yield Violation(
            code="argument-null",
            path=path,
            message=f"{_name(path)} is null, which its schema does not allow",
            optional=_is_optional(error, root),
        )
    elif error.validator == "type":
        inner = _decode(error.instance, error.validator_value)
        yield Violation(
            code="argument-type" if inner is None else "argument-encoded",
            path=path,
            message=cut(error.message) if inner is None else f"{_name(path)} is JSON text, the schema wants the value",
            value=inner,
        )
    else:
        choice = error.validator in ("enum", "const")
        yield Violation(code="argument-enum" if choice else "argument-schema", path=path, message=cut(error.message))


def _unknown(name: str, inside: tuple[str | int, ...] = ()) -> Violation:
    path = (*inside, name)
    return Violation(code="argument-unknown", path=path, message=f"the schema has no parameter {_name(path)}")


def _name(path: tuple[str | int, ...]) -> str:
    return repr(write_path(path).removeprefix("."))


def _is_optional(error: Any, root: Any) -> bool:  # noqa: ANN401
    """Whether the object that holds a value does without it, as far as a way of plain words to it says."""
    *way, inside, name, _ = [None, None, *error.absolute_schema_path]
    if inside != "properties" or error.absolute_path[-1] != name:
        return False
    try:
        for part in way[2:]:
            root = root[part]
        return name in root["properties"] and name not in root.get("required", ())
    except (KeyError, IndexError, TypeError, AttributeError):  # behind a reference, which such a way leaves out
        return False


def _decode(value: object, wanted: object) -> Any:  # noqa: ANN401 - any JSON
    """Return the list or object whose JSON text stands where the schema wants such a value, else None."""
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(value, str) or not isinstance(kinds, list) or value.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        inner = read_json(value)
    except (ValueError, RecursionError):
        return None
    return inner if any(isinstance(inner, _CONTAINERS.get(kind, ())) for kind in kinds) else None


def _join_items(found: Iterable[Violation]) -> list[Violation]:
    """Keep the first of the violations that differ in the number of a list's item only, and say how many there are."""
    groups: dict[tuple[object, ...], list[Violation]] = {}
    for violation in found:
        place = tuple("[]" if isinstance(part, int) else part for part in violation.path)
        groups.setdefault((violation.code, place), []).append(violation)
    return [first if not more else _and_more(first, len(more)) for first, *more in groups.values()]


def _and_more(first: Violation, count: int) -> Violation:
    return Violation(
        code=first.code, path=first.path, message=f"{first.message} (and {count} more items)", optional=first.optional
    )
