"""A disk that is really full: a file system of its own in memory. What was complete stays, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actune.cli.main import main
from actune.core.errors import CheckpointError
from actune.training import loop
from actune.training.checkpoint import find_newest
from actune.training.metrics import MetricsLog
from actune.training.ranks import Ranks
from actune.training.run import run_training

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("checkpoint", "metrics", "result")


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def read(run_dir: Path) -> dict[str, bytes]:
    """Every byte of result and checkpoints."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name != "metrics.jsonl"
    }


@pytest.fixture(scope="module")
def train(kit, tmp_path_factory) -> Callable[[Path], None]:
    model = tmp_path_factory.mktemp("base")
    kit.build_model().save_pretrained(model)

    def run(run_dir: Path) -> None:
        run_training(
            settings=kit.build_settings(
                tuning={"lora_dropout_p": 0.05, "lora_target_modules": ["DEFAULT"]},
                training={"num_train_epochs": 10},
                output={"save_steps": 4},
            ),
            model_dir=model,
            train_rows=kit.build_rows(11),
            validation_rows=[],
            run_dir=run_dir,
            ranks=Ranks(),
            resume_from=find_newest(run_dir).folder if run_dir.exists() else None,
            fingerprint="f",
            save_extra=lambda _: None,
            say=lambda _: None,
        )

    return run


@pytest.fixture(scope="module")
def wanted(train, tmp_path_factory) -> dict[str, bytes]:
    """Files of a run that had room."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return read(folder)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_full_disk_loses_nothing(disk, train, wanted, monkeypatch, moment):
    run_dir = disk / moment
    saved: list[int] = []
    add, save, finish = MetricsLog._add, loop.save_checkpoint, loop._Loop._finish

    def add_line(log, line):
        if moment == "metrics" and len(saved) == 1 and not (disk / "filler").exists():
            fill(disk)
        add(log, line)

    def save_one(*args, **kwargs):
        if moment == "checkpoint" and len(saved) == 2:
            fill(disk)
        if moment == "metrics" and len(saved) == 1:
            return None  # the lines are what runs into the full disk, a page later
        saved.append(kwargs["state"].step)
        return save(*args, **kwargs)

    def end(self):
        if moment == "result":
            fill(disk)
        return finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "_add", add_line)
        patch.setattr(loop, "save_checkpoint", save_one)
        patch.setattr(loop._Loop, "_finish", end)
        with pytest.raises(CheckpointError, match="the disk is full") as caught:
            train(run_dir)
    assert "--resume auto" in caught.value.fix
    names = {"checkpoint": "checkpoint-12", "metrics": "metrics.jsonl", "result": "adapter"}
    assert str(run_dir / names[moment]) in caught.value.message
    assert not list(run_dir.glob(".*"))
    last = {"checkpoint": 8, "metrics": 4, "result": 28}[moment]
    assert find_newest(run_dir).folder == run_dir / f"checkpoint-{last}"
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="the disk is full"):
        train(run_dir)  # it still is
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    (disk / "filler").unlink()
    train(run_dir)
    assert read(run_dir) == wanted


def test_a_command_that_finds_the_disk_full_can_be_given_again(
    disk: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    """Nothing can be written, not even run.json; the report of a run that is trained can be made up for."""
    run_dir = disk / "command"
    words = ["sft", "--model", model, "--output_dir", run_dir, "--dataset", ROOT / "examples/agent.jsonl"]
    words += ["--max_length", 4096, "--max_steps", 1, "--batch_size", 1, "--gradient_accumulation_steps", 2]
    words += ["--lora_target_modules", "DEFAULT", "--compare", "false"]
    line = [str(word) for word in words]
    fill(disk)
    assert main(line) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert not run_dir.exists() or list(run_dir.iterdir()) == []
    (disk / "filler").unlink()
    assert main(line) == 0
    fill(disk)
    assert main([*line[:-2], "--compare_items", "1", "--compare_tokens", "4", "--resume", "auto"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "the disk is full" in message
    assert (run_dir / "adapter/adapter_model.safetensors").exists()
    (disk / "filler").unlink()
    assert main([*line[:-2], "--compare_items", "1", "--compare_tokens", "4", "--resume", "auto"]) == 0
    assert (run_dir / "report/index.html").exists()
