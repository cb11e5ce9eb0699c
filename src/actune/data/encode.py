"""Conversations -> token trees for a run: checks, over-long rows, and the count of everything left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation
from actune.data.checks import Finding, find_problems
from actune.data.sources import Quarantined
from actune.render.encoder import Encoder, merge_turns
from actune.render.tree import TokenTree

Truncation = Literal["delete", "turns", "error"]
Strategy = Literal["none", "discard", "error", "warning"]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one source: rows that are trained, their tokens, and what is not trained and why."""

    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    over_long: int = 0
    quarantined: int = 0
    shortened: int = 0
    warnings: int = 0


@dataclass(slots=True, kw_only=True)
class Encoded:
    """The trees of a set of conversations, in their order, with everything that was left out."""

    trees: list[TokenTree] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    warnings: list[tuple[Conversation, Finding]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def tally(self, dataset: str) -> Tally:
        """Return the counts of one source, made on first use."""
        return self.tallies.setdefault(dataset, Tally())


def encode_rows(
    conversations: Sequence[Conversation],
    encoder: Encoder,
    *,
    max_length: int,
    truncation: Truncation,
    strategy: Strategy,
    advance: Callable[[], None] = lambda: None,
) -> Encoded:
    """Encode rows; a row drawn several times is encoded once and counted each time.

    `max_length` counts the tokens of the longest prompt + completion of a row (-1: no limit). Rows with errors are
    left out and listed, never repaired; `advance` is called after each row.

    Raises:
        DataError: with strategy or truncation `error`, at the first row concerned.
    """
    result = Encoded()
    done: dict[int, TokenTree | Quarantined | None] = {}
    for conversation in conversations:
        key = id(conversation)
        if key not in done:
            done[key] = _encode_row(conversation, encoder, result, max_length, truncation, strategy)
        _count(result, conversation, done[key])
        advance()
    return result


def _count(result: Encoded, conversation: Conversation, outcome: TokenTree | Quarantined | None) -> None:
    tally = result.tally(conversation.source.dataset)
    if isinstance(outcome, TokenTree):
        result.trees.append(outcome)
        tally.rows += 1
        tally.tokens += len(outcome)
        tally.supervised += len(outcome.target_ids)
    elif isinstance(outcome, Quarantined):
        result.quarantined.append(outcome)
        tally.quarantined += outcome.code != "over-long"
        tally.over_long += outcome.code == "over-long"


def _encode_row(
    conversation: Conversation,
    encoder: Encoder,
    result: Encoded,
    max_length: int,
    truncation: Truncation,
    strategy: Strategy,
) -> TokenTree | Quarantined | None:
    findings = [] if strategy == "none" else find_problems(conversation)
    fatal = [f for f in findings if f.level == "error" or strategy == "discard"]
    if fatal or (findings and strategy == "error"):
        first = (fatal or findings)[0]
        return _leave_out(conversation, first.code, first.message, first.field, first.fix, stop=strategy == "error")
    result.warnings.extend((conversation, finding) for finding in findings)
    result.tally(conversation.source.dataset).warnings += len(findings)
    try:
        row = encoder.encode_row(conversation)
        tree = merge_turns(row.turns, conversation.source)
    except (DataError, RenderError) as error:
        return _leave_out(conversation, error.code, error.message, error.field, error.fix, stop=strategy == "error")
    allowed = [
        Finding(level="warning", code=loss.code, field=loss.field, message=loss.message, fix=loss.fix)
        for loss in row.allowed
    ]
    result.warnings.extend((conversation, finding) for finding in allowed)
    result.tally(conversation.source.dataset).warnings += len(allowed)
    if max_length < 0 or longest(tree) <= max_length:
        return tree
    if truncation == "turns":
        shorter = _drop_turns(conversation, encoder, max_length)
        if shorter is not None:
            result.tally(conversation.source.dataset).shortened += 1
            return shorter
    return _leave_out(
        conversation,
        "over-long",
        f"{longest(tree)} tokens, more than max_length {max_length}",
        None,
        "raise --max_length, use --truncation_strategy turns, or shorten the row",
        stop=truncation == "error",
    )


def longest(tree: TokenTree) -> int:
    """Return the tokens of a tree's longest sequence."""
    return int(tree.positions.max()) + 1 if len(tree) else 0


def _drop_turns(conversation: Conversation, encoder: Encoder, max_length: int) -> TokenTree | None:
    """Drop the oldest whole turns (a user text and all up to the next one) until the row fits; None if it never does."""
    messages = conversation.messages
    head = 1 if messages and messages[0].role == "system" else 0
    starts = [index for index in range(head, len(messages)) if messages[index].role == "user"]
    for start in starts[1:]:
        shorter = dataclasses.replace(conversation, messages=messages[:head] + messages[start:])
        try:
            tree = encoder.encode(shorter)
        except (DataError, RenderError):
            continue
        if longest(tree) <= max_length:
            return tree
    return None


def _leave_out(
    conversation: Conversation, code: str, message: str, where: str | None, fix: str | None, *, stop: bool
) -> Quarantined:
    item = Quarantined(source=conversation.source, code=code, message=message, field=where, fix=fix)
    if stop:
        raise DataError(f"{item.source}: {item.reason}", code=code, field=where, fix=fix)
    return item
