"""`text`: plain text, `{"text": ...}` or a line of a .txt file; no turn of a chat, so nothing of it is trained.

The text is one assistant message with `train` false: an agent is never asked for it. What it is good for is measuring how
the likelihood of ordinary text changes (`nll` tasks of `actune eval`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source
from actune.formats.fields import cannot_hold, read_id, read_text

_OTHER = {"messages", "conversations", "query", "response", "instruction", "output"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has a string under `text`, and none of the keys that conversations stand under."""
    return isinstance(row.get("text"), str) and not row.keys() & _OTHER


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation of one message that is not trained.

    Raises:
        DataError: code `content-missing` or `content-type`; `answer-empty` for a blank text.
    """
    if row.get("text") is None:
        raise DataError("'text' is missing", code="content-missing", field="text", fix="fill it in or remove the row")
    text = read_text(row["text"], "text")
    if not text.strip():
        raise DataError("'text' is blank", code="answer-empty", field="text", fix="fill it in or remove the row")
    return Conversation(
        messages=(Message(role="assistant", content=text, train=False),), source=source, id=read_id(row)
    )


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a plain text as a row `{id?, text}`.

    Raises:
        DataError: code `format-cannot-hold` for anything that is a conversation.
    """
    fix = "write the row as openai"
    if not is_plain_text(conversation):
        raise cannot_hold("a conversation", "messages", fix)
    message = conversation.messages[0]
    if message.weight != 1:
        raise cannot_hold("a training weight", "messages[0].weight", fix)
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    return row | {"text": message.content}


def is_plain_text(conversation: Conversation) -> bool:
    """Whether a conversation is a text that no one asked for: one message of the assistant, not trained."""
    if len(conversation.messages) != 1 or conversation.tools:
        return False
    message = conversation.messages[0]
    plain = message.role == "assistant" and not message.train
    return plain and not (message.reasoning or message.tool_calls or message.name)
