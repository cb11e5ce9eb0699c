"""`query-response`: query, response, history, system; also identity sets, whose extra keys (`tag`) are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Source
from actune.formats.fields import read_text
from actune.formats.pairs import read_pairs, write_pairs

CALLS_AS_TEXT = True


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has the keys `query` and `response`."""
    return "query" in row and "response" in row


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DataError: what is wrong, with the key concerned.
    """
    question = read_text(row.get("query"), "query")
    return read_pairs(row, source, question=question, question_key="query", answer_key="response")


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row.

    Raises:
        DataError: code `format-cannot-hold`; see `write_pairs`.
    """
    return write_pairs(conversation, question_key="query", answer_key="response")
