"""The tools that a row offers: what is wrong with them, and which arguments they take.

Rows of a data set repeat a few lists of tools, so everything known of a tool is computed once. Most schemas are plain
(types, properties, required, enum, items); calls that fit a plain schema are passed by a function made of it, the rest is
judged by jsonschema, which also words what is wrong. A schema never makes the program fetch anything.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from actune.core.schema import loosen
from actune.core.types import ToolSpec
from actune.data.checks.findings import Finding, cut

Fits = Callable[[Any], bool]
"""Whether a value certainly fits; False leaves the question to jsonschema."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a tool takes: its schema as JSON text, a quick test, and the names of its parameters.

    `fits` and `known` are None where the schema is not plain, so that neither can be told from its words alone.
    `fault` is the place and the reason where the schema is none; it then judges nothing.
    """

    schema: str
    fits: Fits | None
    known: frozenset[str] | None
    fault: tuple[str, str] | None

    def find_errors(self, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what jsonschema has to say about arguments, as its own errors.

        Raises:
            referencing.exceptions.Unresolvable: the schema refers to something outside itself.
        """
        return [] if self.fault is not None else list(_validator(self.schema).iter_errors(arguments))


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a row by name, what they take, what is wrong with the list itself, and a digest of it."""

    tools: Mapping[str, ToolSpec]
    parameters: Mapping[str, Parameters]
    findings: tuple[Finding, ...]
    digest: bytes


_OFFERS: dict[int, tuple[tuple[ToolSpec, ...], Offer]] = {}
"""By identity of the list, which is kept so that its identity stays taken; readers give equal lists as one object."""
_KEPT_OFFERS = 512


def read_offer(tools: tuple[ToolSpec, ...]) -> Offer:
    """Return what is known of a row's tools."""
    known = _OFFERS.get(id(tools))
    if known is not None:
        return known[1]
    parameters = {tool.name: _read_parameters(tool) for tool in tools}
    offer = Offer(
        {tool.name: tool for tool in tools},
        parameters,
        tuple(_find_faults(tools, parameters)),
        hashlib.blake2b(repr([(tool.name, tool.description, tool.parameters) for tool in tools]).encode()).digest(),
    )
    if len(_OFFERS) >= _KEPT_OFFERS:
        _OFFERS.clear()
    _OFFERS[id(tools)] = (tools, offer)
    return offer


def has_no_parameters(tool: ToolSpec) -> bool:
    """Whether the row gives no parameters at all for a tool, not even an empty list of properties."""
    return (
        tool.source is not None
        and tool.source.get("parameters") in (None, {})
        and not tool.parameters.get("properties")
    )


# --- the list ---------------------------------------------------------------------------------------------------------


def _find_faults(tools: Sequence[ToolSpec], parameters: Mapping[str, Parameters]) -> list[Finding]:
    found: list[Finding] = []
    names: dict[str, list[str]] = defaultdict(list)
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        names[_plain_name(tool.name)].append(tool.name)
        if not tool.description.strip():
            found.append(
                Finding(
                    level="warning",
                    code="tool-undescribed",
                    field=f"{place}.description",
                    message=f"the tool {tool.name!r} has no description, so the model sees only its name",
                    fix="say in a sentence what the tool does and when to use it",
                )
            )
        found.extend(_schema_faults(tool, f"{place}.parameters", parameters[tool.name]))
    for same in names.values():
        if len(same) > 1:
            found.append(
                Finding(
                    level="warning",
                    code="tool-name-clash",
                    field="tools",
                    message=f"the names {', '.join(map(repr, same))} differ in case or punctuation only",
                    fix="give each tool a name that a model cannot take for another",
                )
            )
    return found


def _plain_name(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold() or name


def _schema_faults(tool: ToolSpec, place: str, parameters: Parameters) -> list[Finding]:
    if parameters.fault is not None:
        path, why = parameters.fault
        return [
            Finding(
                level="warning",
                code="tool-schema-invalid",
                field=f"{place}{path}",
                message=f"the parameters of {tool.name!r} are no valid JSON Schema, so calls are not checked: {why}",
                fix="correct the schema",
            )
        ]
    schema = tool.parameters
    properties, required = schema.get("properties"), schema.get("required")
    if parameters.known is None or not isinstance(required, (list, tuple)) or not isinstance(properties, Mapping):
        return []
    unknown = [name for name in required if name not in properties]
    return [
        Finding(
            level="warning",
            code="tool-required-unknown",
            field=f"{place}.required",
            message=f"{tool.name!r} requires {', '.join(map(repr, unknown))}, which its properties do not describe",
            fix="describe it under properties, or take it out of required",
        )
    ][: len(unknown)]


# --- one schema -------------------------------------------------------------------------------------------------------


def _read_parameters(tool: ToolSpec) -> Parameters:
    """A flat list of parameters says its types in prose; only what JSON Schema's words say is taken from it."""
    schema = loosen(tool.parameters) if tool.parameter_list is not None else tool.parameters
    try:
        return _compile(json.dumps(schema))
    except (TypeError, ValueError, RecursionError):
        return Parameters("", None, None, ("", "it cannot be written as JSON"))


@lru_cache(maxsize=4096)
def _compile(text: str) -> Parameters:
    schema = json.loads(text)
    fits = _plain_test(schema)
    if fits is not None:  # plain schemas are valid ones; the schema of schemas is slow
        # Free objects have no list of names that could be left.
        free = "properties" not in schema or schema.get("additionalProperties", False) is not False
        names = None if free else frozenset({*schema["properties"], *schema.get("required", ())})
        return Parameters(text, fits, names, None)
    return Parameters(text, None, None, _find_fault(schema))


def _find_fault(schema: object) -> tuple[str, str] | None:
    """Return where a schema breaks the rules of schemas, and how; None for a valid one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    except RecursionError:
        return "", "it is nested too deeply"
    return None if error is None else (write_path(error.absolute_path), cut(error.message))


@lru_cache(maxsize=4096)
def _validator(text: str) -> Any:  # noqa: ANN401 - jsonschema is imported late
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An empty registry of our own: a schema from a data file must never make the program fetch a URL.
    return Draft202012Validator(json.loads(text), registry=Registry())


def write_path(parts: Sequence[str | int]) -> str:
    """Return a path in a JSON value as it stands behind a field: `.items[2].price`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
# Words that judge nothing, and the type that the schema of schemas wants of each.
_NOTES: Mapping[str, type | tuple[type, ...]] = {
    "description": str, "title": str, "format": str, "$comment": str, "examples": list, "deprecated": bool,
    "readOnly": bool, "writeOnly": bool, "default": object, "$schema": str,
}  # fmt: skip
# Every other word of JSON Schema; words that are none of it judge nothing.
JUDGING = frozenset({
    "$anchor", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref",
    "$vocabulary", "allOf", "anyOf", "const", "contains", "contentEncoding", "contentMediaType", "contentSchema",
    "definitions", "dependencies", "dependentRequired", "dependentSchemas", "else", "exclusiveMaximum",
    "exclusiveMinimum", "if", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
    "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties",
    "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
})  # fmt: skip


def _plain_test(schema: Any) -> Fits | None:  # noqa: ANN401 - any JSON
    """Return a test that passes only values that fit; None for a schema that uses any but the plainest words."""
    if schema is True:
        return _anything
    if not isinstance(schema, dict) or not all(
        isinstance(value, _NOTES[key]) if key in _NOTES else key not in JUDGING for key, value in schema.items()
    ):
        return None
    tests = [_type_test(schema), _enum_test(schema), _object_test(schema), _items_test(schema)]
    if any(test is None for test in tests):
        return None
    wanted = [test for test in tests if test is not _anything and test is not None]
    if len(wanted) == 1:
        return wanted[0]
    return lambda value: all(test(value) for test in wanted)


def _anything(_value: object) -> bool:
    return True


def _type_test(schema: Mapping[str, Any]) -> Fits | None:
    if "type" not in schema:
        return _anything
    kinds = schema["type"]
    if isinstance(kinds, str):
        return _TYPES.get(kinds)
    if not _are_names(kinds) or not kinds or not set(kinds) <= _TYPES.keys():
        return None
    tests = [_TYPES[kind] for kind in kinds]
    return lambda value: any(test(value) for test in tests)


def _are_names(value: object) -> bool:
    """Whether a value is a list of different texts, as names of types and of required parameters are given."""
    return (
        isinstance(value, list)
        and all(isinstance(item, str) for item in value)
        and len(set(map(str, value))) == len(value)
    )


def _enum_test(schema: Mapping[str, Any]) -> Fits | None:
    """Equality of numbers is JSON Schema's own; only texts are compared here."""
    if "enum" not in schema:
        return _anything
    if not isinstance(schema["enum"], list):
        return None
    values = frozenset(value for value in schema["enum"] if isinstance(value, str))
    return lambda value: isinstance(value, str) and value in values


def _object_test(schema: Mapping[str, Any]) -> Fits | None:
    if not schema.keys() & {"properties", "required", "additionalProperties"}:
        return _anything
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not _are_names(required):
        return None
    tests = {name: _plain_test(entry) for name, entry in properties.items()}
    closed = schema.get("additionalProperties") is False
    others = None if closed else _plain_test(schema.get("additionalProperties", True))
    if None in tests.values() or (others is None and not closed):
        return None
    needed = frozenset(required)

    def fits(value: object) -> bool:
        if not isinstance(value, dict):
            return True  # what is no object is the type's business
        if not needed <= value.keys():
            return False
        for name, entry in value.items():
            test = tests.get(name, others)
            if test is None or not test(entry):
                return False
        return True

    return fits


def _items_test(schema: Mapping[str, Any]) -> Fits | None:
    if "items" not in schema:
        return _anything
    test = _plain_test(schema["items"])
    if test is None:
        return None
    return lambda value: not isinstance(value, list) or all(test(item) for item in value)
