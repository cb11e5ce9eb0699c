"""Which held-out rows ask what training rows ask: what they would measure is memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from actune.data.checks.overlap import Overlap, Prompts, find_overlap
from actune.data.store.table import Row, RowTable

_BLOCK = 256  # candidates that are looked at together


class Asked:
    """What training rows ask."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Know the prompts of training rows, each row once."""
        self.rows = list(dict.fromkeys(rows))
        self._prompts = prompts_of(self.rows)

    def find(self, held: Sequence[Row]) -> list[Overlap]:
        """Return the overlaps of held-out rows; `train_row` counts in `self.rows`."""
        return find_overlap(self._prompts, prompts_of(held))

    def leave_out(self, candidates: Sequence[Row]) -> Iterator[Row]:
        """Yield the rows, in their order, that ask something else than training."""
        waiting = iter(candidates)
        while block := list(itertools.islice(waiting, _BLOCK)):
            known = {overlap.held_row for overlap in self.find(block)}
            yield from (row for place, row in enumerate(block) if place not in known)


def overlap_notices(asked: Asked, held: Sequence[Row]) -> list[str]:
    """Say how many held-out rows ask what training asks, with one example."""
    found = asked.find(held)
    if not found:
        return []
    first = found[0]
    pair = f"{held[first.held_row].source} and {asked.rows[first.train_row].source}"
    exact = sum(overlap.exact for overlap in found)
    how = "word for word" if exact == len(found) else f"{exact} of them word for word"
    return [
        f"{len(found):,} of {len(held):,} validation rows ask what training rows ask ({how}), for example {pair}: "
        "their loss says little about new questions; --overlap_strategy discard leaves them out of validation"
    ]


def prompts_of(rows: Sequence[Row]) -> Prompts:
    """Return the prompts of rows of any tables, in their order."""
    places: dict[RowTable, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.table, []).append(place)
    columns = []
    for name, offsets in (("keys", "key_offsets"), ("grams", "gram_offsets")):
        counts = np.zeros(len(rows), dtype=np.int64)
        for table, chosen in places.items():
            numbers = np.array([rows[place].number for place in chosen])
            counts[chosen] = table.facts[offsets][numbers + 1] - table.facts[offsets][numbers]
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        flat = np.zeros(ends[-1], dtype=np.uint64)
        for table, chosen in places.items():
            numbers = np.array([rows[place].number for place in chosen])
            where = np.array(chosen)
            source = _spread(table.facts[offsets][numbers], counts[where])
            flat[_spread(ends[where], counts[where])] = table.facts[name][source]
        columns.append((flat, ends))
    (keys, key_offsets), (grams, gram_offsets) = columns
    return Prompts(keys=keys, key_offsets=key_offsets, grams=grams, gram_offsets=gram_offsets)


def _spread(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, ... for each start, `counts` of them."""
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + within
