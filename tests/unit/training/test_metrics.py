from __future__ import annotations

import json

import torch

from actune.training.metrics import MetricsLog, ProgressBar, StepMetrics, read_peak_memory

STEP = StepMetrics(
    step=3,
    epoch=0.5,
    loss=1.25,
    learning_rate=1e-3,
    grad_norm=2.0,
    tokens=100,
    supervised_tokens=40,
    tokens_per_second=50.0,
    peak_memory_bytes=1,
    seconds=2.0,
)


def test_lines_have_the_keys_of_the_contract(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", writes=True, from_step=0)
    log.add_step(STEP)
    log.add_eval(3, {"loss": 1.5})
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list(first) == [
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "supervised_tokens",
        "tokens_per_second",
        "peak_memory_bytes",
        "seconds",
    ]
    assert second == {"step": 3, "eval": {"loss": 1.5}}


def test_a_value_that_does_not_apply_is_absent(tmp_path):
    from dataclasses import replace

    log = MetricsLog(tmp_path / "metrics.jsonl", writes=True, from_step=0)
    log.add_step(replace(STEP, loss=None, grad_norm=None))
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert "loss" not in line
    assert "grad_norm" not in line


def test_a_resumed_run_cuts_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "eval": {}}\n{"step": 3}\n{"ste', encoding="utf-8")
    MetricsLog(path, writes=False, from_step=2)
    assert path.read_text().count("\n") == 3
    MetricsLog(path, writes=True, from_step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "eval": {}}\n'


def test_without_a_terminal_only_logged_steps_are_shown(capfd):
    with ProgressBar(steps=9, done=0, shows=True) as bar:
        bar.show(STEP, logged=False)
        assert capfd.readouterr().err == ""
        bar.show(STEP, logged=True)
    assert "step 3/9  loss 1.2500  50 tokens/s" in capfd.readouterr().err


def test_peak_memory_counts_bytes():
    before = read_peak_memory(torch.device("cpu"))
    held = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert held.sum() > 0
    assert 2**24 < before <= read_peak_memory(torch.device("cpu")) < 2**40
