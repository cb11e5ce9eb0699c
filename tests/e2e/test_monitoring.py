"""What `sft` watches while training, as a user asks for it."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import pytest

from actune.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def words(model: Path, out: Path, *flags: str) -> list[str]:
    line = ["sft", "--model", model, "--output_dir", out, "--dataset", ROOT / "examples/agent.jsonl"]
    line += ["--train_dataset_mix_ratio", "1", "--train_dataset_mix_ds", ROOT / "examples/general.jsonl"]
    line += ["--self_cognition_sample", "4", "--model_name", "卡卡罗特", "Kakarot", "--model_author", "陶白白", "Tao"]
    line += ["--validation_ratio", "0.2", "--max_length", "4096", "--compare", "false"]
    line += ["--batch_size", "2", "--gradient_accumulation_steps", "1", "--max_steps", "4", "--learning_rate", "5e-3"]
    return [str(word) for word in [*line, *flags]]


def evaluations(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["eval"] for line in lines if "eval" in line]


def test_losses_of_every_source(model: Path, tmp_path: Path):
    assert main(words(model, tmp_path / "run", "--eval_steps", "2", "--eval_rows", "5")) == 0
    found = evaluations(tmp_path / "run")
    assert len(found) == 2
    assert list(found[0])[:2] == ["loss", "loss/agent.jsonl"]
    assert {"loss/general.jsonl", "loss/identity"} <= set(found[0])
    assert found[0]["loss"] == found[0]["loss/agent.jsonl"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--metric_for_best_model", "loss/agent.json"], "did you mean loss/agent.jsonl?"),
        (["--load_best_model_at_end", "true", "--validation_ratio", "0", "--eval_rows", "0"], "nothing is evaluated"),
        (["--early_stopping_patience", "3", "--eval_steps", "0"], "eval_steps is 0"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_an_error_before_the_model_is_loaded(
    model: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "model").mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "model.safetensors").write_bytes(b"never read")
    assert main(words(tmp_path / "model", tmp_path / "run", *flags)) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*"))


def test_probes_early_stopping_and_a_tracker(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[dict[str, float]] = []
    tracker = types.ModuleType("trackio")
    tracker.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
    tracker.init = lambda **_: None
    tracker.log = lambda values, *, step: told.append({"step": step, **values})
    tracker.finish = lambda: None
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    flags = ["--eval_steps", "1", "--eval_rows", "2", "--max_steps", "6", "--logging_steps", "1"]
    watched = ["--probe_items", "3", "--probe_tokens", "8", "--report_to", "trackio"]
    watched += ["--metric_for_best_model", "probe/format_valid", "--early_stopping_patience", "2"]
    assert main(words(model, tmp_path / "watched", *flags, *watched)) == 0
    found = evaluations(tmp_path / "watched")
    # A random model never writes a call: nothing improves after the first evaluation.
    assert [values["probe/format_valid"] for values in found] == [0.0, 0.0, 0.0]
    assert {"probe/strict_call", "probe/tool_name", "probe/no_invented_observation"} <= set(found[0])
    assert [line["step"] for line in told] == [1, 1, 2, 2, 3, 3]
    assert told[1]["eval/probe/format_valid"] == 0.0
    assert told[0]["train/loss"] > 0

    # The same steps without anybody watching have the same weights.
    plain = ["--max_steps", "6", "--save_steps", "3", "--eval_steps", "0"]
    assert main(words(model, tmp_path / "plain", *plain)) == 0
    weights = [
        (tmp_path / path / "adapter_model.safetensors").read_bytes()
        for path in ("watched/adapter", "plain/checkpoint-3")
    ]
    assert weights[0] == weights[1]
