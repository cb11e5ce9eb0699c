"""Encoded rows as flat arrays with offsets, one folder for some rows of a file, and the trees that are cut out of them.

Of a tree with T tokens and S targets stand there: its ids [T], the positions of its targets [S], and only where they
cannot be derived from these the positions and ends of its tokens with the ids of its targets [2 T + S] (it branches) and
the weights of its targets [S] (they are not all 1).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from actune.core.types import Source
from actune.data.checks.rules import Finding
from actune.data.encode import Outcome
from actune.data.reading.sources import Quarantined
from actune.data.store.arrays import load_arrays, save_arrays
from actune.data.store.cache import META
from actune.data.store.table import Row
from actune.render.tree import TokenTree

Sizes = tuple[tuple[int, int], ...]
"""(tokens, supervised tokens) of each tree of a row."""

_NOTES = "notes.json"
_DIGEST = 16  # bytes
_FLAT = ("ids", "targets", "extra", "weights")
_TYPES = {"ids": np.int32, "targets": np.int32, "extra": np.int32, "weights": np.float32}


class PartWriter:
    """Collects what rows become, and writes it."""

    def __init__(self) -> None:
        """Start without rows."""
        self._numbers: list[int] = []
        self._lengths: list[int] = []
        self._first_trees = [0]
        self._offsets: dict[str, list[int]] = {name: [0] for name in _FLAT}
        self._flat: dict[str, list[NDArray[Any]]] = {name: [] for name in _FLAT}
        self._digests: list[bytes] = []
        self._notes: dict[int, dict[str, Any]] = {}

    def add(self, number: int, outcome: Outcome) -> None:
        """Add the row of that number."""
        note = _write_note(outcome)
        if note:
            self._notes[len(self._numbers)] = note
        self._numbers.append(number)
        self._lengths.append(outcome.length)
        for tree in outcome.trees:
            none = np.zeros(0, np.int32)
            extra = [tree.positions, tree.end, tree.target_ids] if tree.has_branches else [none]
            parts = {
                "ids": tree.input_ids,
                "targets": tree.target_positions,
                "extra": np.concatenate(extra),
                "weights": none if bool((tree.target_weights == 1).all()) else tree.target_weights,
            }
            for name, array in parts.items():
                self._flat[name].append(array)
                self._offsets[name].append(self._offsets[name][-1] + len(array))
            self._digests.append(digest_of(tree))
        self._first_trees.append(len(self._digests))

    def save(self, folder: Path) -> None:
        """Write everything into a new folder."""
        folder.mkdir()
        arrays: dict[str, NDArray[Any]] = {
            "numbers": np.array(self._numbers, dtype=np.int64),
            "lengths": np.array(self._lengths, dtype=np.int64),
            "first_trees": np.array(self._first_trees, dtype=np.int64),
            "digests": np.array(self._digests, dtype=f"V{_DIGEST}"),
        }
        for name in _FLAT:
            arrays[f"{name}_offsets"] = np.array(self._offsets[name], dtype=np.int64)
            arrays[name] = np.concatenate([np.zeros(0, _TYPES[name]), *self._flat[name]]).astype(_TYPES[name])
        save_arrays(folder, arrays)
        (folder / _NOTES).write_text(json.dumps(self._notes), encoding="utf-8")
        (folder / META).write_text(json.dumps({"rows": len(self._numbers)}), encoding="utf-8")


class StoredPart:
    """The rows of one folder, in the order in which they were written."""

    def __init__(self, folder: Path) -> None:
        """Map the arrays of a folder that `PartWriter` wrote."""
        names = [f"{name}_offsets" for name in _FLAT]
        arrays = load_arrays(folder, ["numbers", "lengths", "first_trees", "digests", *names, *_FLAT])
        self.numbers = arrays["numbers"]
        self._digests = arrays["digests"].tobytes()
        self._flat = {name: arrays[name] for name in _FLAT}
        # Small numbers that are looked at one by one: faster as lists.
        self._lengths: list[int] = arrays["lengths"].tolist()
        self._first_trees: list[int] = arrays["first_trees"].tolist()
        self._offsets: dict[str, list[int]] = {name: arrays[f"{name}_offsets"].tolist() for name in _FLAT}
        self._ids, self._targets = self._offsets["ids"], self._offsets["targets"]
        notes = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
        self._notes: dict[int, dict[str, Any]] = {int(place): note for place, note in notes.items()}

    def sizes(self, place: int) -> Sizes:
        """Return the sizes of the trees of a row."""
        first, end = self._first_trees[place], self._first_trees[place + 1]
        ids, targets = self._ids, self._targets
        if end - first == 1:
            return ((ids[end] - ids[first], targets[end] - targets[first]),)
        trees = range(first, end)
        return tuple((ids[tree + 1] - ids[tree], targets[tree + 1] - targets[tree]) for tree in trees)

    def is_plain(self, place: int, max_length: int) -> bool:
        """Whether a row has nothing to be told of and is not over-long."""
        return place not in self._notes and (max_length < 0 or self._lengths[place] <= max_length)

    def outcome(self, place: int, source: Source) -> Outcome:
        """Return what a row became, without its trees."""
        return _read_note(self._notes.get(place, {}), source, self._lengths[place], self.sizes(place))

    def digest(self, place: int, number: int) -> bytes:
        """Return a digest of one of the trees of a row."""
        start = (self._first_trees[place] + number) * _DIGEST
        return self._digests[start : start + _DIGEST]

    def tree(self, place: int, number: int, source: Source) -> TokenTree:
        """Return one of the trees of a row."""
        tree = self._first_trees[place] + number
        ids, targets = self._cut("ids", tree), self._cut("targets", tree)
        extra, weights = self._cut("extra", tree), self._cut("weights", tree)
        size, count = len(ids), len(targets)
        line = not len(extra)
        return TokenTree(
            input_ids=ids,
            positions=np.arange(size, dtype=np.int32) if line else extra[:size],
            end=np.full(size, size, dtype=np.int32) if line else extra[size : 2 * size],
            target_positions=targets,
            target_ids=ids[targets + 1] if line else extra[2 * size :],
            target_weights=weights if len(weights) else np.ones(count, dtype=np.float32),
            source=source,
        )

    def _cut(self, name: str, tree: int) -> NDArray[Any]:
        offsets = self._offsets[name]
        return self._flat[name][offsets[tree] : offsets[tree + 1]]


class MemoryPart:
    """One row that is kept in memory; looks like a `StoredPart` of this row alone."""

    def __init__(self, outcome: Outcome) -> None:
        """Keep an outcome with its trees."""
        self._outcome = outcome

    def sizes(self, place: int) -> Sizes:
        """Return the sizes of the trees."""
        return self._outcome.sizes

    def is_plain(self, place: int, max_length: int) -> bool:
        """Whether the row has nothing to be told of; a row in memory is always looked at."""
        return False

    def outcome(self, place: int, source: Source) -> Outcome:
        """Return what the row became."""
        return self._outcome

    def digest(self, place: int, number: int) -> bytes:
        """Return a digest of one of the trees."""
        return digest_of(self._outcome.trees[number])

    def tree(self, place: int, number: int, source: Source) -> TokenTree:
        """Return one of the trees."""
        return self._outcome.trees[number]


Place = tuple[StoredPart | MemoryPart, int]
"""Where the encoding of a row is: a part, and the row's place in it."""


class Trees(Sequence[TokenTree]):
    """The trees of a run in their order, cut out of the parts when they are asked for."""

    def __init__(self, items: Iterable[tuple[Row, Place, int]] = ()) -> None:
        """Hold trees by (row, place of its encoding, number of the tree in it)."""
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> TokenTree: ...
    @overload
    def __getitem__(self, index: slice) -> Trees: ...
    def __getitem__(self, index: int | slice) -> TokenTree | Trees:
        """Return a tree, or several."""
        if isinstance(index, slice):
            return Trees(self._items[index])
        row, (part, place), number = self._items[index]
        return part.tree(place, number, row.source)

    def sizes(self) -> list[tuple[int, int]]:
        """Return (tokens, supervised tokens) of each tree."""
        return [part.sizes(place)[number] for _, (part, place), number in self._items]

    def count_rows(self) -> dict[str, int]:
        """Return how many different rows of each dataset there are."""
        rows = {(row.table.name, row.table.shown, row.number) for row, _, _ in self._items}
        return dict(Counter(name for name, _, _ in rows))

    def fingerprint(self) -> bytes:
        """Return a digest of all trees in their order."""
        digests = [part.digest(place, number) for _, (part, place), number in self._items]
        return hashlib.sha256(b"".join(digests)).digest()


def digest_of(tree: TokenTree) -> bytes:
    """Return a digest of 16 bytes of ids, structure, targets and weights."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for array in (
        tree.input_ids, tree.positions, tree.end, tree.target_positions, tree.target_ids, tree.target_weights,
    ):  # fmt: skip
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(array.tobytes())
    return digest.digest()


def _write_note(outcome: Outcome) -> dict[str, Any]:
    """Return what a row has beside its trees, as plain JSON; empty where that is nothing."""
    note: dict[str, Any] = {
        "findings": [asdict(finding) for finding in outcome.findings],
        "allowed": [asdict(finding) for finding in outcome.allowed],
        "parts": [_write_left_out(part) for part in outcome.parts],
        "shortened": outcome.shortened,
        "error": None if outcome.error is None else _write_left_out(outcome.error),
    }
    return {key: value for key, value in note.items() if value}


def _read_note(note: dict[str, Any], source: Source, length: int, sizes: Sizes) -> Outcome:
    error = note.get("error")
    return Outcome(
        findings=tuple(Finding(**finding) for finding in note.get("findings", ())),
        allowed=tuple(Finding(**finding) for finding in note.get("allowed", ())),
        sizes=sizes,
        length=length,
        shortened=note.get("shortened", False),
        parts=tuple(Quarantined(source=source, **part) for part in note.get("parts", ())),
        error=None if error is None else Quarantined(source=source, **error),
    )


def _write_left_out(item: Quarantined) -> dict[str, Any]:
    return {"code": item.code, "message": item.message, "field": item.field, "fix": item.fix}
