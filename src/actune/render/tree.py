"""The token tree: all (prompt, completion) pairs of a conversation, merged by common prefix."""

from __future__ import annotations

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
    weights: Sequence[float]


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
    if _is_chain(sequences):
        return _lay_line(sequences, source)
    ids: list[int] = []
    parents: list[int] = []
    paths: list[list[int]] = []  # node indices of each sequence
    targets: dict[tuple[int, int], float] = {}
    for sequence in sequences:
        shared = _longest_shared(sequence.ids, ids, paths)
        path = list(shared)
        for token in sequence.ids[len(shared) :]:
            parents.append(path[-1] if path else -1)
            path.append(len(ids))
            ids.append(token)
        paths.append(path)
        for offset, weight in enumerate(sequence.weights):
            index = sequence.start + offset
            if weight > 0:
                key = (path[index - 1], sequence.ids[index])
                targets[key] = targets.get(key, 0.0) + weight
    return _lay_out(ids, parents, targets, source)


def _is_chain(sequences: Sequence[TrainingSequence]) -> bool:
    """Whether each sequence goes on where the one before it ended, as in a template that keeps history."""
    return len(sequences) > 0 and all(
        after.start >= len(before.ids) and list(after.ids[: len(before.ids)]) == list(before.ids)
        for before, after in pairwise(sequences)
    )


def _lay_line(sequences: Sequence[TrainingSequence], source: Source) -> TokenTree:
    """The tree of a chain, the common case, without walking its tokens one by one."""
    tokens = np.array(sequences[-1].ids, dtype=np.int32)
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


def _longest_shared(ids: Sequence[int], laid: list[int], paths: list[list[int]]) -> list[int]:
    best: list[int] = []
    for path in reversed(paths):
        low, high = len(best), min(len(path), len(ids))
        if high <= low:
            continue
        if [laid[node] for node in path[:high]] == list(ids[:high]):
            low = high
        else:
            low = next(i for i in range(high) if laid[path[i]] != ids[i])
        if low > len(best):
            best = path[:low]
    return best


def _lay_out(ids: list[int], parents: list[int], targets: dict[tuple[int, int], float], source: Source) -> TokenTree:
    size = len(ids)
    place, positions, end = _depth_first(parents)
    tokens = np.empty(size, dtype=np.int32)
    tokens[place] = ids
    ordered = sorted((int(place[node]), token, weight) for (node, token), weight in targets.items())
    return TokenTree(
        input_ids=tokens,
        positions=positions,
        end=end,
        target_positions=np.array([p for p, _, _ in ordered], dtype=np.int32),
        target_ids=np.array([t for _, t, _ in ordered], dtype=np.int32),
        target_weights=np.array([w for _, _, w in ordered], dtype=np.float32),
        source=source,
    )


def _depth_first(parents: list[int]) -> tuple[Ints, Ints, Ints]:
    """Return for each node its place, and by place the depth and the end of its subtree."""
    size = len(parents)
    counts = [1] * size
    for node in range(size - 1, -1, -1):  # a parent is always created before its children
        if parents[node] >= 0:
            counts[parents[node]] += counts[node]
    place, positions, end = (np.empty(size, dtype=np.int32) for _ in range(3))
    next_free = [0] * size
    top = 0
    for node, parent in enumerate(parents):
        if parent < 0:
            start, depth = top, 0
            top += counts[node]
        else:
            start, depth = next_free[parent], int(positions[place[parent]]) + 1
            next_free[parent] += counts[node]
        place[node] = start
        positions[start] = depth
        end[start] = start + counts[node]
        next_free[node] = start + 1
    return place, positions, end
