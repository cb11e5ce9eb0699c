"""The token tree: all (prompt, completion) pairs of a conversation, merged by common prefix."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actune.core.types import Source

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSequence:
    """One training sequence: `ids` = prompt + completion; `weights[i]` is the loss weight of predicting ids[start + i]."""

    ids: Sequence[int]
    start: int
    weights: Sequence[float] | Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Tokens laid out depth first (T tokens, S targets).

    `input_ids` [T], `positions` [T] (depth of the token in its branch), `end` [T] (index after the last token of the
    subtree that starts there): token q sees token k iff k <= q < end[k]. A target says: from the token at
    `target_positions[s]`, predict `target_ids[s]` with weight `target_weights[s]`.
    """

    input_ids: Ints
    positions: Ints
    end: Ints
    target_positions: Ints
    target_ids: Ints
    target_weights: Floats
    source: Source

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def has_branches(self) -> bool:
        """Whether some token is followed by more than one continuation."""
        return len(self.positions) > 0 and int(self.positions[-1]) != len(self.positions) - 1


def build_tree(sequences: Sequence[TrainingSequence], source: Source) -> TokenTree:
    """Merge sequences by common prefix; equal targets at the same place add their weights.

    The tree equals the set of plain sequences: every target sees exactly the tokens before it in its sequence.
    """
    rows = [_as_ints(sequence.ids) for sequence in sequences]
    if _is_chain(sequences, rows):
        return _lay_line(sequences, rows[-1], source)
    root = _Run(np.empty(0, dtype=np.int32))
    ends = [_insert(root, row) for row in rows]
    return _lay_out(root, ends, sequences, rows, source)


def _as_ints(ids: Sequence[int]) -> Ints:
    if isinstance(ids, array) and ids.typecode == "i" and len(ids):
        return np.frombuffer(ids, dtype=np.int32)
    return np.array(ids, dtype=np.int32)


def _is_chain(sequences: Sequence[TrainingSequence], rows: Sequence[Ints]) -> bool:
    """Whether each sequence goes on where the one before it ended, as in a template that keeps history."""
    return len(rows) > 0 and all(
        after.start >= len(row) and len(longer) >= len(row) and bool((longer[: len(row)] == row).all())
        for after, (row, longer) in zip(sequences[1:], pairwise(rows), strict=True)
    )


def _lay_line(sequences: Sequence[TrainingSequence], row: Ints, source: Source) -> TokenTree:
    """The tree of a chain, the common case: one run of tokens."""
    tokens = row.copy()
    weights = np.zeros(len(tokens), dtype=np.float32)
    for sequence in sequences:
        weights[sequence.start : len(sequence.ids)] = sequence.weights
    places = np.flatnonzero(weights > 0).astype(np.int32)
    return TokenTree(
        input_ids=tokens,
        positions=np.arange(len(tokens), dtype=np.int32),
        end=np.full(len(tokens), len(tokens), dtype=np.int32),
        target_positions=places - 1,
        target_ids=tokens[places],
        target_weights=weights[places],
        source=source,
    )


class _Run:
    """Tokens that follow each other without a branch; what goes on from the last one, in order of its coming."""

    __slots__ = ("depth", "next", "place", "tokens", "upper")

    def __init__(self, tokens: Ints, upper: _Run | None = None) -> None:
        self.tokens = tokens
        self.upper = upper
        self.next: dict[int, _Run] = {}  # by first token
        self.place = self.depth = 0


def _insert(root: _Run, row: Ints) -> _Run:
    """Add a sequence; return the run that its last token is in.

    A run that is cut later is still the right answer: its lower part is laid out directly behind it.
    """
    run, at = root, 0
    while at < len(row):
        found = run.next.get(int(row[at]))
        if found is None:
            added = _Run(row[at:], run)
            run.next[int(row[at])] = added
            return added
        size = min(len(found.tokens), len(row) - at)
        differing = np.flatnonzero(found.tokens[:size] != row[at : at + size])
        if len(differing):
            _cut(found, int(differing[0]))
            size = int(differing[0])
        run, at = found, at + size
    return run


def _cut(run: _Run, size: int) -> None:
    """Make two runs of one, so that something may branch off after `size` tokens."""
    lower = _Run(run.tokens[size:], run)
    lower.next = run.next
    for below in lower.next.values():
        below.upper = lower
    run.tokens, run.next = run.tokens[:size], {int(lower.tokens[0]): lower}


def _lay_out(
    root: _Run, ends: Sequence[_Run], sequences: Sequence[TrainingSequence], rows: Sequence[Ints], source: Source
) -> TokenTree:
    runs = _depth_first(root)
    size = runs[-1].place + len(runs[-1].tokens)
    end = np.empty(size, dtype=np.int32)
    open_runs: list[_Run] = []
    for run in [*runs, root]:  # a subtree ends where a run begins that is no deeper
        while open_runs and (run is root or open_runs[-1] is not run.upper):
            done = open_runs.pop()
            end[done.place : done.place + len(done.tokens)] = size if run is root else run.place
        open_runs.append(run)
    places, tokens, weights = _find_targets(ends, sequences, rows)
    return TokenTree(
        input_ids=np.concatenate([run.tokens for run in runs]),
        positions=np.concatenate([np.arange(r.depth, r.depth + len(r.tokens), dtype=np.int32) for r in runs]),
        end=end,
        target_positions=places,
        target_ids=tokens,
        target_weights=weights,
        source=source,
    )


def _depth_first(root: _Run) -> list[_Run]:
    """Return the runs in the order in which they are laid out, and tell each its place and depth."""
    order, waiting, place = [], [root], 0
    while waiting:
        run = waiting.pop()
        if run.upper is not None:
            run.depth = run.upper.depth + len(run.upper.tokens)
        run.place = place
        place += len(run.tokens)
        order.append(run)
        waiting.extend(reversed(run.next.values()))
    return order


def _find_targets(
    ends: Sequence[_Run], sequences: Sequence[TrainingSequence], rows: Sequence[Ints]
) -> tuple[Ints, Ints, Floats]:
    """Return (places, tokens, weights) of all targets by place and token, equal ones added up."""
    keys, weights = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    for last, sequence, row in zip(ends, sequences, rows, strict=True):
        given = np.array(sequence.weights, dtype=np.float64)
        chosen = np.flatnonzero(given > 0)
        indices = chosen + sequence.start
        keys.append((_places(last, len(row))[indices - 1].astype(np.int64) << 32) | row[indices])
        weights.append(given[chosen])
    unique, sums = np.concatenate(keys), np.concatenate(weights)
    # Mostly each answer stands behind the one before it, so that places only grow and no target is there twice.
    if not (unique[1:] > unique[:-1]).all():
        unique, which = np.unique(unique, return_inverse=True)
        sums = np.bincount(which, weights=sums, minlength=len(unique))
    return (unique >> 32).astype(np.int32), (unique & 0xFFFFFFFF).astype(np.int32), sums.astype(np.float32)


def _places(last: _Run, size: int) -> Ints:
    """Return where the tokens of a sequence lie, which ends in a run."""
    places = np.empty(size, dtype=np.int32)
    run: _Run | None = last
    end = size
    while run is not None:
        start = run.depth
        places[start:end] = np.arange(run.place, run.place + end - start, dtype=np.int32)
        run, end = run.upper, start
    return places
