"""Two gloo processes train as one process with doubled accumulation."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actune.training.ranks import Ranks
from actune.training.run import run_training

KIT = Path(__file__).resolve().parents[1] / "training_kit.py"
# One process: reads rows only where it leads, as recipes do.
WORKER = """
import errno, importlib.util, json, pathlib, sys
import torch
torch.set_num_threads(1)
from actune.core.errors import ActuneError
from actune.training import checkpoint
from actune.training.ranks import Ranks
from actune.training.run import run_training
from actune.training.step import TrainStep

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
save_file, forward = checkpoint.save_file, TrainStep.forward

def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

def limit(room):
    def limited(module, inputs):
        if torch.is_grad_enabled() and inputs.input_ids.shape[1] > room:
            raise torch.OutOfMemoryError("out of memory")
        return forward(module, inputs)
    return limited

def run(ranks, options):
    room = options.get("room")
    TrainStep.forward = forward if room is None or ranks.leads else limit(room)
    rows = kit.build_rows(options["rows"]) if ranks.leads else None
    if ranks.leads and options.get("broken"):
        rows[0].target_weights[:] = float("inf")
    checkpoint.save_file = full if ranks.leads and options.get("full_disk") else save_file
    try:
        run_training(
            settings=kit.build_settings(**options["settings"]), model_dir=pathlib.Path(options["model"]),
            train_rows=rows, validation_rows=[kit.build_line(20, seed=90)] if ranks.leads else None,
            run_dir=pathlib.Path(options["run_dir"]), ranks=ranks,
            resume_from=pathlib.Path(options["resume"]) if options.get("resume") else None,
            fingerprint="f" if ranks.leads else "", save_extra=lambda folder: None, say=lambda text: None,
        )
    except ActuneError as error:
        return f"{type(error).__name__}: {error.message}"
    except KeyboardInterrupt:
        return "interrupted"
    return "done"

ranks = Ranks.start(torch.device("cpu"))
results = [run(ranks, options) for options in json.loads(sys.argv[2])]
ranks.close()
print(json.dumps(results))
"""


def start(scenarios: list[dict], *, size: int) -> list[subprocess.Popen]:
    """Start processes that go through all scenarios, one after another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(KIT), json.dumps(scenarios)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen]) -> list[list[str]]:
    """Wait for all; returns the outcome of each scenario, by process."""
    try:
        results = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in results]


def options_of(model_dir, run_dir, *, accumulation, dropout=0.0, **more) -> dict:
    settings = {
        "tuning": {"lora_dropout_p": dropout},
        "training": {"gradient_accumulation_steps": accumulation, "learning_rate": 1e-3, "num_train_epochs": 2},
        "output": {"eval_steps": 2, "save_steps": 3},
    }
    return {"model": str(model_dir), "run_dir": str(run_dir), "rows": 13, "settings": settings, **more}


def idle(model_dir, run_dir, *, accumulation) -> dict:
    """All weights, one row a process and step; in the last step a process has none."""
    options = options_of(model_dir, run_dir, accumulation=accumulation)
    options["rows"] = 5
    options["settings"]["tuning"] = {"sft_type": "full"}
    options["settings"]["training"] |= {"batch_size": 1, "num_train_epochs": 1}
    return options


def read(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") >= lines):
        time.sleep(0.1)


def train_alone(kit, options: dict) -> None:
    run_training(
        settings=kit.build_settings(**options["settings"]),
        model_dir=Path(options["model"]),
        train_rows=kit.build_rows(options["rows"]),
        validation_rows=[kit.build_line(20, seed=90)],
        run_dir=Path(options["run_dir"]),
        ranks=Ranks(),
        resume_from=None,
        fingerprint="f",
        save_extra=lambda _: None,
        say=lambda _: None,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the runs, and what both processes said to each of them; all in one start of the processes."""
    spec = importlib.util.spec_from_file_location("training_kit", KIT)
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    folder = tmp_path_factory.mktemp("runs")
    base = folder / "base"
    kit.build_model(tie_word_embeddings=True).save_pretrained(base)
    scenarios = {
        "two": options_of(base, folder / "two", accumulation=1),
        "idle": idle(base, folder / "idle", accumulation=1),
        "whole": options_of(base, folder / "whole", accumulation=1, dropout=0.05),
        "cut": options_of(base, folder / "cut", accumulation=1, dropout=0.05),
        "resumed": options_of(
            base, folder / "cut", accumulation=1, dropout=0.05, resume=str(folder / "cut/checkpoint-6")
        ),
        "broken": options_of(base, folder / "broken", accumulation=1, broken=True),
        "short": options_of(base, folder / "short", accumulation=1, room=25),
        "too-long": options_of(base, folder / "too-long", accumulation=1, room=5),
        "full": options_of(base, folder / "full", accumulation=1, full_disk=True),
        "signal": options_of(base, folder / "signal", accumulation=1, dropout=0.05),
    }
    scenarios["signal"]["settings"]["training"]["max_steps"] = 100_000
    processes = start(list(scenarios.values()), size=2)
    try:
        train_alone(kit, options_of(base, folder / "one", accumulation=2))
        train_alone(kit, idle(base, folder / "busy", accumulation=2))
        wait_for(folder / "signal/metrics.jsonl", lines=4)
        processes[1].send_signal(signal.SIGTERM)
    finally:
        both = finish(processes)
    return folder, dict(zip(scenarios, zip(*both, strict=True), strict=True))


def test_two_processes_are_one_with_doubled_accumulation(runs):
    folder, said = runs
    assert said["two"] == ("done", "done")
    found, wanted = read(folder / "two"), read(folder / "one")
    assert len(wanted) == 7 + 4
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        if "eval" in line:
            assert line["eval"] == pytest.approx(other["eval"], rel=1e-5)
        else:
            for key in ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens"):
                assert line[key] == pytest.approx(other[key], rel=1e-5), key


def test_a_process_without_rows_adds_nothing(runs):
    folder, said = runs
    assert said["idle"] == ("done", "done")
    found, wanted = (load_file(folder / name / "model/model.safetensors") for name in ("idle", "busy"))
    base = load_file(folder / "base/model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        change, other = tensor - base[name], found[name] - base[name]
        assert float((other - change).norm()) <= 1e-4 * float(change.norm()), name
    lines = [[line for line in read(folder / name) if "loss" in line] for name in ("idle", "busy")]
    assert len(lines[1]) == 3
    for line, other in zip(*lines, strict=True):
        for key in ("loss", "grad_norm", "tokens"):
            assert line[key] == pytest.approx(other[key], rel=1e-5), key


def test_memory_lacking_in_one_process_makes_smaller_micro_batches_in_both(runs):
    folder, said = runs
    assert said["short"] == ("done", "done")
    assert (folder / "short/memory.json").exists()
    for line, other in zip(read(folder / "short"), read(folder / "two"), strict=True):
        for key in line.keys() & {"loss", "grad_norm", "tokens"}:
            assert line[key] == pytest.approx(other[key], rel=1e-5), key
    assert all("a row by itself does not fit" in text or "one row of" in text for text in said["too-long"])


def test_two_processes_resume_as_if_never_stopped(runs):
    folder, said = runs
    assert said["resumed"] == ("done", "done")
    weights = [(folder / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert [line["step"] for line in read(folder / "cut") if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]


def test_a_loss_that_is_no_number_ends_both_and_names_the_row(runs):
    folder, said = runs
    assert all("no finite number" in text and "made.jsonl:1." in text for text in said["broken"])
    (place,) = (folder / "broken").glob("broken-step-*")
    rows = json.loads((place / "batch.json").read_text())["rows"]
    # Every process looked at its own rows.
    assert {row["process"] for row in rows} == {0, 1}
    assert [row["source"]["line"] for row in rows if not row["finite"]] == [1]


def test_a_full_disk_on_the_leader_ends_both(runs):
    folder, said = runs
    assert "the disk is full" in said["full"][0]
    assert "failed in another process" in said["full"][1]
    assert not list((folder / "full").glob("*checkpoint*"))


def test_a_signal_to_one_process_ends_both_after_the_same_step(runs):
    folder, said = runs
    assert said["signal"] == ("interrupted", "interrupted")
    last = [line["step"] for line in read(folder / "signal")][-1]
    assert (folder / f"signal/checkpoint-{last}/state.json").exists()
    assert (folder / "signal/last").resolve().name == f"checkpoint-{last}"
