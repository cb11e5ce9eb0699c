"""Which checkpoint is the best, and when training no longer improves, by one value of the evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actune.config.settings import MonitorSettings
from actune.training.checkpoint import State


def is_greater_better(metric: str) -> bool:
    """Return whether a higher value is better: scores of probes are stored so, losses are the other way round."""
    return not (metric == "loss" or metric.startswith("loss/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A value that an evaluation found after `step` steps."""

    step: int
    value: float


class Judge:
    """Remembers the best value of one metric, the best checkpoint, and how long nothing has improved.

    `best` is the best of the evaluations after which a checkpoint was saved, the earlier one of two that are as good.
    `top` is the best value of all evaluations, `stale` counts those since the last one that improved on it by more than
    the threshold (as transformers' EarlyStoppingCallback counts). An evaluation without the metric does not improve.
    """

    def __init__(self, settings: MonitorSettings) -> None:
        self.metric = settings.metric_for_best_model
        self._sign = 1.0 if is_greater_better(self.metric) else -1.0
        self._patience = settings.early_stopping_patience
        self._threshold = settings.early_stopping_threshold
        self._writes_best = settings.load_best_model_at_end
        self.best: Evaluated | None = None
        self.newest: Evaluated | None = None
        self.top: float | None = None
        self.stale = 0

    @property
    def stops(self) -> bool:
        """Whether training is to stop here."""
        return 0 < self._patience <= self.stale

    def add(self, step: int, values: Mapping[str, float]) -> bool:
        """Take note of an evaluation; returns whether no earlier one was as good."""
        value = values.get(self.metric)
        if value is None:
            self.stale += 1
            return False
        self.newest = Evaluated(step=step, value=value)
        gain = float("inf") if self.top is None else self._sign * (value - self.top)
        self.stale = 0 if gain > self._threshold else self.stale + 1
        if gain > 0:
            self.top = value
        return gain > 0

    def mark_saved(self, step: int) -> None:
        """Take note that a checkpoint is saved after `step` steps; without an evaluation there it is never the best."""
        newest = self.newest
        if newest is None or newest.step != step:
            return
        if self.best is None or self._sign * (newest.value - self.best.value) > 0:
            self.best = newest

    def restore(self, state: State) -> str | None:
        """Go on from a checkpoint; returns what there is to say where it was judged by another metric."""
        if state.metric != self.metric:
            if state.best_step is None:
                return None
            return f"the best checkpoint was chosen by {state.metric}; from here on it is by {self.metric}, anew"
        if state.best_step is not None and state.best_value is not None:
            self.best = Evaluated(step=state.best_step, value=state.best_value)
        self.top, self.stale = state.top, state.stale
        if self.top is None and self.best is not None:
            self.top = self.best.value
        return None

    def sum_up(self, done: int, steps: int) -> list[str]:
        """Say at the end of a run after `done` of `steps` steps why it ended early, and which weights are written."""
        said = []
        if done < steps:
            said.append(
                f"Stopped early after step {done} of {steps}: no better {self.metric} in {self.stale} evaluations."
            )
        if self.best is None and self._writes_best:
            said.append(f"No checkpoint has a {self.metric}: the result holds the last weights.")
        elif self.best is not None and self._writes_best:
            said.append(
                f"The result holds the weights after step {self.best.step}, the best {self.metric} ({self.best.value:.4f})."
            )
        elif self.best is not None and self.best.step != done:
            said.append(
                f"The best {self.metric} ({self.best.value:.4f}) is that of checkpoint-{self.best.step}; the result holds the "
                f"last weights, of step {done} (--load_best_model_at_end writes the best)."
            )
        return said
