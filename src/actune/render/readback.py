"""Is what was read of a completion the message that it was written from?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actune.core.schema import find_properties
from actune.core.types import Message, ToolCall, ToolSpec


def find_difference(read: Message, want: Message, tools: Sequence[ToolSpec]) -> tuple[str, str] | None:
    """Return (which field, what was read) where two messages differ, None where they are equal.

    Blanks at the edges of texts do not count, which templates trim; nor do ids that the text does not show. A null that
    is missing or written as None is equal where the schema of the tool allows null.
    """
    if len(read.tool_calls) != len(want.tool_calls):
        return "tool_calls", f"{len(read.tool_calls)} calls instead of {len(want.tool_calls)}"
    for number, (got, call) in enumerate(zip(read.tool_calls, want.tool_calls, strict=True)):
        if got.name != call.name:
            return f"tool_calls[{number}].name", f"the name {_shorten(got.name)}"
        if got.id is not None and call.id is not None and got.id != call.id:
            return f"tool_calls[{number}].id", f"the id {_shorten(got.id)}"
        if not same_arguments(got, call, tools):
            return f"tool_calls[{number}].arguments", f"the arguments {_shorten(got.arguments)}"
    if read.reasoning.strip() != want.reasoning.strip():
        return "reasoning", f"the reasoning {_shorten(read.reasoning)}"
    if read.content.strip() != want.content.strip():
        return "content", f"the text {_shorten(read.content)}"
    return None


def same_arguments(read: ToolCall, want: ToolCall, tools: Sequence[ToolSpec]) -> bool:
    """Return whether the arguments of two calls are equal; true is not 1, 1 is not 1.0, and the order of keys is nothing.

    Raises:
        DataError: when the arguments of one are no JSON object.
    """
    if read.arguments == want.arguments:
        return True
    first, second = read.parse_arguments(), want.parse_arguments()
    if json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True):
        return True
    schema = next((tool.parameters for tool in tools if tool.name == want.name), {})
    lean = [_drop_nulls(arguments, schema) for arguments in (first, second)]
    return json.dumps(lean[0], sort_keys=True) == json.dumps(lean[1], sort_keys=True)


def allows_null(schema: Mapping[str, Any], key: str) -> bool:
    """Return whether a JSON Schema allows null for one of its properties; one that says nothing of its type does."""
    entry = find_properties(schema).get(key)
    return isinstance(entry, Mapping) and _takes_null(entry)


def _takes_null(entry: Mapping[str, Any]) -> bool:
    kinds = entry.get("type")
    options = entry.get("anyOf") or entry.get("oneOf") or ()
    if entry.get("nullable") is True or any(isinstance(option, Mapping) and _takes_null(option) for option in options):
        return True
    values = entry.get("enum")
    if isinstance(values, (list, tuple)):
        return None in values
    if kinds is None:
        return not options and "const" not in entry and "$ref" not in entry and "allOf" not in entry
    return "null" in kinds if isinstance(kinds, (list, tuple)) else kinds == "null"


def _drop_nulls(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None or not allows_null(schema, key)}


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
