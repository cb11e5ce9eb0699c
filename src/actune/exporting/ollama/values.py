"""A conversation as Ollama hands it to a template; read from its `template/template.go` and `api/types.go` (2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actune.core.types import Message, ToolSpec
from actune.exporting.ollama.nodes import Struct


def to_values(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> dict[str, Any]:
    """Return what a template sees: `.System`, `.Messages` (neighbours of one role joined), `.Tools`."""
    collated: list[dict[str, Any]] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message.role and message.role != "tool":
            collated[-1]["Content"] += "\n\n" + message.content
            continue
        calls = [
            Struct(ID=call.id or "", Function=Struct(Index=number, Name=call.name, Arguments=call.parse_arguments()))
            for number, call in enumerate(message.tool_calls)
        ]
        collated.append(
            Struct(
                Role=message.role,
                Content=message.content,
                Thinking=message.reasoning,
                ToolCalls=calls,
                ToolName=message.name or "",
                ToolCallID=message.tool_call_id or "",
            )
        )
    return {
        "System": "\n\n".join(message.content for message in messages if message.role == "system"),
        "Messages": collated,
        "Tools": [_to_tool(tool.describe()) for tool in tools],
        "Response": "",
        "Think": False,
        "IsThinkSet": False,
    }


def _to_tool(described: Mapping[str, Any]) -> Struct:
    """Return a tool under the names of Go's fields; keys of the schema that Ollama does not know are lost."""
    function = described["function"]
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    return Struct(
        Type=described.get("type", "function"),
        Function=Struct(
            Name=function.get("name", ""),
            Description=function.get("description", ""),
            Parameters=Struct(
                Type=parameters.get("type", ""),
                Required=list(parameters.get("required") or ()),
                Properties={name: _to_property(one) for name, one in properties.items()},
            ),
        ),
    )


def _to_property(schema: Any) -> Struct:  # noqa: ANN401 - a JSON Schema is any JSON value
    given = schema if isinstance(schema, Mapping) else {}
    return Struct(
        Type=given.get("type", ""),
        Items=given.get("items"),
        Description=given.get("description", ""),
        Enum=list(given.get("enum") or ()),
    )
