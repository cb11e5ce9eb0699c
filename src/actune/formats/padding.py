"""Structs of tables: every row has every key of the column, null where it had none; which nulls are no keys at all?

A struct cannot tell an absent key from one that is null. Where null cannot be a value, it is padding and left out; where
it may be one, the row is refused: a model would learn parameters of other tools, or lose some of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.errors import DataError
from actune.core.schema import find_properties, find_types

TOOLS = ("tools", "functions", "available_tools")
"""Keys that the tools of a row stand under."""
_SCHEMAS = ("parameters", "input_schema")
ARGUMENTS = ("arguments", "input")
"""Keys that the arguments of a call stand under."""
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("default", "const")


REPAIRS = "actune:repairs"
"""The key of a row under which a table's reader says what it left out; it joins the repairs of the conversation."""


class Padded(dict):
    """An object out of a struct column: keys with null may be no keys of the row."""


def drop_padding(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without padding in its tools and arguments; what was left out stands under REPAIRS.

    Other nulls stay: the readers of formats take a key with null for absent.

    Raises:
        DataError: code `struct-padding` where null may be a value.
    """
    repairs: list[str] = []
    result = dict(row)
    schemas: dict[str, Any] = {}
    for key in TOOLS:
        tools = result.get(key)
        if isinstance(tools, list):
            result[key] = [_tool(tool, f"{key}[{index}]", schemas, repairs) for index, tool in enumerate(tools)]
    for key, value in result.items():
        if key not in TOOLS:
            result[key] = _search(value, key, schemas, repairs)
    return result | {REPAIRS: repairs} if repairs else result


# --- tools ------------------------------------------------------------------------------------------------------------


def _tool(tool: Any, place: str, schemas: dict[str, Any], repairs: list[str]) -> Any:  # noqa: ANN401 - any cell
    """Return a tool without padding; its schema is added to `schemas` under its name."""
    if not isinstance(tool, Mapping):
        return tool
    inner = tool.get("function")
    if isinstance(inner, Mapping):
        return {key: value for key, value in tool.items() if value is not None} | {
            "function": _tool(inner, f"{place}.function", schemas, repairs)
        }
    kept = {key: value for key, value in tool.items() if value is not None}
    left_out: list[str] = []
    for key in _SCHEMAS:
        if isinstance(kept.get(key), Padded):
            kept[key] = _schema(kept[key], f"{place}.{key}", left_out)
            schemas[str(kept.get("name"))] = kept[key]
        elif isinstance(kept.get(key), Mapping):
            schemas[str(kept.get("name"))] = kept[key]
    if left_out:
        repairs.append(f"tool {kept.get('name')}: keys that only pad the table left out: {_list(left_out)}")
    return kept


def _schema(schema: Any, place: str, left_out: list[str]) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(schema, list):
        return [_schema(item, f"{place}[{index}]", left_out) for index, item in enumerate(schema)]
    if not isinstance(schema, Padded):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None:
            if key in _VALUES and _may_be_null(schema):
                raise _unclear(f"{place}.{key}")
            left_out.append(key)
        elif key in _BY_NAME and isinstance(value, Padded):
            kept[key] = {}
            for name, entry in value.items():
                if entry is None:
                    left_out.append(name)
                else:
                    kept[key][name] = _schema(entry, f"{place}.{key}.{name}", left_out)
        elif key in _VALUES:
            kept[key] = _value(value, schema, f"{place}.{key}", left_out)
        else:
            kept[key] = _schema(value, f"{place}.{key}", left_out)
    return kept


def _may_be_null(schema: object) -> bool:
    kinds = find_types(schema)
    return not kinds or "null" in kinds


# --- arguments --------------------------------------------------------------------------------------------------------


def _search(value: Any, place: str, schemas: Mapping[str, Any], repairs: list[str]) -> Any:  # noqa: ANN401 - any cell
    """Return a value with the arguments of the calls in it without padding."""
    if isinstance(value, list):
        return [_search(item, f"{place}[{index}]", schemas, repairs) for index, item in enumerate(value)]
    if not isinstance(value, Padded):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in ARGUMENTS and isinstance(item, Padded):
            name = value.get("name")
            left_out: list[str] = []
            found[key] = _value(item, schemas.get(str(name)), f"{place}.{key}", left_out)
            if left_out:
                repairs.append(f"call of {name}: keys that only pad the table left out: {_list(left_out)}")
        else:
            found[key] = _search(item, f"{place}.{key}", schemas, repairs)
    return found


def _value(value: Any, schema: object, place: str, left_out: list[str]) -> Any:  # noqa: ANN401 - any JSON
    """Return an argument without padding, as its schema says what it may be; `schema` is None where none is known."""
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return [_value(item, items, f"{place}[{index}]", left_out) for index, item in enumerate(value)]
    if not isinstance(value, Padded):
        return value
    known = find_properties(schema)
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if item is not None:
            kept[key] = _value(item, known.get(key), f"{place}.{key}", left_out)
        elif not known or (key in known and _may_be_null(known[key])):
            raise _unclear(f"{place}.{key}")
        else:
            left_out.append(key)
    return kept


def _unclear(place: str) -> DataError:
    return DataError(
        f"{place} is null in a struct column, which may mean null or no such key",
        code="struct-padding",
        field=place,
        fix="store arguments and tools as JSON text in the table, or give the tools of the row with types",
    )


def _list(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:10]) + (f" and {len(distinct) - 10} more" if len(distinct) > 10 else "")
