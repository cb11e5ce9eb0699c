"""The segments of a pack, and which blocks of queries see which keys: plans for attention, plain numbers only.

A segment is a run of tokens without a branch. Its tokens see all of its ancestors' tokens, and each other causally: that
is the one attention rule (`k <= q < end[k]`) said for runs instead of tokens. The ancestors of a segment and the segment
itself, side by side, are its *path*; the index of a token in it is the token's depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actune.render.tree import Ints

# Queries of one block. Scores of a block are [kv_heads, heads / kv_heads x _QUERIES, keys]: with some thousand keys a few
# MB, which stay in a core's share of the cache.
_QUERIES = 128
# Numbers of keys are rounded up to this: oneDNN makes a kernel for each new shape (0.4 ms measured on Zen 5).
_KEYS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens `start` to `stop` of a pack; `above`: start and stop of its ancestors, root first; `depth`: their tokens."""

    start: int
    stop: int
    above: tuple[tuple[int, int], ...]
    depth: int

    @property
    def length(self) -> int:
        """Tokens of the path: ancestors and the segment itself."""
        return self.depth + self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Queries `first` to `last` of those asked for, and the keys `low` to `high` of the path that they may see.

    Each mask [queries, keys] is added to scores, 0 or -inf: `after` belongs to the last keys, which come after some
    query or are padding past the end of the path, `before` to the first ones, which a sliding window hides from some.
    """

    first: int
    last: int
    low: int
    high: int
    after: NDArray[np.float32]
    before: NDArray[np.float32] | None


def cut_segments(end: Ints) -> tuple[Segment, ...]:
    """Return the segments of a pack in order, from `end` [T] (see `TokenTree`)."""
    count = len(end)
    if count == 0:
        return ()
    index = np.arange(1, count + 1)
    # After token i a new segment starts where i has no continuation, or several.
    breaks = np.flatnonzero((end[:-1] == index[:-1]) | (end[:-1] != end[1:])) + 1
    bounds = [0, *breaks.tolist(), count]
    segments: list[Segment] = []
    open_ones: list[tuple[int, int, int]] = []  # start, stop, end of the subtree
    above: tuple[tuple[int, int], ...] = ()
    for start, stop in pairwise(bounds):
        before = len(open_ones)
        while open_ones and open_ones[-1][2] <= start:
            open_ones.pop()
        if len(open_ones) != before or len(above) != before:
            kept = tuple((one[0], one[1]) for one in open_ones)
            above = above if kept == above else kept
        depth = sum(high - low for low, high in above)
        segments.append(Segment(start=start, stop=stop, above=above, depth=depth))
        open_ones.append((start, stop, int(end[stop - 1])))
    return tuple(segments)


def plan_blocks(
    segments: Sequence[Segment], window: int | None, queries: Ints | None = None
) -> tuple[tuple[Segment, tuple[Block, ...]], ...]:
    """Return the blocks of each segment that has queries.

    `queries`: the tokens that ask, sorted (None: all). `window`: a query sees only keys less than `window` before it.
    """
    plan = []
    for segment in segments:
        if queries is None:
            first, tokens = segment.start, np.arange(segment.start, segment.stop, dtype=np.int32)
        else:
            first, last = np.searchsorted(queries, (segment.start, segment.stop))
            tokens = queries[first:last]
        places = tokens - segment.start + segment.depth
        if len(places):
            plan.append((segment, tuple(_cut_blocks(places, int(first), window))))
    return tuple(plan)


def _cut_blocks(places: Ints, first: int, window: int | None) -> Iterator[Block]:
    for at in range(0, len(places), _QUERIES):
        chosen = places[at : at + _QUERIES]
        top, bottom = int(chosen[-1]), int(chosen[0])
        low = 0 if window is None else max(0, bottom - window + 1) // _KEYS * _KEYS
        high = round_up(top + 1)
        # Where queries follow each other, all blocks of a shape have one mask.
        steps = tuple((chosen - bottom).tolist()) if top - bottom + 1 != len(chosen) else len(chosen)
        before = None
        if window is not None and top - window >= low:
            before = _hide_before(steps, bottom - low - window + 1, top - low - window + 1)
        yield Block(
            first=first + at,
            last=first + at + len(chosen),
            low=low,
            high=high,
            after=_hide_after(steps, high - bottom - 1),
            before=before,
        )


@lru_cache(maxsize=1024)
def _hide_after(steps: int | tuple[int, ...], width: int) -> NDArray[np.float32]:
    """Mask of the `width` keys after the first query of a block; the queries lie `steps` behind it."""
    behind = np.arange(steps) if isinstance(steps, int) else np.array(steps)
    return np.where(np.arange(1, width + 1) > behind[:, None], -np.inf, 0).astype(np.float32)


@lru_cache(maxsize=1024)
def _hide_before(steps: int | tuple[int, ...], first: int, width: int) -> NDArray[np.float32]:
    """Mask of the `width` first keys of a block, of which the first query sees those from `first` on."""
    behind = np.arange(steps) if isinstance(steps, int) else np.array(steps)
    return np.where(np.arange(width) < behind[:, None] + first, -np.inf, 0).astype(np.float32)


def round_up(length: int) -> int:
    """Return a length of a path with its padding."""
    return -(-length // _KEYS) * _KEYS
