"""Conversations -> token trees: what a row becomes, whatever a run decides about it, and then that decision.

`encode_row` is a function of the row, the encoder and what is to be done with over-long rows, so its result can be kept.
`judge` applies the strategy and the maximum length of a run; `Tally` counts what became of the rows of a source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actune.core.errors import DataError, RenderError
from actune.core.turns import find_first, keep_part, turn_starts
from actune.core.types import Conversation, Source
from actune.data.checks.rules import Finding, find_problems
from actune.data.reading.sources import Quarantined
from actune.render.encoder import EncodedTurn, Encoder, merge_turns
from actune.render.tree import TokenTree

Truncation = Literal["delete", "turns", "windows", "error"]
Strategy = Literal["none", "discard", "error", "warning"]
OVER_LONG = "over-long"


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one source: rows that are trained, their tokens, and what is not trained and why.

    `windows` counts what `rows` are trained as: more than the rows where some were split. `parts` counts pieces of
    trained rows that are left out.
    """

    rows: int = 0
    windows: int = 0
    tokens: int = 0
    supervised: int = 0
    over_long: int = 0
    quarantined: int = 0
    shortened: int = 0
    parts: int = 0
    warnings: int = 0

    def add_trees(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Count a row that is trained as trees of (tokens, supervised tokens)."""
        self.rows += 1
        self.windows += len(sizes)
        self.tokens += sum(tokens for tokens, _ in sizes)
        self.supervised += sum(supervised for _, supervised in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a row becomes: its trees, or the error that leaves it without any.

    `sizes` are the tokens and supervised tokens of each tree; kept outcomes have them without the trees.
    `findings` are those of the row itself, `allowed` the losses that do not stop it. `length` is the number of tokens of
    its longest sequence before anything was cut; `shortened` says that something was. `parts` are what was left out of
    a row that is otherwise there.
    """

    findings: tuple[Finding, ...] = ()
    allowed: tuple[Finding, ...] = ()
    trees: tuple[TokenTree, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    length: int = 0
    shortened: bool = False
    parts: tuple[Quarantined, ...] = ()
    error: Quarantined | None = None


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of rows: those left out with their reasons, what has to be said of the others, and the counts."""

    quarantined: list[Quarantined] = field(default_factory=list)
    warnings: list[tuple[Source, Finding]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def tally(self, dataset: str) -> Tally:
        """Return the counts of one source, made on first use."""
        found = self.tallies.get(dataset)
        if found is None:
            found = self.tallies[dataset] = Tally()
        return found

    def add(
        self, source: Source, outcome: Outcome, *, max_length: int, truncation: Truncation, strategy: Strategy
    ) -> bool:
        """Count one row; return whether it is trained.

        Raises:
            DataError: as for `judge`.
        """
        tally = self.tally(source.dataset)
        left_out = judge(outcome, source, max_length=max_length, truncation=truncation, strategy=strategy)
        if left_out is not None:
            self.quarantined.append(left_out)
            tally.quarantined += left_out.code != OVER_LONG
            tally.over_long += left_out.code == OVER_LONG
            return False
        warnings = (*(() if strategy == "none" else outcome.findings), *outcome.allowed)
        self.warnings.extend((source, finding) for finding in warnings)
        self.quarantined.extend(outcome.parts)
        tally.warnings += len(warnings)
        tally.parts += len(outcome.parts)
        tally.shortened += outcome.shortened
        tally.add_trees(outcome.sizes)
        return True


@dataclass(slots=True, kw_only=True)
class Encoded(Account):
    """The trees of a set of conversations, in their order, with everything that was left out."""

    trees: list[TokenTree] = field(default_factory=list)


def encode_rows(
    conversations: Sequence[Conversation],
    encoder: Encoder,
    *,
    max_length: int,
    truncation: Truncation,
    strategy: Strategy,
    advance: Callable[[], None] = lambda: None,
) -> Encoded:
    """Encode rows in this process; a row drawn several times is encoded once and counted each time.

    `max_length` counts the tokens of the longest prompt + completion of a row (-1: no limit). Rows with errors are
    left out and listed, never repaired; `advance` is called after each row.

    Raises:
        DataError: with strategy or truncation `error`, at the first row concerned.
    """
    result = Encoded()
    done: dict[int, Outcome] = {}
    for conversation in conversations:
        outcome = done.get(id(conversation))
        if outcome is None:
            outcome = encode_row(conversation, encoder, max_length=max_length, truncation=truncation)
            done[id(conversation)] = outcome
        source = conversation.source
        if result.add(source, outcome, max_length=max_length, truncation=truncation, strategy=strategy):
            result.trees.extend(outcome.trees)
        advance()
    return result


def encode_row(conversation: Conversation, encoder: Encoder, *, max_length: int, truncation: Truncation) -> Outcome:
    """Return what a row becomes; `max_length` is looked at only where over-long rows are cut."""
    findings = tuple(find_problems(conversation))
    source = conversation.source
    try:
        row = encoder.encode_row(conversation)
        tree = merge_turns(row.turns, source)
    except (DataError, RenderError) as error:
        return Outcome(findings=findings, error=Quarantined.of(source, error))
    allowed = tuple(
        Finding(level="warning", code=loss.code, field=loss.field, message=loss.message, fix=loss.fix)
        for loss in row.allowed
    )
    length = longest(tree)
    whole = Outcome(findings=findings, allowed=allowed, trees=(tree,), sizes=_sizes((tree,)), length=length)
    if max_length < 0 or length <= max_length or truncation in ("delete", "error"):
        return whole
    cut = _drop_turns if truncation == "turns" else _split
    trees, parts = cut(conversation, encoder, max_length)
    if not trees:
        return whole
    return dataclasses.replace(whole, trees=trees, sizes=_sizes(trees), parts=parts, shortened=True)


def _sizes(trees: Sequence[TokenTree]) -> tuple[tuple[int, int], ...]:
    return tuple((len(tree), len(tree.target_ids)) for tree in trees)


def judge(
    outcome: Outcome, source: Source, *, max_length: int, truncation: Truncation, strategy: Strategy
) -> Quarantined | None:
    """Return why a row is left out of a run; None where it is trained.

    Raises:
        DataError: with strategy or truncation `error`, where the row is left out.
    """
    found = None
    if strategy != "none":
        fatal = [f for f in outcome.findings if f.level == "error" or strategy == "discard"]
        first = next(iter(fatal or (outcome.findings if strategy == "error" else ())), None)
        if first is not None:
            found = Quarantined(source=source, code=first.code, message=first.message, field=first.field, fix=first.fix)
    found = found or outcome.error
    if found is None and not outcome.shortened and 0 <= max_length < outcome.length:
        found = Quarantined(
            source=source,
            code=OVER_LONG,
            message=f"{outcome.length} tokens, more than max_length {max_length}",
            fix="raise --max_length, use --truncation_strategy turns or windows, or shorten the row",
        )
    stopping = strategy == "error" or (truncation == "error" and found is not None and found.code == OVER_LONG)
    if found is not None and stopping:
        raise DataError(f"{found.source}: {found.reason}", code=found.code, field=found.field, fix=found.fix)
    return found


def longest(tree: TokenTree) -> int:
    """Return the tokens of a tree's longest sequence."""
    return int(tree.positions.max()) + 1 if len(tree) else 0


# --- over-long rows ---------------------------------------------------------------------------------------------------

_Cut = tuple[tuple[TokenTree, ...], tuple[Quarantined, ...]]


def _drop_turns(conversation: Conversation, encoder: Encoder, max_length: int) -> _Cut:
    """Drop the oldest whole turns (a user text and all up to the next one) until the row fits; nothing if it never does."""
    end = len(conversation.messages)

    def fit(start: int) -> Sequence[EncodedTurn] | None:
        length, turns = _encode_part(conversation, encoder, start, end)
        return turns if length <= max_length else None

    found = find_first(turn_starts(conversation.messages)[1:], fit)
    tree = None if found is None else _tree_of(found[1], conversation)
    return ((tree,), ()) if tree is not None else ((), ())


def _split(conversation: Conversation, encoder: Encoder, max_length: int) -> _Cut:
    """Split a row at the borders of turns into as few windows as fit, each with the system text and the tools.

    Every answer is trained in exactly one window; a turn that does not fit alone is left out and listed.
    """
    starts = turn_starts(conversation.messages)
    borders = [*starts, len(conversation.messages)]
    trees: list[TokenTree] = []
    parts: list[Quarantined] = []
    first = 0
    while first < len(starts):
        low, high = first, len(starts)  # turns first..low fit
        best: Sequence[EncodedTurn] = ()
        while low < high:
            middle = (low + high + 1) // 2
            length, turns = _encode_part(conversation, encoder, borders[first], borders[middle])
            if length <= max_length:
                best, low = turns, middle
            else:
                high = middle - 1
        tree = _tree_of(best, conversation)
        if tree is not None:
            trees.append(tree)
        if low == first and _is_trained(conversation, borders[first], borders[first + 1]):
            parts.append(_part_left_out(conversation, borders[first], max_length))
        first = max(low, first + 1)
    return (tuple(trees), tuple(parts)) if trees else ((), ())


def _encode_part(
    conversation: Conversation, encoder: Encoder, start: int, end: int
) -> tuple[float, Sequence[EncodedTurn]]:
    """Return the length of some messages after the system text, and their turns; infinite where a template refuses them."""
    part = dataclasses.replace(conversation, messages=keep_part(conversation.messages, start, end))
    try:
        turns = encoder.encode_row(part).turns
    except (DataError, RenderError):
        return math.inf, ()
    return max((len(turn.ids) for turn in turns), default=0), turns


def _tree_of(turns: Sequence[EncodedTurn], conversation: Conversation) -> TokenTree | None:
    """Return the tree of turns; None where none of them is trained."""
    return merge_turns(turns, conversation.source) if any(turn.is_trained() for turn in turns) else None


def _is_trained(conversation: Conversation, start: int, end: int) -> bool:
    return any(m.role == "assistant" and m.train and m.weight > 0 for m in conversation.messages[start:end])


def _part_left_out(conversation: Conversation, start: int, max_length: int) -> Quarantined:
    return Quarantined(
        source=conversation.source,
        code="turn-over-long",
        message=f"the turn at messages[{start}] has more than max_length {max_length} tokens by itself; "
        "the other turns of the row are trained",
        field=f"messages[{start}]",
        fix="raise --max_length, or shorten the turn",
    )
