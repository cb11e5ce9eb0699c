"""Whole turns: where they begin, and how the oldest are dropped until a conversation fits.

Training (`--truncation_strategy turns`) and the agent loop both drop by this rule, so what is left of a conversation is
the same in both. A turn is a text of the user and all up to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from actune.core.types import Message

T = TypeVar("T")


def head_length(messages: Sequence[Message]) -> int:
    """Return how many messages stand before all turns: 1 with a system text, else 0."""
    return 1 if messages and messages[0].role == "system" else 0


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return where turns begin: at each text of the user; what stands before the first one belongs to it."""
    head = head_length(messages)
    starts = [index for index in range(head, len(messages)) if messages[index].role == "user"]
    return [head, *starts[1:]] if starts else [head]


def keep_part(messages: Sequence[Message], start: int, end: int | None = None) -> tuple[Message, ...]:
    """Return the system text and `messages[start:end]`."""
    return (*messages[: head_length(messages)], *messages[start:end])


def find_first(starts: Sequence[int], fit: Callable[[int], T | None]) -> tuple[int, T] | None:
    """Return the first start from which on everything fits, with what `fit` gave for it; None where none does.

    `fit(start)` returns None where it does not fit. What is shorter fits where the longer does, so few are tried.
    """
    low, high = 0, len(starts)
    found: tuple[int, T] | None = None
    while low < high:
        middle = (low + high) // 2
        given = fit(starts[middle])
        if given is not None:
            found, high = (starts[middle], given), middle
        else:
            low = middle + 1
    return found
