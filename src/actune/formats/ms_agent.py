"""`ms-agent`: `conversations` of from/value; ReAct text with the Observation inside the assistant value.

The system value holds the API list. Written back, an accepted row is byte-identical to its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actune.core import conversion
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import CALL_LINE, assemble
from actune.formats.fields import Placed, read_flags, read_items, read_role, read_text, speakers, write_flags

CALLS_AS_TEXT = True
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `conversations` of two speakers and a system, no tool list beside it."""
    found = speakers(row, "conversations", "from")
    return bool(found) and found <= _ROLES.keys() and not row.get("tools")


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; with an API list in its system text, style "react", else plain chat.

    Raises:
        DataError: what is wrong; `tools-missing` for ReAct text without an API list, `unknown-tool` for a call to a
            tool that is not in the list, and the codes of the grammar (`action-without-input` ...).
    """
    placed: list[Placed] = []
    for index, item in enumerate(read_items(row, "conversations")):
        place = f"conversations[{index}]"
        role = read_role(item, "from", place, _ROLES)
        text = read_text(item.get("value"), f"{place}.value")
        train, weight = read_flags(item, place, assistant=role == "assistant")
        if role == "assistant" and placed and placed[-1].message.role == "assistant":
            raise DataError(
                f"{place} is a second assistant turn in a row",
                code="assistant-twice",
                field=place,
                fix="join the two values, or put the user's turn between them",
            )
        message = Message(role=role, content=text, train=train, weight=weight)  # pyrefly: ignore[bad-argument-type]
        placed.append(Placed(message, place))
    return assemble(placed, row, source, exact=True)


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, conversations}`; tools and calls become ReAct text in the normal layout.

    Raises:
        DataError: code `react-reasoning`, `react-speaker`, `react-two-answers`, and those of `to_react` and `flatten`,
            when this format cannot hold the conversation.
    """
    if conversation.tools and conversation.style == "chat":
        conversation = conversion.to_react(conversation, "react")
    messages = conversion.flatten(conversation).messages
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if not conversation.tools:
            _check_plain(messages, index)
        if message.name is not None:
            raise DataError(
                f"a message is named {message.name!r}; this format has no names",
                code="react-speaker",
                field=f"messages[{index}].name",
                fix="remove the name, or write the conversation as openai",
            )
        item: dict[str, Any] = {"from": message.role, "value": message.content}
        items.append(item | write_flags(message))
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    return row | {"conversations": items}


def _check_plain(messages: Sequence[Message], index: int) -> None:
    """Refuse what a row without tools would not be read back with."""
    message = messages[index]
    if message.role != "assistant":
        return
    place = f"messages[{index}]"
    if message.reasoning:
        raise DataError(
            "reasoning in a conversation without tools, which this format cannot hold",
            code="react-reasoning",
            field=f"{place}.reasoning_content",
            fix="write the conversation as openai",
        )
    if index and messages[index - 1].role == "assistant":
        raise DataError(
            f"{place} is a second answer in a row, which this format cannot hold",
            code="react-two-answers",
            field=place,
            fix="join the two messages, or put the user's turn between them",
        )
    if CALL_LINE.search(message.content):
        raise DataError(
            f"{place} has a line that begins with 'Action:' in a row without tools; it would be read as a call",
            code="react-marker-in-text",
            field=f"{place}.content",
            fix="add the tools to the row, or write the conversation as openai",
        )
