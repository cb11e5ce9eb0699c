"""Tool lists and tool calls of raw rows: one shape out of the several that data sets use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from actune.core.api_list import schema_of_list
from actune.core.errors import DataError
from actune.core.json_text import DuplicateKeyError, NotJsonError, read_json, write_json
from actune.core.types import ToolCall, ToolSpec
from actune.formats.fields import kind, shorten

# Type names that some data sets write for JSON Schema's own; mapped only in schemas that are not readable as they are.
_TYPES = {
    "dict": "object", "map": "object", "str": "string", "text": "string", "int": "integer", "float": "number",
    "double": "number", "bool": "boolean", "list": "array", "tuple": "array",
}  # fmt: skip
_EXAMPLE = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {"type": "object", ...}}}'


def read_tools(value: object, field: str, repairs: list[str]) -> tuple[ToolSpec, ...]:
    """Return the tools of a row: a list of objects, or that list as JSON text; absent or "" is no tools.

    Appends to `repairs` what had to be mended.

    Raises:
        DataError: code `tools-unreadable`, `tool-name`, `tool-parameters` or `tool-duplicate`.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        tools, mended = _read_tools_text(value, field)
        repairs.extend(mended)
        return tools
    return _read_list(value, field, repairs)


@lru_cache(maxsize=256)  # the same list tends to repeat in every row
def _read_tools_text(text: str, field: str) -> tuple[tuple[ToolSpec, ...], tuple[str, ...]]:
    if not text.strip():
        return (), ()
    repairs: list[str] = []
    try:
        value = read_json(text)
    except (ValueError, RecursionError) as error:
        raise _fault(f"{field} is no JSON: {error}", _code(error, "tools-unreadable"), field) from None
    tools = () if value is None else _read_list(value, field, repairs)
    return tools, tuple(repairs)


def _read_list(value: object, field: str, repairs: list[str]) -> tuple[ToolSpec, ...]:
    if not isinstance(value, (list, tuple)):
        raise _fault(f"{field} is {kind(value)}, not a list", "tools-unreadable", field)
    tools = tuple(_read_tool(item, f"{field}[{index}]", repairs) for index, item in enumerate(value))
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise _fault(f"{field}: the tool {tool.name!r} stands twice", "tool-duplicate", f"{field}[{index}]")
        seen.add(tool.name)
    return tools


def _read_tool(item: object, field: str, repairs: list[str]) -> ToolSpec:
    if isinstance(item, Mapping) and item.get("function") is not None:
        function, field = item["function"], f"{field}.function"
    else:
        function = item
    if not isinstance(function, Mapping):
        raise _fault(f"{field} is {kind(function)}, not an object", "tools-unreadable", field)
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not name.strip():
        raise _fault(f"{field}.name is {name!r}; a name is needed", "tool-name", f"{field}.name")
    if description is not None and not isinstance(description, str):
        raise _fault(f"{field}.description is {kind(description)}", "tools-unreadable", f"{field}.description")
    given = function.get("parameters")
    if isinstance(given, (list, tuple)) and all(
        isinstance(x, Mapping) and isinstance(x.get("name"), str) for x in given
    ):
        listed = tuple(given)
        return ToolSpec(
            name=name, description=description or "", parameters=schema_of_list(listed), parameter_list=listed
        )
    schema = _read_schema(given, function.get("required"), name, f"{field}.parameters", repairs)
    tool = ToolSpec(name=name, description=description or "", parameters=schema)
    same = json.dumps(tool.describe()["function"]) == json.dumps(function)
    return tool if same else replace(tool, source=dict(function))


def _read_schema(given: object, required: object, name: str, field: str, repairs: list[str]) -> Mapping[str, Any]:
    if given is None or given == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(given, Mapping):
        raise _fault(f"{field} is {kind(given)}, not a JSON Schema", "tool-parameters", field)
    schema: dict[str, Any] = dict(given)
    declared = schema.get("type")
    if declared is None:
        schema = {"type": "object"} | {key: value for key, value in schema.items() if key != "type"}
        repairs.append(f"tool {name}: parameters without a type read as an object")
    elif isinstance(declared, str) and _TYPES.get(declared.lower()) == "object":
        schema = _rename_types(schema)
        repairs.append(f"tool {name}: parameters of type {declared!r} read as JSON Schema")
    elif declared != "object":
        raise _fault(f"{field}.type is {declared!r}; it has to be 'object'", "tool-parameters", f"{field}.type")
    if isinstance(required, (list, tuple)) and "required" not in schema:
        schema["required"] = list(required)
        repairs.append(f"tool {name}: 'required' beside the parameters moved into them")
    return schema


def _rename_types(schema: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(schema, list):
        return [_rename_types(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    renamed = {key: _rename_types(value) for key, value in schema.items()}
    declared = renamed.get("type")
    if isinstance(declared, str):  # a property that is itself called "type" is an object here, not a string
        renamed["type"] = _TYPES.get(declared.lower(), declared)
    return renamed


def _fault(what: str, code: str, field: str) -> DataError:
    return DataError(what, code=code, field=field, fix=f"write each tool as {_EXAMPLE}")


# --- calls ------------------------------------------------------------------------------------------------------------


def read_calls(value: object, field: str, repairs: list[str]) -> tuple[ToolCall, ...]:
    """Return the calls in a value: one object or a list (parallel calls), or either as JSON text.

    A call is `{"id", "function": {"name", "arguments"}}` or bare `{"name", "arguments"}`. Arguments that are an object
    become JSON text; a string is kept byte for byte.

    Raises:
        DataError: code `call-unreadable`, `call-name` or `arguments-unreadable`.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except (ValueError, RecursionError) as error:
            what = f"{field} is no JSON ({error}): {shorten(str(value))}"
            raise _call_fault(what, _code(error, "call-unreadable"), field) from None
    if isinstance(value, Mapping):
        return (_read_call(value, field, repairs),)
    if not isinstance(value, (list, tuple)) or not value:
        raise _call_fault(f"{field} holds no call: {kind(value)}", "call-unreadable", field)
    return tuple(_read_call(item, f"{field}[{index}]", repairs) for index, item in enumerate(value))


def _read_call(item: object, field: str, repairs: list[str]) -> ToolCall:
    inner = item.get("function") if isinstance(item, Mapping) else None
    function = item if inner is None else inner
    if not isinstance(item, Mapping) or not isinstance(function, Mapping):
        raise _call_fault(f"{field} is {kind(function)}, not a call", "call-unreadable", field)
    place = field if function is item else f"{field}.function"
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _call_fault(f"{place}.name is {name!r}; the name of a tool is needed", "call-name", f"{place}.name")
    given = item.get("id")
    call_id = str(given) if isinstance(given, (str, int)) and given != "" else None
    arguments = _read_arguments(function.get("arguments"), f"{place}.arguments", repairs)
    call = ToolCall(name=name, arguments=arguments, id=call_id)
    try:
        call.parse_arguments()
    except DataError as error:
        if error.code != "arguments-encoded-twice":  # which `actune check --fix` can undo, once the row is read
            raise DataError(error.message, code=error.code, field=f"{place}.arguments", fix=error.fix) from None
    return call


def _read_arguments(value: object, field: str, repairs: list[str]) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if value is None or isinstance(value, str):
        repairs.append(f"{field}: no arguments, read as {{}}")
        return "{}"
    if isinstance(value, Mapping):
        try:
            return write_json(value)
        except (TypeError, ValueError) as error:
            what = f"{field} holds what JSON does not have: {error}"
            raise _call_fault(what, "arguments-unreadable", field) from None
    raise _call_fault(f"{field} is {kind(value)}; a JSON object or its text is needed", "arguments-unreadable", field)


def _code(error: Exception, otherwise: str) -> str:
    """Return the code of JSON text that cannot be read."""
    if isinstance(error, DuplicateKeyError):
        return "json-duplicate-key"
    return "json-number" if isinstance(error, NotJsonError) else otherwise


def _call_fault(what: str, code: str, field: str) -> DataError:
    return DataError(what, code=code, field=field, fix='write a call as {"name": "get_weather", "arguments": {...}}')
