"""`alpaca`: instruction, input, output, system, history; the user's text is the instruction, then the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.types import Conversation, Source
from actune.formats.fields import read_optional_text
from actune.formats.pairs import read_pairs, write_pairs

CALLS_AS_TEXT = True


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has the keys `instruction` and `output`."""
    return "instruction" in row and "output" in row


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; instruction and input are joined by a line break.

    Raises:
        DataError: what is wrong, with the key concerned.
    """
    parts = (read_optional_text(row, "instruction"), read_optional_text(row, "input"))
    question = "\n".join(part for part in parts if part)
    return read_pairs(row, source, question=question, question_key="instruction", answer_key="output")


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row; the whole question is the instruction.

    Raises:
        DataError: code `format-cannot-hold`; see `write_pairs`.
    """
    return write_pairs(conversation, question_key="instruction", answer_key="output")
