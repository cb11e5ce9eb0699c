"""`swift`: `messages` in which calls and results have roles of their own (`tool_call`, `tool_response`), `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.blocks import is_anthropic
from actune.formats.fields import Placed, cannot_hold, read_items, read_system_key, read_text, speakers, write_flags
from actune.formats.openai import read_message
from actune.formats.speech import REASONING, append_calls, write_call_texts
from actune.formats.tools import read_tools

_PLAIN = {"system", "developer", "user", "assistant", "tool", "function"}
_RESULTS = {"tool_response", "observation"}
_CALLS = {"tool_call", "function_call"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `messages` of plain roles, tool_call and tool_response."""
    roles = speakers(row, "messages", "role")
    return bool(roles) and roles <= _PLAIN | _CALLS | _RESULTS and not is_anthropic(row)


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


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, messages, tools?}`; calls and results pair by their order.

    Each call is a message; several in a row are one answer. Reasoning stands under `reasoning_content`.

    Raises:
        DataError: code `arguments-unreadable`, or `format-cannot-hold` for what `write_call_texts` refuses.
    """
    messages = conversation.messages
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            items.append({"role": "tool_response", "content": message.content})
            continue
        name = {} if message.name is None else {"name": message.name}
        if message.role != "assistant":
            items.append({"role": message.role, "content": message.content} | name)
            continue
        if message.name is not None:
            raise cannot_hold("a speaker's name", f"messages[{index}].name", "remove it, or write the row as openai")
        calls = write_call_texts(messages, index)
        reasoning = {REASONING: message.reasoning} if message.reasoning else {}
        flags = write_flags(message)
        if message.content or not calls:
            items.append({"role": "assistant", "content": message.content} | reasoning | flags)
            reasoning = {}
        for text in calls:
            items.append({"role": "tool_call", "content": text} | reasoning | flags)
            reasoning = {}
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    row["messages"] = items
    if conversation.tools:
        row["tools"] = [tool.describe() for tool in conversation.tools]
    return row
