"""`kill -9` at named points of a run, also while it resumes: what comes out is what an unbroken run gives.

One process imports everything once and forks a child for every try; the child kills itself at the chosen event.
`benchmarks/kill.py` does the same to the real command line at random moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

KIT = Path(__file__).resolve().parents[1] / "training_kit.py"
WORKER = """
import importlib.util, json, os, pathlib, shutil, signal, sys
import torch
torch.set_num_threads(1)
from actune.training import checkpoint, metrics
from actune.training.checkpoint import find_newest
from actune.training.ranks import Ranks
from actune.training.run import run_training
from actune.training.step import TrainStep

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
events = []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def patch(owner, attribute, name, kill_at, half=None):
    original = getattr(owner, attribute)
    def counted(*args, **kwargs):
        if attribute == "unlink" and "dir_fd" not in kwargs:
            return original(*args, **kwargs)  # what libraries do with their own files
        events.append(name(*args, **kwargs) if callable(name) else name)
        if len(events) == kill_at:
            if half is not None:
                half(*args, **kwargs)
            elif kill_at % 2:
                original(*args, **kwargs)  # every second kill comes after the event
            die()
        return original(*args, **kwargs)
    setattr(owner, attribute, counted)

def write_half(log, line):
    with log._path.open("a") as file:
        file.write(json.dumps(line)[:20])

def save_half(tensors, path, **kwargs):
    path.write_bytes(b"half")

def train(options):
    kill_at = options["kill_at"]
    for owner, attribute, name in (
        (os, "fsync", "fsync"), (os, "rename", "rename"), (os, "replace", "replace"), (os, "symlink", "symlink"),
        (shutil, "rmtree", "rmtree"), (os, "unlink", "unlink"),
    ):
        patch(owner, attribute, name, kill_at)
    patch(TrainStep, "forward", lambda *_: "forward" if torch.is_grad_enabled() else "evaluation", kill_at)
    patch(metrics.MetricsLog, "_add", "metrics", kill_at, write_half)
    patch(checkpoint, "save_file", "weights", kill_at, save_half)
    run_dir = pathlib.Path(options["run_dir"])
    result = run_training(
        settings=kit.build_settings(**options["settings"]), model_dir=pathlib.Path(options["model"]),
        train_rows=kit.build_rows(11), validation_rows=[kit.build_line(20, seed=90), kit.build_tree(seed=91)],
        run_dir=run_dir, ranks=Ranks(), resume_from=find_newest(run_dir).folder if run_dir.exists() else None,
        fingerprint="f", save_extra=lambda folder: None, say=lambda text: None,
    )
    run_dir.with_suffix(".events").write_text(json.dumps(events))

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(json.loads(line))
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SETTINGS = {
    "tuning": {"lora_dropout_p": 0.05, "lora_target_modules": ["DEFAULT"]},
    "training": {"num_train_epochs": 3, "warmup_ratio": 0.2},
    "output": {"eval_steps": 2, "save_steps": 2, "save_total_limit": 1},
}


class Machine:
    """The process that forks a child for every try."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(KIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def train(self, run_dir: Path, kill_at: int = -1) -> int:
        """Start a run or go on with it; returns its exit code."""
        options = {"model": str(self.model), "run_dir": str(run_dir), "kill_at": kill_at, "settings": SETTINGS}
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def machine(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    kit.build_model(tie_word_embeddings=True).save_pretrained(folder)
    machine = Machine(folder)
    yield machine
    machine.process.stdin.close()
    machine.process.wait()


@pytest.fixture(scope="module")
def whole(machine, tmp_path_factory) -> Path:
    """A run that is never killed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert machine.train(folder) == 0
    return folder


def read(run_dir: Path) -> tuple[list[dict], dict[str, bytes], list[str]]:
    """Metrics without clocks, every byte of result and checkpoints, and the names in the folder."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "tokens_per_second", "peak_memory_bytes")
    files = {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name != "metrics.jsonl"
    }
    names = [f"{path.name} -> {path.readlink()}" if path.is_symlink() else path.name for path in run_dir.iterdir()]
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines], files, sorted(names)


def test_killed_at_any_point_and_again_while_resuming(machine, whole, tmp_path):
    events = json.loads(whole.with_suffix(".events").read_text())
    kinds = ("forward", "evaluation", "metrics", "weights", "fsync", "rename", "replace", "symlink", "rmtree", "unlink")
    assert set(events) == set(kinds)
    rng = random.Random(6)
    chosen = {rng.choice([place for place, name in enumerate(events, 1) if name == kind]) for kind in kinds}
    # Also the last event, and two of the last checkpoint and the result.
    chosen |= {len(events), *rng.sample(range(len(events) - 25, len(events)), 2)}
    wanted = read(whole)
    for number, place in enumerate(sorted(chosen)):
        run_dir = tmp_path / f"{place}-{events[place - 1]}"
        assert machine.train(run_dir, place) == -signal.SIGKILL, place
        if number % 2:
            assert machine.train(run_dir, rng.randint(1, 40)) in (0, -signal.SIGKILL), place
        assert machine.train(run_dir) == 0, place
        lines, files, names = read(run_dir)
        assert names == wanted[2], place
        assert [name for name in wanted[1].keys() | files.keys() if files.get(name) != wanted[1].get(name)] == [], place
        assert lines == wanted[0], place
