"""`metrics.jsonl`, and progress for the person at the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actune.core.files import atomic_text, explain_write, flush_file

_MAIN_PROBES = ("probe/strict_call", "probe/tool_name", "probe/format_valid")
Observe = Callable[[int, str, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One logged step; every value is of that step alone, over all processes.

    `step` counts from 1. `learning_rate` is the one applied, `grad_norm` the norm before clipping. `tokens` went
    through the model, `supervised_tokens` carried loss. `seconds` is the step's wall time. `loss` and `grad_norm` are
    None where they do not apply (a step without weight, an fp16 overflow). `mfu`: share of the peak of the devices, None
    where that is not known.
    """

    step: int
    epoch: float
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    tokens: int
    supervised_tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    seconds: float
    mfu: float | None = None


class MetricsLog:
    """Appends lines to `metrics.jsonl`; does nothing in processes that do not lead."""

    def __init__(self, path: Path, *, writes: bool, from_step: int, observe: Observe = lambda *_: None) -> None:
        """Open the file for a run that starts after `from_step` steps: later lines of an earlier try are cut.

        `observe` is told of every line: step, train or eval, values by name.
        """
        self._path = path
        self._observe = observe
        self._writes = writes
        if writes:
            cut_back(path, from_step)

    def add_step(self, metrics: StepMetrics) -> None:
        """Write the line of a step; a value that does not apply is absent."""
        values = {key: value for key, value in asdict(metrics).items() if value is not None}
        self._add(values)
        self._observe(metrics.step, "train", {key: value for key, value in values.items() if key != "step"})

    def add_eval(self, step: int, values: Mapping[str, float]) -> None:
        """Write the line of an evaluation after `step` steps."""
        self._add({"step": step, "eval": dict(values)})
        self._observe(step, "eval", values)

    def flush(self) -> None:
        """Bring all lines to the disk: a checkpoint that follows is not there before them.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if self._writes and self._path.exists():
            try:
                flush_file(self._path)
            except OSError as error:
                raise explain_write(self._path, error) from error

    def _add(self, line: Mapping[str, object]) -> None:
        if not self._writes:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise explain_write(self._path, error) from error


def cut_back(path: Path, step: int) -> None:
    """Keep the lines up to a step; a line cut short by a crash goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int) and values["step"] <= step:
            kept.append(line + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, "".join(kept))


def read_peak_memory(device: torch.device) -> int:
    """Return the most memory in use so far, in bytes: of the accelerator, else of this process."""
    if device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0  # not known there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def describe_values(values: Mapping[str, float]) -> str:
    """Return the values of an evaluation as one line, of probes the main ones: `loss 1.2345  probe/strict_call 0.5000`."""
    shown = {name: value for name, value in values.items() if not name.startswith("probe/") or name in _MAIN_PROBES}
    return "  ".join(f"{name} {value:.4f}" for name, value in shown.items())


class ProgressBar:
    """A bar with loss, tokens per second and time left on a terminal; else a line on stderr per logged step."""

    def __init__(self, *, steps: int, done: int, shows: bool) -> None:
        """Show a run of `steps` steps of which `done` are done; without `shows`, nothing is shown at all."""
        console = Console(stderr=True)
        self._console = console if shows else None
        self._bar = None
        if shows and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=steps, completed=done)
        self._steps = steps

    def __enter__(self) -> ProgressBar:
        """Start drawing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, metrics: StepMetrics, *, logged: bool, share: float | None = None) -> None:
        """Show a step; `share` of the peak."""
        loss = "none" if metrics.loss is None else f"{metrics.loss:.4f}"
        text = f"loss {loss}  {metrics.tokens_per_second:,.0f} tokens/s" + (
            f"  MFU {share:.1%}" if share is not None else ""
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=metrics.step, description=text)
        elif logged:
            self.say(f"step {metrics.step}/{self._steps}  {text}  learning rate {metrics.learning_rate:.2e}")

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
