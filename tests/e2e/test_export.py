"""`actune export`: from a run to what others load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "examples" / "agent.jsonl"  # ReAct rows


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["sft", "--model", model, "--output_dir", out, "--dataset", AGENT, "--compare", "false", "--max_steps", "1"]
    assert main([str(word) for word in [*words, "--max_length", "4096", "--batch_size", "1"]]) == 0
    return out


def export(*words: object) -> int:
    return main(["export", *(str(word) for word in words)])


def test_a_run_becomes_a_gguf_file_that_is_its_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert export("--model", run, "--to", "gguf", "--out", tmp_path / "out", "--verify") == 0
    said = capsys.readouterr().err
    assert "logits to the adapter model" in said
    # head_dim 16: transformers does not read it of a Qwen3 file
    assert "with the config.json beside it: relative difference of logits in fp32 0.0e+00" in said
    assert (tmp_path / "out" / "model-f32.gguf").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # no half of it is left


def test_a_model_without_an_adapter_becomes_gguf_too(model: Path, tmp_path: Path):
    assert export("--model", model, "--to", "gguf", "--out", tmp_path, "--gguf_type", "f16") == 0
    assert (tmp_path / "model-f16.gguf").is_file()


def test_a_model_of_another_kind_costs_no_work_and_says_the_command(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "other"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps(config | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]})
    )
    words = ["--model", other, "--adapter", run / "adapter", "--to", "gguf", "--out", tmp_path / "out"]
    assert export(*words) == 2
    said = capsys.readouterr().err
    assert "model_type is 'phi3'" in said
    assert "convert_hf_to_gguf.py MERGED" in said
    assert not (tmp_path / "out").exists()


def test_a_run_becomes_a_folder_for_ollama(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert export("--model", run, "--to", "ollama", "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert "\nFROM ./model-f32.gguf\n" in text
    assert 'PARAMETER stop "Observation:"' in text  # the rows are ReAct
    assert "{{ if .Tools }}" in text
    assert "conversations give the text of training" in capsys.readouterr().err
