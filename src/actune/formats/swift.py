"""`swift`: `messages` in which calls and results have roles of their own (`tool_call`, `tool_response`), `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, read_items, read_system_key, read_text, speakers
from actune.formats.openai import read_message
from actune.formats.speech import append_calls
from actune.formats.tools import read_tools

_PLAIN = {"system", "developer", "user", "assistant", "tool", "function"}
_RESULTS = {"tool_response", "observation"}
_CALLS = {"tool_call", "function_call"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `messages` of plain roles, tool_call and tool_response."""
    roles = speakers(row, "messages", "role")
    return bool(roles) and roles <= _PLAIN | _CALLS | _RESULTS


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; messages of plain roles are read as in the openai format.

    Raises:
        DataError: what is wrong, with the place in the row (`messages[2].content`).
    """
    repairs: list[str] = []
    tools = read_tools(row.get("tools"), "tools", repairs)
    placed = read_system_key(row)
    for index, item in enumerate(read_items(row, "messages")):
        place = f"messages[{index}]"
        role = str(item.get("role"))
        if role in _CALLS:
            append_calls(placed, item, "content", place, repairs)
        elif role in _RESULTS:
            text = read_text(item.get("content"), f"{place}.content")
            call_id = item.get("tool_call_id")
            result = Message(role="tool", content=text, tool_call_id=None if call_id is None else str(call_id))
            placed.append(Placed(result, place))
        else:
            placed.append(Placed(read_message(item, place, repairs), place))
    return assemble(placed, row, source, tools=tools, repairs=repairs)
