"""Programs that show metrics of runs, as observers of what goes into `metrics.jsonl`: one small class each.

A tracker is never a reason for a run to end: one that raises is named once, dropped, and the training goes on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from actune.config.settings import Settings
from actune.core.errors import ConfigError
from actune.core.files import atomic_text

FILE = "trackers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run: `done` steps are done when it starts, `settings` are flat, by name.

    `key` is the same for all parts of a run that was resumed, and of no other run.
    """

    folder: Path
    project: str
    name: str
    key: str
    done: int
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """What every tracker can do; any of it may raise whatever it likes."""

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values after `step` steps."""

    def finish(self, *, failed: bool) -> None:
        """End it."""


class TensorBoard:
    """Event files in `RUN/tensorboard`."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        # Steps that are done again replace what was written of them.
        purge = run.done + 1 if run.done else None
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
        if not run.done:
            text = json.dumps(run.settings, indent=1, ensure_ascii=False, default=str)
            self._writer.add_text("settings", f"```json\n{text}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._writer.close()


class Wandb:
    """Weights & Biases; `WANDB_MODE=offline` keeps it in `RUN/wandb`."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        self._module = importlib.import_module("wandb")
        self._run = self._module.init(
            project=run.project,
            name=run.name,
            id=run.key,
            resume="allow" if run.done else None,
            dir=str(run.folder),
            config=dict(run.settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


class Trackio:
    """Trackio: a local database (`TRACKIO_DIR`), shown by `trackio show`."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        self._module = importlib.import_module("trackio")
        self._module.init(
            project=run.project,
            name=f"{run.name}-{run.key[:6]}",
            config=dict(run.settings),
            resume="allow" if run.done else "never",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._module.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._module.finish()


class SwanLab:
    """SwanLab; `SWANLAB_MODE=offline` keeps it in `RUN/swanlab`."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        self._module = importlib.import_module("swanlab")
        self._module.init(
            project=run.project,
            name=run.name,
            id=run.key,
            resume="allow" if run.done else None,
            config=dict(run.settings),
            log_dir=str(run.folder / "swanlab"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._module.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._module.finish()


class Mlflow:
    """MLflow, at `MLFLOW_TRACKING_URI` or in the current folder."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        self._module = importlib.import_module("mlflow")
        self._module.set_experiment(run.project)
        earlier = self._find(run) if run.done else None
        if earlier is not None:
            # Its parameters stay: MLflow refuses to change one, and resuming sets some anew.
            self._module.start_run(run_id=earlier)
            return
        self._module.start_run(run_name=run.name, tags={"actune_key": run.key})
        self._module.log_params({name: str(value)[:500] for name, value in run.settings.items()})

    def _find(self, run: TrackedRun) -> str | None:
        found = self._module.search_runs(
            experiment_names=[run.project], filter_string=f"tags.actune_key = '{run.key}'", output_format="list"
        )
        return str(found[0].info.run_id) if found else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        # MLflow takes letters of Latin script, digits and a few signs in names.
        named = {re.sub(r"[^A-Za-z0-9_\-. /]", "_", name): value for name, value in values.items()}
        self._module.log_metrics(named, step=step)

    def finish(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._module.end_run("FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "swanlab": SwanLab,
    "mlflow": Mlflow,
}


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed; torch is not imported.

    Raises:
        ConfigError: one is not, with the extra that brings it.
    """
    for name in names:
        if name != "none" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"report_to {name}: the package {name} is not installed",
                fix=f"pip install 'actune[{name}]', or leave it out of --report_to",
            )


class Trackers:
    """The trackers of a run; a context: they start with it and end with it."""

    def __init__(self, names: Sequence[str], run: TrackedRun, *, say: Callable[[str], None]) -> None:
        self._active: dict[str, Tracker] = {name: TRACKERS[name]() for name in names}
        self._run = run
        self._say = say

    def __enter__(self) -> Trackers:
        """Start them."""
        for name, tracker in list(self._active.items()):
            self._try(name, lambda tracker=tracker: tracker.start(self._run))
        return self

    def log(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Hand on the values after `step` steps; `kind` (train, eval) comes before each name."""
        if not self._active:
            return
        named = {f"{kind}/{name}": value for name, value in values.items()}
        for name, tracker in list(self._active.items()):
            self._try(name, lambda tracker=tracker: tracker.log(step, named))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        for name, tracker in list(self._active.items()):
            self._try(name, lambda tracker=tracker: tracker.finish(failed=kind is not None))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tracker raises, the training is worth more
            del self._active[name]
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._say(f"Note: {name} failed and gets nothing more of this run: {reason}. metrics.jsonl has everything.")


def start_trackers(settings: Settings, folder: Path, *, done: int, leads: bool, say: Callable[[str], None]) -> Trackers:
    """Return the trackers that the settings name; only the leading process has any.

    Raises:
        CheckpointError: `trackers.json` cannot be written.
    """
    monitor = settings.monitor
    names = [name for name in dict.fromkeys(monitor.report_to) if name != "none"] if leads else []
    groups = settings.model_dump(mode="json")
    run = TrackedRun(
        folder=folder,
        project=monitor.track_project,
        name=monitor.run_name or folder.resolve().name,
        key=read_key(folder) if names else "",
        done=done,
        settings={f"{group}.{name}": value for group, leaves in groups.items() for name, value in leaves.items()},
    )
    return Trackers(names, run, say=say)


def read_key(folder: Path) -> str:
    """Return the key of the run in a folder, made on the first call and kept in `trackers.json`."""
    path = folder / FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        key = uuid.uuid4().hex[:16]
        atomic_text(path, json.dumps({"key": key}) + "\n")
        return key
