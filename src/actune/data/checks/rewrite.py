"""A conversation as a row of a file: written in a format, read back, and the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core import conversion
from actune.core.differences import find_difference
from actune.core.errors import DataError
from actune.core.json_text import read_json, write_json
from actune.core.types import Conversation
from actune.formats import registry

# What the readers of formats look at; all other keys of a row are the user's own.
_READ = frozenset({
    "conversations", "messages", "tools", "functions", "system", "query", "response", "history", "instruction", "input",
    "output", "text",
})  # fmt: skip


def write_row(conversation: Conversation, target: registry.Format) -> dict[str, Any]:
    """Return a conversation as a row that has been read back.

    Raises:
        DataError: what the writer or the reader of the format says; code `format-changes-row` when the row would be
            read back as another conversation.
    """
    assert target.write is not None
    plain = conversation.tools and conversation.style != "chat" and not target.calls_as_text
    row = target.write(conversion.flatten(conversation) if plain else conversation)
    _compare(conversation, row, target)
    return row


def rewrite_row(raw: Mapping[str, Any], conversation: Conversation, target: registry.Format) -> dict[str, Any]:
    """Return a raw row with another conversation in it; keys that are not part of the format stay as they are.

    Raises:
        DataError: as for `write_row`.
    """
    written = write_row(conversation, target)
    row = {key: written.get(key, value) for key, value in raw.items() if key in written or key not in _READ}
    row |= written
    _compare(conversation, row, target)
    return row


def _compare(conversation: Conversation, row: Mapping[str, Any], target: registry.Format) -> None:
    again = registry.read_row(read_json(write_json(row)), conversation.source, target.name)
    place = find_difference(conversation, again)
    if place is not None:
        raise DataError(
            f"written as {target.name}, the row would be read back with another {place}",
            code="format-changes-row",
            field=place,
            fix="write it as openai",
        )
