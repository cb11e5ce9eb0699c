"""What a run writes for servers: the parser of its calls, in the adapter and in what is exported from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils.chat_parsing import content_parsers

from actune.cli.main import main
from actune.modeling import tokenizer_files
from actune.modeling.tokenizer_check import Verdict

AGENT = Path(__file__).resolve().parents[2] / "examples" / "agent.jsonl"  # ReAct rows


def train(model: Path, out: Path) -> int:
    words = ["sft", "--model", model, "--output_dir", out, "--dataset", AGENT, "--compare", "false", "--max_steps", "1"]
    return main([str(word) for word in [*words, "--max_length", "4096", "--batch_size", "1"]])


def stored(folder: Path) -> dict:
    return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["response_template"]


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train(model, out) == 0
    return out


@pytest.mark.skipif(
    "python-call-list" not in Path(content_parsers.__file__).read_text(encoding="utf-8"),
    reason="the parser of this version of transformers knows less: no spec is stored",
)
def test_adapter_and_export_carry_the_spec_of_the_rows(run: Path, model: Path, tmp_path: Path):
    spec = stored(run / "adapter")
    assert "Action Input:" in spec["fields"]["tool_calls"]["open_pattern"]
    words = ["export", "--to", "merged", "--model"]
    assert main([*words, str(run), "--out", str(tmp_path / "a")]) == 0
    # Without the run nothing says what the rows were; the adapter's own spec stays.
    assert main([*words, str(model), "--adapter", str(run / "adapter"), "--out", str(tmp_path / "b")]) == 0
    assert stored(tmp_path / "a") == stored(tmp_path / "b") == spec


def test_a_base_model_with_another_tokenizer_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (run / "adapter").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    content = json.loads((adapter / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][-1]["content"] = "<|other|>"
    (adapter / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    words = ["export", "--to", "merged", "--model", str(run), "--adapter", str(adapter), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "trained with another tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_others_read_otherwise_does_not_cost_the_training(
    run: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tokenizer_files, "check_saved_tokenizer", lambda *_: Verdict(fault="other ids"))
    assert train(model, tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert err.count("WARNING: the saved tokenizer") == 1
    assert "Done: 1 steps" in err
    for name in ("adapter_model.safetensors", "tokenizer.json"):
        assert (tmp_path / "run" / "adapter" / name).read_bytes() == (run / "adapter" / name).read_bytes()
    words = ["export", "--to", "merged", "--model", str(run), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()
