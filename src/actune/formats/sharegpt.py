"""`sharegpt`: `conversations` of human/gpt/function_call/observation, `tools`, and `system` as a key or first turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, read_flags, read_items, read_role, read_system_key, read_text, speakers
from actune.formats.speech import append_calls
from actune.formats.tools import read_tools

_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "function_call": "call", "observation": "tool", "tool": "tool",
}  # fmt: skip
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
        message = Message(role=role, content=text, train=train, weight=weight)  # pyrefly: ignore[bad-argument-type]
        placed.append(Placed(message, place))
    return assemble(placed, row, source, tools=tools, repairs=repairs)
