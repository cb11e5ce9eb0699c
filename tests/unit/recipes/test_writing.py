from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.config.load import dump_settings
from actune.config.settings import ModelSettings, RenderSettings, Settings
from actune.core.errors import ConfigError
from actune.recipes.writing import check_out, find_writing, load_rows

ROW = '{"query": "q", "response": "r"}\n'


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows" / "a.jsonl"
    path.parent.mkdir()
    path.write_text(ROW)
    return path


@pytest.mark.parametrize(
    "spec", ["rows/a.jsonl", "rows/a.jsonl#1", "rows/../rows/a.jsonl", "rows", "rows/*.jsonl", "**/[a].jsonl#1"]
)
def test_an_input_is_never_the_output(rows: Path, monkeypatch: pytest.MonkeyPatch, spec: str):
    monkeypatch.chdir(rows.parent.parent)
    with pytest.raises(ConfigError, match="is read from"):
        check_out(rows, ["other.jsonl", spec])
    check_out(rows.with_name("b.jsonl"), [spec])


def test_an_output_without_a_place_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(ConfigError, match="is a folder"):
        check_out(tmp_path, [])
    with pytest.raises(ConfigError, match="there is no folder"):
        check_out(tmp_path / "absent" / "out.jsonl", [])


def test_what_a_source_has_to_say_is_said(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert len(load_rows(f"{rows}#5", None).conversations) == 1
    assert "5 rows were asked for, 1 can be read" in capsys.readouterr().err.replace("\n", " ")


def test_loss_weights_of_a_run_are_laid_only_where_asked(tmp_path: Path, tokenizer_folder: Path):
    settings = Settings(
        model=ModelSettings(model_id_or_path=str(tokenizer_folder)),
        render=RenderSettings(loss_weights=("thought=0.5",)),
    )
    facts = {"settings": dump_settings(settings), "model_dir": str(tokenizer_folder), "date": "2026-01-02"}
    (tmp_path / "run.json").write_text(json.dumps({"version": 1, **facts}))

    def weights(**more) -> tuple[str, ...]:
        return find_writing(str(tmp_path), None, None, None, None, False, **more).loss_weights

    assert weights() == ()
    assert weights(loss_weights=()) == ("thought=0.5",)
    assert weights(loss_weights=("stop=2",)) == ("stop=2",)
