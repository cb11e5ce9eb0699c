"""`actune demo` as a newcomer calls it, with few rows: what is written, what can be done with it, what goes wrong."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from actune.cli.main import main

recipe = importlib.import_module("actune.recipes.demo")  # the package has a function of this name
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AGENT_ROWS": 24, "GENERAL_ROWS": 48, "IDENTITY_ROWS": 8}.items():
            patch.setattr(recipe, name, value)
        for name in ("_SEEN", "_UNSEEN", "_NO_TOOL", "_PLAIN"):
            patch.setattr(recipe, name, 6)
        patch.setattr(recipe.rows, "write_questions", few(recipe.rows.write_questions))
        assert main(["demo", "--out", str(out)]) == 0
    return out


def few(write):
    """Cut the questions, of which there are more than a thousand."""
    return lambda **named: [row for row, _ in zip(write(**named), range(6), strict=False)]


def test_report_has_what_the_contract_names(run: Path):
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert set(report["extra"]) >= {"over_trigger", "invented_observations", "seconds", "peak_memory_bytes"}
    assert 0 < report["extra"]["seconds"] < 300
    assert 1e8 < report["extra"]["peak_memory_bytes"] < 2.5e9
    assert len(report["transcripts"]) == 4
    rows = {(row["axis"], row["split"]): row for row in report["rows"] if row["level"] == "split"}
    assert {split for axis, split in rows if axis == "agent"} == {"held-in", "held-out", "no-tool"}
    assert rows["general", "all"]["metric"] == "general_accuracy"
    assert rows["general", "all"]["n"] == 12
    assert rows["agent", "held-out"]["base"] == 0
    assert (run / "report" / "index.html").stat().st_size > 10_000


def test_the_base_model_knows_facts_and_writes_no_calls(run: Path):
    scores = [json.loads(line) for line in (run / "report" / "base.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = [one["score"] for one in scores if one["metric"] == "general_accuracy"]
    assert sum(facts) / len(facts) > 0.7
    assert not any(one["output"]["calls"] for one in scores if one["axis"] == "agent")


def test_the_folder_is_a_run_and_its_recipe_trains_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = ["sft", str(run / "recipe.yaml"), "--output_dir", str(tmp_path / "again"), "--max_steps", "1"]
    assert main([*line, "--compare", "false"]) == 0
    assert (tmp_path / "again" / "adapter" / "adapter_config.json").is_file()
    tools = ROOT / "examples" / "fire_alarm" / "tools.py"
    capsys.readouterr()
    assert main(["run", "--model", str(run), "--tools", str(tools), "--prompt", "Is there a fire?", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["prompt"] == "Is there a fire?"


def test_a_folder_in_use_is_refused_and_replaced_only_when_asked(run: Path, tmp_path: Path, capsys):
    assert main(["demo", "--out", str(run)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear", encoding="utf-8")
    assert main(["demo", "--out", str(foreign), "--overwrite"]) == 2
    assert (foreign / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_what_an_interrupted_demo_wrote_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "demo"
    (out / "data").mkdir(parents=True)
    monkeypatch.setattr(recipe, "sft", lambda _settings, **_named: 1)
    for name in ("AGENT_ROWS", "GENERAL_ROWS"):
        monkeypatch.setattr(recipe, name, 2)
    (out / "data" / "mine.jsonl").write_text("{}", encoding="utf-8")
    assert main(["demo", "--out", str(out), "--overwrite"]) == 2  # nothing says that this folder is a demo's
    assert (out / "data" / "mine.jsonl").exists()
    (out / "recipe.yaml").write_text("# The demo's settings. Your own: ...", encoding="utf-8")
    assert main(["demo", "--out", str(out)]) == 2
    assert main(["demo", "--out", str(out), "--overwrite"]) == 1
    assert (out / "data" / "agent.jsonl").is_file()
