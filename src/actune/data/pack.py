"""Which rows a step sees, and how they are laid out side by side: pure functions on token trees.

Packing never decides which rows a step sees: `RunPlan.step` does, from the seed and the step alone. Packing lays out the
rows of one step without padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actune.data.mix import interleave
from actune.render.tree import Floats, Ints, TokenTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Token trees side by side (T tokens, S targets); every index counts within the pack.

    `input_ids`, `positions`, `end` [T] as in `TokenTree`; `spans` holds start and stop of each tree, in order, without
    gaps; `target_positions`, `target_ids`, `target_weights` [S]. `branches`: whether some tree is no single line.
    """

    input_ids: Ints
    positions: Ints
    end: Ints
    spans: tuple[tuple[int, int], ...]
    target_positions: Ints
    target_ids: Ints
    target_weights: Floats
    branches: bool

    def __len__(self) -> int:
        return len(self.input_ids)


# --- trees to packs -------------------------------------------------------------------------------------------------


def trim(tree: TokenTree) -> TokenTree:
    """Drop what no target depends on: targets of weight 0, then tokens whose subtree holds no target.

    Exact: a token is seen only from its own subtree, so no kept target looks at a dropped token.
    """
    counted = tree.target_weights > 0
    targets = tree.target_positions[counted]
    if len(targets) == len(counted) > 0 and not tree.has_branches and int(targets.max()) == len(tree) - 1:
        return tree
    before = np.zeros(len(tree) + 1, dtype=np.int64)
    np.cumsum(np.bincount(targets, minlength=len(tree)), out=before[1:])
    kept = before[tree.end] > before[:-1]
    index = np.zeros(len(tree) + 1, dtype=np.int32)
    np.cumsum(kept, out=index[1:])
    return replace(
        tree,
        input_ids=tree.input_ids[kept],
        positions=tree.positions[kept],
        end=index[tree.end[kept]],
        target_positions=index[targets],
        target_ids=tree.target_ids[counted],
        target_weights=tree.target_weights[counted],
    )


def pack(trees: Sequence[TokenTree], *, share: bool = False) -> Batch:
    """Lay trees side by side, each trimmed first; a tree without a target takes no room and gets no span.

    With `share`, trees that begin with the same tokens are laid out as one tree, those tokens once: every target sees
    what it saw before. Their order is then that of their tokens.
    """
    trimmed = [tree for tree in map(trim, trees) if len(tree)]
    if share:
        trimmed = [trimmed[place] for place in sort_by_prefix(trimmed)]
    common = [0, *(_count_common(*pair) if share else 0 for pair in pairwise(trimmed))][: len(trimmed)]
    parts, spans = _lay_out(trimmed, common)
    return Batch(
        input_ids=_join([part.input_ids for part in parts]),
        positions=_join([part.positions for part in parts]),
        end=_join([part.end for part in parts]),
        spans=spans,
        target_positions=_join([part.target_positions for part in parts]),
        target_ids=_join([tree.target_ids for tree in trimmed]),
        target_weights=np.concatenate([np.zeros(0, np.float32), *(tree.target_weights for tree in trimmed)]),
        branches=len(spans) < len(trimmed) or any(tree.has_branches for tree in trimmed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one tree adds to a pack; indices count within the pack."""

    input_ids: Ints
    positions: Ints
    end: Ints
    target_positions: Ints


def _lay_out(trees: Sequence[TokenTree], common: Sequence[int]) -> tuple[list[_Part], tuple[tuple[int, int], ...]]:
    """Lay out trees of which each shares its first `common` tokens with the one before it."""
    parts: list[_Part] = []
    starts: list[int] = []
    trunk = np.zeros(0, np.int32)  # where the tokens of the present trunk lie
    ends: list[tuple[NDArray[np.int32], int]] = []
    size = 0
    for tree, shared in zip(trees, common, strict=True):
        ends.append((trunk[shared:], size))
        if shared == 0:
            starts.append(size)
        places = np.concatenate([trunk[:shared], np.arange(size, size + len(tree) - shared, dtype=np.int32)])
        parts.append(
            _Part(
                input_ids=tree.input_ids[shared:],
                positions=tree.positions[shared:],
                end=tree.end[shared:] + np.int32(size - shared),
                target_positions=places[tree.target_positions],
            )
        )
        trunk = places[: count_trunk(tree)]
        size += len(tree) - shared
    ends.append((trunk, size))
    # The subtree of a shared token ends where the last tree that shares it does.
    end = _join([part.end for part in parts])
    for tokens, stop in ends:
        end[tokens] = stop
    cuts = np.cumsum([len(part.end) for part in parts])[:-1] if parts else []
    parts = [replace(part, end=piece) for part, piece in zip(parts, np.split(end, cuts), strict=True)] if parts else []
    return parts, tuple(pairwise([*starts, size])) if parts else ()


def count_trunk(tree: TokenTree) -> int:
    """Return how many tokens come before the first branch."""
    inside = np.flatnonzero(tree.end != len(tree))
    return int(inside[0]) if len(inside) else len(tree)


def sort_by_prefix(trees: Sequence[TokenTree]) -> list[int]:
    """Return the places of trees in the order of the tokens they begin with (ties: by place)."""
    return sorted(range(len(trees)), key=lambda place: (trees[place].input_ids.astype(">i4").tobytes(), place))


def _count_common(one: TokenTree, other: TokenTree) -> int:
    """Return how many tokens two trees share before either branches."""
    size = min(count_trunk(one), count_trunk(other))
    differing = np.flatnonzero(one.input_ids[:size] != other.input_ids[:size])
    return int(differing[0]) if len(differing) else size


def unroll(tree: TokenTree) -> tuple[TokenTree, ...]:
    """Return the tree as plain sequences, root to leaf, for models that cannot take branches.

    Every target of positive weight occurs exactly once: in the first sequence that holds its position. Sequences end
    at their last target; those left without one are not returned.
    """
    tree = trim(tree)
    index = np.arange(len(tree), dtype=np.int32)
    if not tree.has_branches:
        return (tree,) if len(tree) else ()
    taken = np.zeros(len(tree.target_positions), dtype=bool)
    sequences = []
    for leaf in np.flatnonzero(tree.end == index + 1):
        path = np.flatnonzero((index <= leaf) & (tree.end > leaf))
        chosen = ~taken & np.isin(tree.target_positions, path)
        taken |= chosen
        if chosen.any():
            sequences.append(_line(tree, path, chosen))
    return tuple(sequences)


def _line(tree: TokenTree, path: NDArray[np.intp], chosen: NDArray[np.bool_]) -> TokenTree:
    places = np.searchsorted(path, tree.target_positions[chosen]).astype(np.int32)
    length = int(places.max()) + 1
    return replace(
        tree,
        input_ids=tree.input_ids[path[:length]],
        positions=np.arange(length, dtype=np.int32),
        end=np.full(length, length, dtype=np.int32),
        target_positions=places,
        target_ids=tree.target_ids[chosen],
        target_weights=tree.target_weights[chosen],
    )


def _join(parts: Sequence[NDArray[np.integer]]) -> Ints:
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)


# --- rows of one step to ranks and micro-batches --------------------------------------------------------------------


# Rows that begin with fewer common tokens than this are not kept together for them: balance and full micro-batches
# are worth more.
_WORTH_SHARING = 32


def plan_step(trees: Sequence[TokenTree], *, ranks: int, budget: int, share: bool = False) -> list[list[list[int]]]:
    """Deal trimmed rows to ranks and micro-batches: `plan[rank][micro_batch]` lists indices into `trees`, each once.

    `budget`: tokens of a micro-batch; a longer row gets one of its own. With `share`, rows that begin alike stay
    together as far as a micro-batch, or a rank's part of the step, has room, and count as many tokens as `pack` lays
    out. These groups go, largest first, to the rank with the least so far, and there into the first micro-batch with room
    for them. Ties go to the lower index: the plan is a pure function of its arguments.
    """
    groups = _group(trees, ranks=ranks, budget=budget) if share else [([row], len(t)) for row, t in enumerate(trees)]
    plan: list[list[list[int]]] = [[] for _ in range(ranks)]
    room: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for rows, cost in sorted(groups, key=lambda group: (-group[1], group[0][0])):
        rank = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[rank] += cost
        for place, left in enumerate(room[rank]):
            if cost <= left:
                plan[rank][place] += rows
                room[rank][place] -= cost
                break
        else:
            plan[rank].append(list(rows))
            room[rank].append(budget - cost)
    return plan


def _group(trees: Sequence[TokenTree], *, ranks: int, budget: int) -> list[tuple[list[int], int]]:
    """Return groups of rows with their tokens once laid out together."""
    order = sort_by_prefix(trees)
    common = [0, *(_count_common(trees[one], trees[other]) for one, other in pairwise(order))]
    total = sum(len(trees[row]) - shared for row, shared in zip(order, common, strict=False))
    limit = min(budget, -(-total // ranks)) if ranks > 1 else budget
    groups: list[tuple[list[int], int]] = []
    for row, shared in zip(order, common, strict=False):
        added = len(trees[row]) - shared
        if groups and shared >= _WORTH_SHARING and groups[-1][1] + added <= limit:
            rows, cost = groups[-1]
            groups[-1] = ([*rows, row], cost + added)
        else:
            groups.append(([row], len(trees[row])))
    return groups


# --- rows of a run to steps -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def order(rows: int, epoch: int, seed: int, groups: bytes | None = None) -> NDArray[np.int64]:
    """Return the rows of one epoch in seeded order [rows]; read-only, a pure function of its arguments.

    `groups` is the group of each row as 16-bit numbers: the rows of the groups then take turns as `interleave` says,
    those of one group in their shuffled order.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    shuffled = generator.permutation(rows)
    if groups is not None:
        members = np.frombuffer(groups, dtype=np.uint16)[shuffled]
        turns = np.array(interleave(np.bincount(members).tolist()))
        by_group, places = np.argsort(members, kind="stable"), np.argsort(turns, kind="stable")
        mixed = np.empty_like(shuffled)
        mixed[places] = shuffled[by_group]
        shuffled = mixed
    shuffled.setflags(write=False)
    return shuffled


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Which rows each step consumes: `size` rows of an endless stream of shuffled epochs, `total` rows in all.

    `groups`: see `order`. With `packs` all these numbers count packs, each a tuple of rows.
    """

    rows: int
    size: int
    total: int
    seed: int
    groups: bytes | None = None
    packs: tuple[tuple[int, ...], ...] | None = None

    @property
    def unit(self) -> str:
        """What `size` counts."""
        return "rows" if self.packs is None else "packs"

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.total // self.size)

    @property
    def last_size(self) -> int:
        """Rows of the last step: `size`, or what is left."""
        return self.total - (self.steps - 1) * self.size

    def consumed(self, step: int) -> int:
        """Return how many rows the first `step` steps consume."""
        return min(step * self.size, self.total)

    def step(self, step: int) -> list[int]:
        """Return the rows of a step (counted from 0), in stream order."""
        chosen: list[int] = []
        place, stop = self.consumed(step), self.consumed(step + 1)
        while place < stop:
            epoch, first = divmod(place, self.rows)
            count = min(stop - place, self.rows - first)
            chosen += order(self.rows, epoch, self.seed, self.groups)[first : first + count].tolist()
            place += count
        return chosen if self.packs is None else [row for pack in chosen for row in self.packs[pack]]


def steps(
    *, rows: int, size: int, epochs: float, max_steps: int = -1, seed: int, labels: Sequence[str] | None = None
) -> RunPlan:
    """Plan a run over `rows` rows with `size` rows a step; with `labels` of the rows, those labelled alike are spread evenly.

    `epochs` may be fractional (rows are rounded up). A positive `max_steps` fixes the number of steps instead, however
    many epochs that takes, as elsewhere in the ecosystem.
    """
    if rows < 1 or size < 1:
        raise ValueError(f"a run needs rows and a step size of at least 1, not {rows} and {size}")
    # The small term keeps 0.1 x 30 at 3 rows, not 4.
    total = max_steps * size if max_steps > 0 else max(1, math.ceil(rows * epochs - 1e-9))
    groups = None
    if labels is not None:
        numbers = {label: place for place, label in enumerate(dict.fromkeys(labels))}
        groups = np.array([numbers[label] for label in labels], dtype=np.uint16).tobytes()
    return RunPlan(rows=rows, size=size, total=total, seed=seed, groups=groups)
