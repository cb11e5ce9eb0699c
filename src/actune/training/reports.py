"""What a run tells while it goes: `metrics.jsonl`, the bar of the terminal, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch

from actune.config.settings import Settings
from actune.training.flops import find_peak
from actune.training.metrics import MetricsLog, ProgressBar, StepMetrics, describe_values
from actune.training.ranks import Ranks
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
        ranks: Ranks,
        compute: torch.dtype,
        say: Callable[[str], None],
    ) -> None:
        """Report on a run of `steps` steps of which `done` are done; later lines of an earlier try are cut.

        `compute`: dtype of most matrix products.

        Raises:
            CheckpointError: a file of the folder cannot be written.
        """
        self._steps, self._ranks = steps, ranks
        leads = ranks.leads
        given = settings.monitor.device_peak_tflops
        self._peak = find_peak(ranks.device, compute, given=given) if leads else None
        if self._peak is not None:
            say(self._peak.describe())
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

    def add_step(self, metrics: StepMetrics, *, flops: int = 0) -> None:
        """Show a step of so many operations; log it if it is the first, the last, or one of every `logging_steps`."""
        share = None
        if self._peak is not None and metrics.seconds > 0:
            share = flops / metrics.seconds / (self._peak.rate * self._ranks.size)
            if self._peak.known:
                metrics = replace(metrics, mfu=round(share, 4))
        logged = metrics.step in (1, self._steps) or metrics.step % self._every == 0
        if logged:
            self._log.add_step(metrics)
        self._bar.show(metrics, logged=logged, share=share)

    def add_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Log and show what an evaluation after `step` steps found."""
        if values:
            self._log.add_eval(step, values)
            self._bar.say(f"step {step}/{self._steps}  evaluation  {describe_values(values)}")

    def flush(self) -> None:
        """Bring all lines to the disk; see `MetricsLog.flush`."""
        self._log.flush()
