"""Trackers are handed what goes into metrics.jsonl, and are never a reason for a run to end."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch

from actune.config.settings import TRACKERS as NAMES
from actune.config.settings import MonitorSettings, Settings
from actune.core.errors import ConfigError
from actune.training.metrics import StepMetrics
from actune.training.ranks import Ranks
from actune.training.reports import Reports
from actune.training.trackers import TRACKERS, TrackedRun, read_key, require_trackers

STEP = StepMetrics(
    step=1,
    epoch=0.5,
    loss=None,
    learning_rate=1e-3,
    grad_norm=2.0,
    tokens=100,
    supervised_tokens=40,
    tokens_per_second=50.0,
    peak_memory_bytes=1,
    seconds=2.0,
)


class FakeTrackio(types.ModuleType):
    """Stands for the package: notes what it is told, and fails where it is to."""

    def __init__(self, *, fails: str = "") -> None:
        super().__init__("trackio")
        self.told: list[tuple] = []
        self.fails = fails

    def _note(self, name: str, *values) -> None:
        self.told.append((name, *values))
        if name == self.fails:
            raise RuntimeError(f"{name} does not work\nat all")

    def init(self, **options) -> None:
        self._note("init", options)

    def log(self, values, *, step) -> None:
        self._note("log", step, values)

    def finish(self) -> None:
        self._note("finish")


@pytest.fixture
def fake(monkeypatch):
    def put(**options) -> FakeTrackio:
        module = FakeTrackio(**options)
        monkeypatch.setitem(sys.modules, "trackio", module)
        return module

    return put


def report(tmp_path, *, leads=True, done=0):
    settings = Settings(
        monitor=MonitorSettings(device_peak_tflops=0, report_to=("trackio",), run_name="mine", track_project="ours")
    )
    said: list[str] = []
    with Reports(
        settings,
        tmp_path,
        steps=3,
        done=done,
        ranks=Ranks(rank=0 if leads else 1),
        compute=torch.float32,
        say=said.append,
    ) as reports:
        reports.add_step(STEP)
        reports.add_evaluation(1, {"loss": 1.5, "loss/agent.jsonl": 1.5})
    return said


def test_a_tracker_is_told_of_every_line(fake, tmp_path):
    module = fake()
    assert report(tmp_path) == []
    (_, options), first, second, last = module.told
    assert options["project"] == "ours"
    assert options["name"] == f"mine-{read_key(tmp_path)[:6]}"
    assert options["config"]["training.seed"] == 42
    assert first[:2] == ("log", 1)
    assert first[2]["train/grad_norm"] == 2.0
    assert not {"train/loss", "train/step"} & set(first[2])
    assert second == ("log", 1, {"eval/loss": 1.5, "eval/loss/agent.jsonl": 1.5})
    assert last == ("finish",)


def test_a_resumed_run_is_the_same_run(fake, tmp_path):
    module = fake()
    report(tmp_path)
    report(tmp_path, done=1)
    first, second = (told[1] for told in module.told if told[0] == "init")
    assert (first["name"], second["name"]) == (first["name"], first["name"])
    assert (first["resume"], second["resume"]) == ("never", "allow")
    (tmp_path / "other").mkdir()
    assert read_key(tmp_path / "other") != read_key(tmp_path)


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_one_that_fails_is_named_once_and_dropped(fake, tmp_path, place):
    module = fake(fails=place)
    said = report(tmp_path)
    assert len(said) == 1
    assert f"trackio failed and gets nothing more of this run: {place} does not work." in said[0]
    assert module.told[-1][0] == place
    assert [told[0] for told in module.told].count(place) == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_only_the_leading_process_tracks(fake, tmp_path):
    module = fake()
    report(tmp_path, leads=False)
    assert module.told == []
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_trackers(["none"])
    with pytest.raises(ConfigError, match="trackio is not installed") as caught:
        require_trackers(["none", "trackio"])
    assert "pip install 'actune[trackio]'" in caught.value.fix


def test_every_name_has_a_tracker_and_mlflow_gets_names_it_takes(monkeypatch):
    assert tuple(TRACKERS) == NAMES
    told: list[dict] = []
    module = types.ModuleType("mlflow")
    module.log_metrics = lambda values, *, step: told.append(values)
    tracker = TRACKERS["mlflow"]()
    tracker._module = module
    tracker.log(1, {"eval/loss/数据 1.jsonl": 1.0})
    assert told == [{"eval/loss/__ 1.jsonl": 1.0}]


def test_a_resumed_run_goes_on_as_the_same_run_in_mlflow(monkeypatch, tmp_path):
    """Stands for MLflow as of 3.17: a run is found by its tags, and a parameter never gets a second value."""
    runs: list[dict] = []
    module = types.ModuleType("mlflow")

    def start_run(*, run_id=None, run_name=None, tags=None):
        if run_id is None:
            runs.append({"tags": tags, "params": None})

    def search_runs(*, experiment_names, filter_string, output_format):
        assert (experiment_names, output_format) == (["kitchen"], "list")
        found = [place for place, run in enumerate(runs) if f"'{run['tags']['actune_key']}'" in filter_string]
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id=str(place))) for place in found]

    def log_params(values):
        assert runs[-1]["params"] is None, "a parameter is changed"
        runs[-1]["params"] = values

    module.set_experiment = lambda name: None
    module.start_run, module.search_runs, module.log_params = start_run, search_runs, log_params
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for key, done in (("one", 0), ("one", 2), ("two", 0), ("three", 2)):
        run = TrackedRun(folder=tmp_path, project="kitchen", name="n", key=key, done=done, settings={"done": done})
        TRACKERS["mlflow"]().start(run)
    # The last one was not tracked by MLflow before it was resumed.
    assert [(run["tags"]["actune_key"], run["params"]["done"]) for run in runs] == [
        ("one", "0"),
        ("two", "0"),
        ("three", "2"),
    ]


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = Settings(monitor=MonitorSettings(device_peak_tflops=0, report_to=("tensorboard",)))
    for done in (0, 1):
        with Reports(
            settings, tmp_path, steps=3, done=done, ranks=Ranks(), compute=torch.float32, say=pytest.fail
        ) as reports:
            for step in range(done + 1, done + 3):
                reports.add_evaluation(step, {"loss": float(step + done)})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/loss")] == [(1, 1.0), (2, 3.0), (3, 4.0)]
    assert json.loads((tmp_path / "trackers.json").read_text())["key"]
