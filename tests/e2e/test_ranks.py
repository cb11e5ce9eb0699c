"""Two gloo processes train as one process with doubled accumulation."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parents[1] / "training_kit.py"
# One process: reads rows only where it leads, as recipes do.
WORKER = """
import importlib.util, json, pathlib, sys
import torch
torch.set_num_threads(1)
from actune.core.errors import ActuneError
from actune.training.ranks import Ranks
from actune.training.run import run_training

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
options = json.loads(sys.argv[2])
ranks = Ranks.start(torch.device("cpu"))
rows = kit.build_rows(options["rows"]) if ranks.leads else None
if ranks.leads and options.get("broken"):
    rows[0].target_weights[:] = float("inf")
run_dir = pathlib.Path(options["run_dir"])
if options.get("full_disk") and ranks.leads:
    import errno
    from actune.training import checkpoint
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")
    checkpoint.save_file = full
try:
    run_training(
        settings=kit.build_settings(**options["settings"]), model_dir=pathlib.Path(options["model"]), train_rows=rows,
        validation_rows=[kit.build_line(20, seed=90)] if ranks.leads else None, run_dir=run_dir, ranks=ranks,
        resume_from=pathlib.Path(options["resume"]) if options.get("resume") else None,
        fingerprint="f" if ranks.leads else "", save_extra=lambda folder: None, say=print,
    )
except ActuneError as error:
    print(f"rank {ranks.rank}: {type(error).__name__}: {error.message}", file=sys.stderr)
    sys.exit(3)
except KeyboardInterrupt:
    print(f"rank {ranks.rank}: interrupted", file=sys.stderr)
    sys.exit(4)
finally:
    ranks.close()
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('kit', sys.argv[1]);"
        "kit = importlib.util.module_from_spec(spec); spec.loader.exec_module(kit);"
        "kit.build_model(tie_word_embeddings=True).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, str(KIT), str(folder)], check=True, capture_output=True)
    return folder


def start(options: dict, *, size: int) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(KIT), json.dumps(options)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    try:
        results = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, err) for process, (_, err) in zip(processes, results, strict=True)]


def options_of(model_dir, run_dir, *, accumulation, dropout=0.0, rows=13, **more) -> dict:
    settings = {
        "tuning": {"lora_dropout_p": dropout},
        "training": {"gradient_accumulation_steps": accumulation, "learning_rate": 1e-3, "num_train_epochs": 2},
        "output": {"eval_steps": 2},
    }
    return {"model": str(model_dir), "run_dir": str(run_dir), "rows": rows, "settings": settings, **more}


def read(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_one_with_doubled_accumulation(model_dir, tmp_path):
    two = start(options_of(model_dir, tmp_path / "two", accumulation=1), size=2)
    assert [code for code, _ in finish(two)] == [0, 0]
    one = start(options_of(model_dir, tmp_path / "one", accumulation=2), size=1)
    assert [code for code, _ in finish(one)] == [0]
    found, wanted = read(tmp_path / "two"), read(tmp_path / "one")
    assert len(wanted) == 7 + 4  # the last step has fewer rows than processes need
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        if "eval" in line:
            assert line["eval"] == pytest.approx(other["eval"], rel=1e-5)
        else:
            for key in ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens"):
                assert line[key] == pytest.approx(other[key], rel=1e-5), key


def test_two_processes_resume_as_if_never_stopped(model_dir, tmp_path):
    options = options_of(model_dir, tmp_path / "run", accumulation=1, dropout=0.05)
    options["settings"]["output"]["save_steps"] = 3
    assert [code for code, _ in finish(start(options, size=2))] == [0, 0]
    weights = (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes()
    options["resume"] = str(tmp_path / "run/checkpoint-6")
    assert [code for code, _ in finish(start(options, size=2))] == [0, 0]
    assert (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes() == weights
    assert [line["step"] for line in read(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]


def test_a_loss_that_is_no_number_ends_both_and_names_the_row(model_dir, tmp_path):
    results = finish(start(options_of(model_dir, tmp_path / "run", accumulation=1, broken=True), size=2))
    assert [code for code, _ in results] == [3, 3]
    assert all("made.jsonl:1" in err for _, err in results)


def test_a_full_disk_on_the_leader_ends_both(model_dir, tmp_path):
    results = finish(start(options_of(model_dir, tmp_path / "run", accumulation=1, full_disk=True), size=2))
    assert [code for code, _ in results] == [3, 3]
    assert "the disk is full" in results[0][1]
    assert "failed in another process" in results[1][1]
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_a_signal_to_one_process_ends_both_after_the_same_step(model_dir, tmp_path):
    options = options_of(model_dir, tmp_path / "run", accumulation=1, dropout=0.05)
    options["settings"]["training"]["max_steps"] = 100_000
    processes = start(options, size=2)
    log = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 4):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [code for code, _ in results] == [4, 4]
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (tmp_path / f"run/checkpoint-{last}/state.json").exists()
    assert (tmp_path / "run/last").resolve().name == f"checkpoint-{last}"
