"""What a run tells while it goes: `metrics.jsonl`, the bar of the terminal, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from actune.config.settings import Settings
from actune.training.metrics import MetricsLog, ProgressBar, StepMetrics, describe_values
from actune.training.trackers import start_trackers


class Reports:
    """All of it for one run, silent in processes that do not lead; a context."""

    def __init__(
        self,
        settings: Settings,
        run_dir: Path,
        *,
        steps: int,
        done: int,
        leads: bool,
        say: Callable[[str], None],
    ) -> None:
        """Report on a run of `steps` steps of which `done` are done; later lines of an earlier try are cut.

        Raises:
            CheckpointError: a file of the folder cannot be written.
        """
        self._steps = steps
        self._every = settings.output.logging_steps
        self._trackers = start_trackers(settings, run_dir, done=done, leads=leads, say=say)
        path = run_dir / "metrics.jsonl"
        self._log = MetricsLog(path, writes=leads, from_step=done, observe=self._trackers.log)
        self._bar = ProgressBar(steps=steps, done=done, shows=leads)
        self._stack = ExitStack()

    def __enter__(self) -> Reports:
        """Start drawing and tracking."""
        for part in (self._bar, self._trackers):
            self._stack.enter_context(part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both."""
        self._stack.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        self._bar.say(text)

    def add_step(self, metrics: StepMetrics) -> None:
        """Show a step, and log it where its turn has come: the first, the last, and every `logging_steps`."""
        logged = metrics.step in (1, self._steps) or metrics.step % self._every == 0
        if logged:
            self._log.add_step(metrics)
        self._bar.show(metrics, logged=logged)

    def add_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Log and show what an evaluation after `step` steps found."""
        if values:
            self._log.add_eval(step, values)
            self._bar.say(f"step {step}/{self._steps}  evaluation  {describe_values(values)}")

    def flush(self) -> None:
        """Bring all lines to the disk; see `MetricsLog.flush`."""
        self._log.flush()
