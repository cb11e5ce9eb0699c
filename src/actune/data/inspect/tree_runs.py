"""A token tree as a person sees it: runs of tokens without a branch, the runs of each turn, the weight of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actune.render.encoder import EncodedTurn
from actune.render.tree import Floats, TokenTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens from place `start` to `stop` (without) that follow each other; `after` is the run that it goes on from.

    `depth` is the position of its first token in its branch. `after` is -1 where nothing stands before.
    """

    start: int
    stop: int
    depth: int
    after: int


def find_runs(tree: TokenTree) -> list[Run]:
    """Return the runs of a tree in the order in which they are laid out."""
    if not len(tree):
        return []
    # Within a run every subtree ends at the same place; at its last token the subtrees part, or nothing follows.
    cuts = np.flatnonzero(tree.end[1:] != tree.end[:-1]) + 1
    starts, stops = [0, *cuts.tolist()], [*cuts.tolist(), len(tree)]
    runs: list[Run] = []
    open_runs: list[int] = []
    for start, stop in zip(starts, stops, strict=True):
        while open_runs and int(tree.end[runs[open_runs[-1]].start]) <= start:
            open_runs.pop()
        runs.append(
            Run(start=start, stop=stop, depth=int(tree.positions[start]), after=open_runs[-1] if open_runs else -1)
        )
        open_runs.append(len(runs) - 1)
    return runs


def follow(tree: TokenTree, runs: Sequence[Run], ids: Sequence[int]) -> list[int]:
    """Return the runs that a sequence of the tree goes through, as indices; it may end inside the last one."""
    following: dict[tuple[int, int], int] = {}
    for index, run in enumerate(runs):
        following[run.after, int(tree.input_ids[run.start])] = index
    path: list[int] = []
    at, place = 0, -1
    while at < len(ids):
        place = following[place, int(ids[at])]
        path.append(place)
        at += runs[place].stop - runs[place].start
    return path


def tree_weights(tree: TokenTree) -> Floats:
    """Return the loss weight of each token of a tree [T]: that of the target that it is, 0 where it is none."""
    weights = np.zeros(len(tree), dtype=np.float32)
    places = tree.target_positions + 1
    for number in np.flatnonzero(tree.input_ids[places] != tree.target_ids):  # not the first that goes on from there
        place = int(places[number])
        while tree.input_ids[place] != tree.target_ids[number]:
            place = int(tree.end[place])
        places[number] = place
    weights[places] = tree.target_weights
    return weights


def weigh_turns(tree: TokenTree, turns: Sequence[EncodedTurn]) -> list[Floats]:
    """Return of every turn the weight of each token of its completion, as the tree has it."""
    weights, runs = tree_weights(tree), find_runs(tree)
    paths = ([runs[index] for index in follow(tree, runs, turn.ids)] for turn in turns)
    along = (np.concatenate([weights[run.start : run.stop] for run in path]) for path in paths)
    return [found[turn.start : len(turn.ids)] for found, turn in zip(along, turns, strict=True)]
