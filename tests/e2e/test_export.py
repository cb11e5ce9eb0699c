"""`actune export`: from a run to what others load."""

from __future__ import annotations

import importlib
import json
import shutil
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


def test_verification_makes_a_tool_call_and_the_card_tells_it_all(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert export("--model", run, "--to", "merged", "--out", tmp_path / "out", "--verify", "--card_language", "zh") == 0
    said = capsys.readouterr().err
    assert "one written as in training, from the prompt ids of training (react_template.jinja)" in said
    assert "transformers' parser and actune read it alike" in said
    assert "vllm serve . --served-model-name out --chat-template react_template.jinja" in said
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## 配方" in card
    assert "| agent.jsonl | agent | " in card
    assert str(tmp_path.parent) not in card
    assert str(ROOT) not in card


def test_what_fails_its_verification_is_neither_kept_nor_pushed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from actune.exporting import gguf

    pushed = []
    recipe = importlib.import_module("actune.recipes.export")  # the package has a function of that name
    monkeypatch.setattr(recipe, "push", lambda *given, **named: pushed.append(given))
    # A writer that forgets to bring the rows of Llama's queries into order would be found; so is any other wrong number.
    monkeypatch.setattr(gguf, "_convert", lambda weight, kind, name: weight.mul(1.01).numpy())
    words = ["--model", run, "--to", "gguf", "--out", tmp_path / "out", "--push_to_hub", "hf:o/n"]
    assert export(*words) == 1
    assert "read by transformers, differs from the model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert pushed == []


def test_a_merged_model_that_computes_otherwise_is_not_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from actune.modeling import merge

    real = merge.merge_adapter

    def wrong(adapted):
        merged = real(adapted)
        merged.get_output_embeddings().weight.data.mul_(1.01)
        return merged

    monkeypatch.setattr(merge, "merge_adapter", wrong)
    assert export("--model", run, "--to", "merged", "--out", tmp_path / "out", "--verify") == 1
    assert "differs from the adapter model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_push_verifies_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pushed = []

    def push(folder: Path, target: object, *, public: bool, say: object) -> str:
        pushed.append((folder, str(target), public, sorted(path.name for path in folder.iterdir())))
        return "https://hub/o/n"

    monkeypatch.setattr(importlib.import_module("actune.recipes.export"), "push", push)
    assert export("--model", run, "--to", "merged", "--out", tmp_path / "out", "--push_to_hub", "hf:o/n") == 0
    said = capsys.readouterr().err
    assert "relative difference of logits" in said
    assert "pushed: https://hub/o/n" in said
    assert [entry[:3] for entry in pushed] == [(tmp_path / "out", "hf:o/n", False)]
    assert {"README.md", "model.safetensors", "react_template.jinja", "tokenizer.json"} <= set(pushed[0][3])


def test_full_fine_tuning_is_exported_as_it_is(model: Path, tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM

    words = ["sft", "--model", model, "--output_dir", tmp_path / "run", "--dataset", AGENT, "--compare", "false"]
    words += ["--max_steps", "1", "--max_length", "4096", "--batch_size", "1", "--sft_type", "full"]
    assert main([str(word) for word in words]) == 0
    for form in ("merged", "gguf"):
        assert export("--model", tmp_path / "run", "--to", form, "--out", tmp_path / form, "--verify") == 0
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push_to_hub", "o/n"], "is no hub id"),
        (["--push_to_hub", "hf:o/n/file"], "a whole repository is pushed"),
        (["--adapter", "nowhere"], "is no adapter"),
    ],
)
def test_wrong_requests_cost_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert export("--model", run, "--to", "merged", "--out", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_exported_without_a_path_of_this_machine(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    assert export("--model", run, "--to", "adapter", "--out", out, "--verify") == 0
    said = capsys.readouterr().err
    assert "from the prompt ids of training" in said
    assert "vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules out=. --tokenizer ." in said
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == model.name
    assert (out / "adapter_model.safetensors").read_bytes() == (run / "adapter/adapter_model.safetensors").read_bytes()
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(out))
    texts = [path.read_text(encoding="utf-8") for path in out.iterdir() if path.suffix in (".md", ".json", ".jinja")]
    assert not any(str(tmp_path.parent) in text for text in texts)


def test_only_an_exported_folder_is_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    words = ["--model", run, "--to", "adapter", "--out", tmp_path]
    assert export(*words) == 2
    assert export(*words, "--overwrite") == 2
    assert "is no exported folder" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"
    shutil.copytree(run, tmp_path / "holder" / "run")
    (tmp_path / "holder" / "config.json").write_text("{}")
    words[1], words[5] = tmp_path / "holder" / "run", tmp_path / "holder"
    assert export(*words, "--overwrite") == 2
    assert "is read from" in capsys.readouterr().err
    assert (tmp_path / "holder" / "run" / "run.json").is_file()
    words[1] = run
    assert export(*words[:-1], tmp_path / "out") == export(*words[:-1], tmp_path / "out", "--overwrite") == 0


def test_an_adapter_without_its_run_is_known_by_its_parser(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--model", model, "--adapter", run / "adapter", "--to", "merged", "--out", tmp_path / "out", "--verify"]
    assert export(*words) == 0
    assert "react_template.jinja" in capsys.readouterr().err  # the rows were ReAct


def test_a_model_that_knows_no_calls_is_shown_none(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert export("--model", model, "--to", "gguf", "--out", tmp_path, "--verify") == 0
    assert "no tool call is made" in capsys.readouterr().err
    assert not (tmp_path / "react_template.jinja").exists()
