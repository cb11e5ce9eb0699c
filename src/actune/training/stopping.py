"""Which of the saved checkpoints is the best."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A value that an evaluation found after `step` steps."""

    step: int
    value: float


class Judge:
    """Remembers the newest evaluation and the best checkpoint, the earlier one of two that are as good."""

    def __init__(self) -> None:
        self.best: Evaluated | None = None
        self.newest: Evaluated | None = None

    def add(self, evaluated: Evaluated) -> None:
        """Take note of an evaluation."""
        self.newest = evaluated

    def mark_saved(self, step: int) -> None:
        """Take note that a checkpoint is saved after `step` steps; without an evaluation there it is never the best."""
        newest = self.newest
        if newest is None or newest.step != step:
            return
        if self.best is None or newest.value < self.best.value:
            self.best = newest
