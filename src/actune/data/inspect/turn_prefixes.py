"""What the turns of a row have in common: the longest common beginning of texts and of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actune.render.encoder import EncodedTurn

_NEAR = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """How the ids of a turn hang together with those of an earlier one: `turn` is its index, `tokens` how many they share.

    `place`: `after` (all of the earlier turn), else where they part: `target`, `target_begin`, `prompt`.
    """

    turn: int
    tokens: int
    place: Literal["after", "target", "target_begin", "prompt"]


def compare_turns(turns: Sequence[EncodedTurn | None], index: int) -> Kinship | None:
    """Return how a turn hangs together with the earlier turn that it shares most with; the last one wins."""
    turn = turns[index]
    best, length = -1, -1
    if turn is None:
        return None
    for number, earlier in enumerate(turns[:index]):
        shared = -1 if earlier is None else shared_length(list(earlier.ids), list(turn.ids))
        if earlier is not None and shared >= length:
            best, length = number, shared
    earlier = turns[best] if best >= 0 else None
    if earlier is None:
        return None
    if length == len(earlier.ids):
        return Kinship(turn=best, tokens=length, place="after")
    if length < earlier.start:
        return Kinship(turn=best, tokens=length, place="prompt")
    return Kinship(turn=best, tokens=length, place="target" if length > earlier.start else "target_begin")


def longest_shared(earlier: Sequence[str], prompt: str) -> tuple[int, int]:
    """Return (index of the earlier text that a prompt shares most with, number of characters); the last one wins."""
    best, length = 0, 0
    for index, text in enumerate(earlier):
        shared = shared_length(text, prompt)
        if shared >= length:
            best, length = index, shared
    return best, length


def shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return the length of the common prefix of two texts or lists, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def cut_at_line(text: str, length: int) -> int:
    """Return where to cut a text at or shortly before `length`: behind a line break, so that no control token is cut."""
    place = text.rfind("\n", max(0, length - _NEAR), length)
    return place + 1 if place >= 0 else length
