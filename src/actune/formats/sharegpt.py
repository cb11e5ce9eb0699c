"""`sharegpt`: `conversations` of human/gpt/function_call/observation, `tools`, and `system` as a key or first turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import (
    Placed,
    cannot_hold,
    read_flags,
    read_items,
    read_optional_text,
    read_role,
    read_system_key,
    read_text,
    speakers,
    write_flags,
)
from actune.formats.speech import REASONING, append_calls, write_call_texts
from actune.formats.tools import read_tools

_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "function_call": "call", "observation": "tool", "tool": "tool",
}  # fmt: skip
_WRITTEN = {"system": "system", "user": "human", "tool": "observation"}
_OWN = {"function_call", "observation", "tool"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: human/gpt turns, or tools and calls; ReAct instructions belong to ms-agent."""
    found = speakers(row, "conversations", "from")
    if not found or not found <= _ROLES.keys():
        return False
    if row.get("tools") or found & _OWN:
        return True
    system = next((str(item.get("value")) for item in row["conversations"] if item["from"] == "system"), "")
    return not found & {"user", "assistant"} and "\nAction Input:" not in system


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DataError: what is wrong, with the place in the row (`conversations[2].value`).
    """
    repairs: list[str] = []
    tools = read_tools(row.get("tools"), "tools", repairs)
    placed = read_system_key(row)
    for index, item in enumerate(read_items(row, "conversations")):
        place = f"conversations[{index}]"
        role = read_role(item, "from", place, _ROLES)
        if role == "call":
            append_calls(placed, item, "value", place, repairs)
            continue
        text = read_text(item.get("value"), f"{place}.value")
        train, weight = read_flags(item, place, assistant=role == "assistant")
        reasoning = read_optional_text(item, REASONING, f"{place}.{REASONING}") if role == "assistant" else ""
        message = Message(role=role, content=text, reasoning=reasoning, train=train, weight=weight)  # pyrefly: ignore[bad-argument-type]
        placed.append(Placed(message, place))
    return assemble(placed, row, source, tools=tools, repairs=repairs)


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, conversations, system?, tools?}`; calls and results pair by their order.

    Several calls of one message are a list; reasoning stands under `reasoning_content`.

    Raises:
        DataError: code `arguments-unreadable`, or `format-cannot-hold` for names of speakers and what
            `write_call_texts` refuses.
    """
    messages = conversation.messages
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    items: list[dict[str, Any]] = []
    system = messages[0].content if messages and messages[0].role == "system" else ""
    for index, message in enumerate(messages):
        if message.name is not None and message.role != "tool":
            raise cannot_hold("a speaker's name", f"messages[{index}].name", "remove it, or write the row as openai")
        if message.role != "assistant":
            if message.role != "system" or not message.content:
                items.append({"from": _WRITTEN[message.role], "value": message.content})
            continue
        calls = write_call_texts(messages, index)
        reasoning = {REASONING: message.reasoning} if message.reasoning else {}
        flags = write_flags(message)
        if message.content or not calls:
            items.append({"from": "gpt", "value": message.content} | reasoning | flags)
            reasoning = {}
        if calls:
            value = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
            items.append({"from": "function_call", "value": value} | reasoning | flags)
    row["conversations"] = items
    row |= {"system": system} if system else {}
    if conversation.tools:
        functions = [tool.describe()["function"] for tool in conversation.tools]
        row["tools"] = json.dumps(functions, ensure_ascii=False)
    return row
