"""Whether an agent goes round in circles: the same calls with the same observations, again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from actune.core.errors import DataError
from actune.core.types import ToolCall

# Steps of the longest circle that is looked for: A, or A B, or A B C, over and over.
_LONGEST = 3
_Seen = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]


class Repeats:
    """Watches the steps of one run.

    A circle counts only where the observations are equal too: asking a clock or a queue again until it says something
    else is no circle.
    """

    def __init__(self, limit: int) -> None:
        """Say that a run goes in circles at `limit` equal rounds in a row; 0: never."""
        self._limit = limit
        self._steps: list[_Seen] = []

    def add(self, calls: Sequence[ToolCall], observations: Sequence[str]) -> str | None:
        """Take a step in; return what was repeated, None while nothing was repeated often enough."""
        self._steps.append((tuple((call.name, _normalise(call)) for call in calls), tuple(observations)))
        if self._limit < 1 or not calls:
            return None
        for period in range(1, _LONGEST + 1):
            if self._is_circle(period):
                return self._describe(period)
        return None

    def _is_circle(self, period: int) -> bool:
        size = period * self._limit
        last = self._steps[-size:]
        return len(last) == size and all(last[index] == last[index % period] for index in range(period, size))

    def _describe(self, period: int) -> str:
        names = [", ".join(name for name, _ in calls) for calls, _ in self._steps[-period:]]
        times = f"{self._limit} times in a row" if self._limit > 1 else "once, which is the limit"
        what = "the same call" if period == 1 else f"the same {period} steps"
        return f"{what} ({' -> '.join(names)}) with the same observation {times}"


def _normalise(call: ToolCall) -> str:
    """Return arguments so that those that mean the same are equal; what cannot be read is compared as text."""
    try:
        return json.dumps(call.parse_arguments(), sort_keys=True, ensure_ascii=False, default=str)
    except (DataError, TypeError, ValueError, RecursionError):
        return call.arguments
