"""Loss weights that weigh nothing, since no row has such a part."""

from __future__ import annotations

from collections.abc import Sequence

from actune.core.parts import PARTS, read_weights
from actune.core.types import Conversation
from actune.data.store.table import Row

# Rows that are read to find a part of which the table of rows knows nothing; the first has it mostly.
_READ = 500


def find_unused_weights(pairs: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return a sentence for every weight other than 1 whose part no row has.

    Calls are known of every row. Thoughts and answers are looked for in 500 rows spread over all, and the sentence says
    so where that was not all.
    """
    weights = read_weights(pairs)
    if weights.uniform is not None or not rows:
        return []
    weighed = [part for part in PARTS if weights.of(part) != 1]
    called = any(row.calls for row in rows) if {"action", "action_input"} & set(weighed) else True
    notices = [_write(part, "no row calls a tool") for part in weighed if part.startswith("action") and not called]
    sought = [part for part in weighed if part in ("thought", "final_answer")]
    looked_at = list(dict.fromkeys(rows[:: max(1, len(rows) // _READ)]))[:_READ]
    for row in looked_at:
        if not sought:
            break
        found = _parts_of(row.load())
        sought = [part for part in sought if part not in found]
    which = "no row has one" if len(looked_at) == len(set(rows)) else f"none of {len(looked_at)} rows looked at has one"
    return notices + [_write(part, which) for part in sought]


def _write(part: str, why: str) -> str:
    return f"loss_weights {part} has no effect: {why}"


def _parts_of(conversation: Conversation) -> set[str]:
    found: set[str] = set()
    for message in conversation.messages:
        if message.role == "assistant":
            acts = bool(message.tool_calls)
            found |= {"thought"} if message.reasoning or (acts and message.content) else set()
            found |= {"final_answer"} if not acts else set()
    return found
