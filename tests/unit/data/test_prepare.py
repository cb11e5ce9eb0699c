"""The account of a run's rows: what is said of sources named twice, and a table that fits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from actune.config.settings import Settings
from actune.core.errors import ConfigError, DataError
from actune.data.encode import Tally
from actune.data.inspect.rows import counts_table
from actune.data.prepare import Prepared, SourceCount, open_cache
from actune.data.store.parts import Trees


def settings(**data: object) -> Settings:
    return Settings.model_validate({"model": {"model_id_or_path": "m"}, "data": data})


def rows_file(folder: Path, name: str, count: int) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"query": f"{name} {n}", "response": "r"}) + "\n" for n in range(count)))
    return str(path)


def test_a_source_given_twice_is_named_and_counted_once_in_the_table(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType
):
    name = rows_file(tmp_path, "a.jsonl", 10)
    given = settings(dataset=[name], train_dataset_mix_ds=[name], train_dataset_mix_ratio=1.0, validation_ratio=0.0)
    prepared = data_kit.prepare_all(given, tokenizer_folder)
    assert [notice for notice in prepared.notices if "is given 2 times" in notice]
    assert [(count.role, count.read) for count in prepared.counts] == [("agent + general", 20)]


def test_different_sources_need_no_notice(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    names = [rows_file(tmp_path, "a.jsonl", 10), rows_file(tmp_path, "b.jsonl", 10)]
    assert data_kit.choose(settings(dataset=names), tokenizer_folder).notices == ()


def test_a_sample_without_agent_rows_is_said(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    agent, general = rows_file(tmp_path, "a.jsonl", 10), rows_file(tmp_path, "b.jsonl", 10)
    chosen = settings(
        dataset=[agent], train_dataset_mix_ds=[general], train_dataset_mix_ratio=2.0, train_dataset_sample=1
    )
    assert any("leaves no agent row" in notice for notice in data_kit.choose(chosen, tokenizer_folder).notices)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_and_shows_every_number(width: int):
    tally = Tally(
        rows=123456, tokens=98765432, supervised=8765432, over_long=12, quarantined=3, shortened=4, warnings=5
    )
    count = SourceCount(name="a/long_name_of_a_file.jsonl", role="agent", read=123475, unreadable=1, tally=tally)
    prepared = Prepared(train=Trees(), validation=Trees(), counts=(count,), quarantined=(), notices=(), fingerprint="")
    stream = io.StringIO()
    Console(file=stream, width=width).print(counts_table(prepared, width))
    shown = stream.getvalue()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    for number in ("123,456", "98,765,432", "8,765,432", "123,475"):
        assert number in shown
    assert "…" not in shown


def test_columns_without_content_are_left_out():
    count = SourceCount(name="a", role="agent", read=1, unreadable=0, tally=Tally(rows=1))
    prepared = Prepared(train=Trees(), validation=Trees(), counts=(count,), quarantined=(), notices=(), fingerprint="")
    headings = [column.header for column in counts_table(prepared, 160).columns]
    assert headings == ["source", "role", "read", "trained", "tokens", "supervised", "over-long", "quarantined"]


def thinking_rows(folder: Path) -> str:
    path = folder / "thinking.jsonl"
    answers = [{"content": "Yes."}, {"content": "Yes.", "reasoning_content": "They are right."}, {"content": "No."}]
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", **answers[n % 3]}]} for n in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_what_a_template_loses_stops_the_run(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    chosen = settings(dataset=[thinking_rows(tmp_path)], validation_ratio=0.0)
    with pytest.raises(DataError) as caught:
        data_kit.prepare_all(chosen, tokenizer_folder)
    assert caught.value.code == "reasoning-lost"
    assert "cannot hold 3 of 9 rows" in caught.value.message
    assert "thinking.jsonl:2" in caught.value.message
    assert "--allow_loss reasoning" in str(caught.value.fix)


def test_a_loss_is_allowed_by_name_or_left_out_on_purpose(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    chosen = settings(dataset=[thinking_rows(tmp_path)], validation_ratio=0.0)
    prepared = data_kit.prepare_all(chosen, tokenizer_folder, allow_loss=["reasoning"])
    assert len(prepared.train) == 9
    assert [count.tally.warnings for count in prepared.counts] == [3]
    assert any("reasoning-lost in 3 rows" in notice for notice in prepared.notices)
    for strategy in ("discard", "none"):
        chosen = settings(dataset=[thinking_rows(tmp_path)], validation_ratio=0.0, check_dataset_strategy=strategy)
        prepared = data_kit.prepare_all(chosen, tokenizer_folder)
        assert len(prepared.train) == 6
        assert [item.code for item in prepared.quarantined] == ["reasoning-lost"] * 3


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ACTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    cache, notices = open_cache(settings())
    assert "are not kept" in notices[0]
    with cache.scratch() as folder:
        assert folder.is_dir()
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be written"):
        open_cache(settings())
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "own"))
    assert open_cache(settings())[0].root == tmp_path / "own"
    assert open_cache(settings(cache_dir=str(tmp_path / "named")))[0].root == tmp_path / "named"
    assert open_cache(settings(cache=False))[0].root not in (tmp_path / "own", tmp_path / "named")
