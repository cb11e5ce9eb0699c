"""`actune sft --dry-run` on a folder without weights: a plan for named devices, and nothing written unless asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from actune.cli.main import main
from actune.recipes import plan as plan_module
from actune.recipes.plan import write_span
from actune.training.estimate import Span

AGENT = Path(__file__).resolve().parents[3] / "examples" / "agent.jsonl"


@pytest.fixture
def folder(tmp_path: Path, kit, tokenizer_folder: Path) -> Path:
    """A model folder that holds config and tokenizer only."""
    folder = tmp_path / "model"
    folder.mkdir()
    kit.build_model(vocab_size=512, max_position_embeddings=8192).config.save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def plan(folder: Path, out: Path, *flags: str) -> int:
    words = ["sft", "--model", folder, "--output_dir", out, "--dataset", AGENT, "--max_length", "4096", "--dry-run"]
    return main([str(word) for word in (*words, "--batch_size", "2", "--gradient_accumulation_steps", "2", *flags)])


def test_a_folder_without_weights_is_planned_and_nothing_is_written(folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert plan(folder, tmp_path / "run", "--plan_gpu", "h100", "RTX 4090", "own=8GiB,60TFLOPS") == 0
    said = capsys.readouterr().err
    for text in ("H100", "RTX4090", "own", "longest row", "tokens a second", "35% to 60% of the peak", "comparison"):
        assert text in said
    assert "does not fit" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_name_the_device_at_hand_is_planned_for(folder, tmp_path, capsys):
    assert plan(folder, tmp_path / "run", "--compare", "false") == 0
    said = capsys.readouterr().err
    assert "of a product measured here" in said or "of the peak" in said
    assert "comparison" not in said


def test_a_device_that_is_not_known_is_refused_before_anything_is_read(folder, tmp_path, capsys):
    assert plan(folder, tmp_path / "run", "--plan_gpu", "H1000") == 2
    said = capsys.readouterr().err
    assert "did you mean H100" in said
    assert "What the model will see" not in said


def test_a_plan_file_says_what_the_tables_say(folder, tmp_path, capsys):
    path = tmp_path / "plan.json"
    flags = ["--plan_file", str(path), "--plan_processes", "2", "--plan_gpu", "T4", "H200", "--num_train_epochs", "1"]
    assert plan(folder, tmp_path / "run", *flags) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "T4 multiplies no bf16 numbers" in said
    assert "communication between processes" in said
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["version"], content["rows"], content["steps"], content["rows_per_step"]) == (1, 23, 3, 8)
    small, large = content["devices"]
    assert (small["dtype"], large["dtype"]) == ("fp32", "bf16")
    assert large["memory_bytes"]["total"] == sum(large["memory_bytes"].values()) - large["memory_bytes"]["total"]
    assert large["memory_bytes"]["weights"] < small["memory_bytes"]["weights"]
    assert large["seconds"]["training"][0] < small["seconds"]["training"][0]
    assert not (tmp_path / "run").exists()


def test_the_run_does_what_the_plan_says(folder, kit, tmp_path, capsys):
    """Steps, tokens, trained weights and the tokens of a forward pass: those of the run itself."""
    path, run = tmp_path / "plan.json", tmp_path / "run"
    flags = ["--num_train_epochs", "1", "--compare", "false", "--eval_steps", "0", "--logging_steps", "1"]
    assert plan(folder, run, *flags, "--plan_file", str(path)) == 0
    kit.build_model(vocab_size=512, max_position_embeddings=8192).save_pretrained(folder)
    capsys.readouterr()
    assert plan(folder, run, *flags, "--dry_run", "false") == 0
    said = capsys.readouterr().err
    content = json.loads(path.read_text(encoding="utf-8"))
    device = content["devices"][0]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == content["steps"]
    assert sum(line["tokens"] for line in lines) == pytest.approx(device["tokens_per_step"] * content["steps"])
    assert f"Trained weights: {device['trained']:,} of" in said
    assert f"A forward pass takes at most {device['micro_batch_tokens']:,} tokens" in said
    assert ("own forward pass" in said) == (not device["fused"])


def test_the_accelerator_at_hand_is_read_off(kit, monkeypatch):
    module = SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace(name="NVIDIA H100 80GB HBM3"))
    monkeypatch.setattr(plan_module, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(plan_module, "pick_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(torch, "get_device_module", lambda _device: module)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _device: (1, 79 * 2**30))
    found = plan_module.find_here(kit.build_settings())
    assert (found.dtype, found.size, found.rate, found.bandwidth) == ("bf16", 79 * 2**30, 989.4e12, 3350e9)
    assert found.kind.type != "cpu"


def test_settings_of_a_plan_have_no_effect_without_one(folder, tmp_path, capsys):
    assert plan(folder, tmp_path / "run", "--dry_run", "false", "--plan_gpu", "H100") == 2  # no weights
    assert "plan_gpu has no effect without dry_run" in capsys.readouterr().err


def test_what_another_machine_needs_is_no_reason_not_to_plan(folder, tmp_path, capsys):
    assert plan(folder, tmp_path / "run", "--quant_bits", "4", "--plan_gpu", "RTX4090") == 0
    said = capsys.readouterr().err
    assert "its linear layers lie in 4 bits" in said


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [
        (0.1, 0.25, "100 to 250 ms"),
        (1.5, 3, "1.5 to 3.0 s"),
        (60, 150, "1.0 to 2.5 min"),
        (5400, 10000, "1.5 to 2.8 h"),
        (86400, 200000, "1.0 to 2.3 d"),
        (30, 30.1, "30 s"),
    ],
)
def test_spans_of_time_are_written_for_people(least, most, text):
    assert write_span(Span(least=least, most=most)) == text
