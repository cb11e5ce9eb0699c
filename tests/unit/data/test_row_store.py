"""Rows found once and encoded in parallel: the same rows as in one process, found again, never out of date."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actune.config.settings import Settings
from actune.core.errors import ConfigError, DataError
from actune.data.encode import encode_rows
from actune.data.reading.sources import load_conversations
from actune.data.store import index as row_index
from actune.data.store import store as row_store
from actune.data.store.cache import Cache, code_files
from actune.data.store.index import open_table
from actune.data.store.parts import digest_of
from actune.data.store.store import EncodingRecipe
from actune.render.encoder import Encoder

TREE = ("input_ids", "positions", "end", "target_positions", "target_ids", "target_weights")


def make_rows(count: int) -> list[dict]:
    """Chats of one and two rounds, with reasoning, weights and rows that cannot be trained."""
    rows = []
    for n in range(count):
        messages = [{"role": "user", "content": f"question {n}?"}]
        answer = {"role": "assistant", "content": f"answer {n}", "reasoning_content": f"thought {n}"}
        messages.append(answer | ({"weight": 0.5} if n % 5 == 0 else {}))
        if n % 3 == 0:
            messages += [{"role": "user", "content": "and then?"}, {"role": "assistant", "content": "the end"}]
        if n % 7 == 6:
            messages[1]["loss"] = False
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_for(path: Path, **data: object) -> Settings:
    given = {"dataset": [str(path)], "validation_ratio": 0.0, "check_dataset_strategy": "discard", **data}
    return Settings.model_validate({"model": {"model_id_or_path": "m"}, "data": given})


def assert_equal(found, wanted) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for name in TREE:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert getattr(one, name).dtype == getattr(other, name).dtype
        assert one.source == other.source


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few rows enough for several processes."""
    monkeypatch.setattr(row_store, "_PART", 16)
    monkeypatch.setattr(row_store, "_FEW", 0)
    monkeypatch.setattr(row_index, "_CHUNK", 2000)


@pytest.mark.parametrize("processes", [1, 3])
def test_stored_rows_are_those_of_one_process(
    tmp_path: Path, thinking_folder: Path, data_kit: ModuleType, small_parts: None, processes: int
):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(70))
    settings = settings_for(path)
    wanted = encode_rows(
        load_conversations(str(path)).conversations,
        Encoder.from_folder(thinking_folder),
        max_length=2048,
        truncation="delete",
        strategy="discard",
    )
    for cache in (Cache(tmp_path / "cache"), Cache(tmp_path / "cache")):
        prepared = data_kit.prepare_all(settings, thinking_folder, cache, processes)
        by_line = sorted(prepared.train, key=lambda tree: tree.source.line)
        assert_equal(by_line, wanted.trees)
        assert any(tree.has_branches for tree in by_line)
        assert {item.code for item in prepared.quarantined} == {item.code for item in wanted.quarantined}
        assert prepared.counts[0].tally == wanted.tallies[str(path)]


def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, thinking_folder: Path, data_kit: ModuleType, small_parts: None
):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(70))
    found = {
        processes: data_kit.prepare_all(settings_for(path), thinking_folder, None, processes).fingerprint
        for processes in (1, 2, 4)
    }
    assert len(set(found.values())) == 1


def test_only_what_was_not_encoded_is(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"query": f"{n}?", "response": "yes"} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    cache = Cache(tmp_path / "cache")
    seen: list[int] = []
    whole = row_store.encode_row

    def count(conversation, *args, **kwargs):
        seen.append(conversation.source.line)
        return whole(conversation, *args, **kwargs)

    monkeypatch.setattr(row_store, "encode_row", count)
    data_kit.prepare_all(settings_for(Path(f"{path}#10")), tokenizer_folder, cache)
    assert len(seen) == 10
    data_kit.prepare_all(settings_for(path), tokenizer_folder, cache)
    assert len(seen) == 40
    assert len(set(seen)) == 40
    data_kit.prepare_all(settings_for(path, max_length=1000), tokenizer_folder, cache)
    assert len(seen) == 40
    path.write_text(path.read_text(encoding="utf-8") + json.dumps(rows[0]) + "\n", encoding="utf-8")
    assert len(data_kit.prepare_all(settings_for(path), tokenizer_folder, cache).train) == 41
    assert len(seen) == 81


def test_what_is_written_decides_the_key(tmp_path: Path, tokenizer_folder: Path, thinking_folder: Path):
    def key(folder: Path, truncation="delete", max_length=10, **options) -> str:
        return EncodingRecipe(folder=str(folder), options=options, max_length=max_length, truncation=truncation).key()

    plain = key(tokenizer_folder)
    assert plain == key(tokenizer_folder, max_length=20)  # whole rows are kept, whatever a run takes
    assert plain == key(tokenizer_folder, now="2026-01-01")  # no template reads the clock
    expecting = EncodingRecipe(
        folder=str(tokenizer_folder), options={}, max_length=10, truncation="delete", expected=10**9
    )
    assert plain == expecting.key()
    others = {
        key(thinking_folder), key(tokenizer_folder, dialect="react"), key(tokenizer_folder, allow_loss=["reasoning"]),
        key(tokenizer_folder, truncation="turns"), key(tokenizer_folder, truncation="turns", max_length=20),
    }  # fmt: skip
    assert len(others | {plain}) == 6
    clock = tmp_path / "clock.jinja"
    clock.write_text("{{ strftime_now('%d') }}{% for m in messages %}{{ m.role }}{{ m.content }}\n{% endfor %}")
    days = {key(tokenizer_folder, chat_template=str(clock), now=f"2026-01-0{day}") for day in (1, 2)}
    assert len(days) == 2


def test_the_key_covers_the_code_that_writes_rows():
    names = {path.parent.name + "/" + path.name for path in code_files()}
    assert {"render/encoder.py", "formats/openai.py", "core/react.py", "data/encode.py", "checks/rules.py"} <= names


def test_damaged_entries_are_made_anew(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"query": f"{n}?", "response": "yes"} for n in range(20)])
    cache = Cache(tmp_path / "cache")
    first = data_kit.prepare_all(settings_for(path), tokenizer_folder, cache).fingerprint
    for name in ("ids.npy", "lines.npy"):
        (damaged,) = cache.root.rglob(name)
        damaged.write_bytes(damaged.read_bytes()[:-40])
        assert data_kit.prepare_all(settings_for(path), tokenizer_folder, cache).fingerprint == first


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_other_files_give_the_same_rows(tmp_path: Path, name: str):
    rows = [{"query": f"{n}\n多行?", "response": "yes"} for n in range(30)]
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(write_jsonl(tmp_path / "plain.jsonl", rows).read_bytes()))
    elif name.endswith(".csv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["query", "response"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    wanted = load_conversations(str(path)).conversations
    table = open_table(
        path, name=str(path), shown=str(path), format_name=None, cache=Cache(tmp_path / "cache"), processes=1
    )
    assert tuple(row.load() for row in table.rows()) == wanted
    assert [row.source for row in table.rows()] == [one.source for one in wanted]


def test_rows_that_cannot_be_read_keep_their_lines(tmp_path: Path, small_parts: None):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"query": "a?", "response": "b"})
    lines = [good, "", "{", good, '{"query": "", "response": "x"}', good] * 30
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    for processes in (1, 2):
        table = open_table(
            path,
            name="d",
            shown="shown",
            format_name=None,
            cache=Cache(tmp_path / f"c{processes}"),
            processes=processes,
        )
        assert [row.source.line for row in table.rows()] == [n for n, line in enumerate(lines, 1) if line == good]
        assert [item.source.line for item in table.quarantined] == [
            n for n, line in enumerate(lines, 1) if line not in (good, "")
        ]
        assert {row.load().messages[0].content for row in table.rows()} == {"a?"}


def test_a_file_that_changes_under_a_run_is_said(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"query": "a?", "response": "b"}] * 3)
    table = open_table(
        path, name="d", shown="rows.jsonl", format_name=None, cache=Cache(tmp_path / "cache"), processes=1
    )
    path.write_text("nothing of this is a row any more ............\n" * 5)
    with pytest.raises(ConfigError, match="has changed while it was read"):
        table.rows()[0].load()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"query": "a?", "response": "b"}] * 3)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        data_kit.prepare_all(settings_for(path), tokenizer_folder, Cache(tmp_path / "cache"))
    assert "--cache_dir" in str(caught.value.fix)


def test_the_cache_keeps_within_its_limit(tmp_path: Path):
    cache = Cache(tmp_path / "cache", limit=2500)
    for number in range(4):
        with cache.put("kind", str(number), {}) as folder:
            (folder / "data").write_bytes(b"x" * 1000)
        stamp = 1_000_000 + number
        os.utime(cache.root / "kind" / str(number) / "meta.json", (stamp, stamp))
    assert cache.find("kind", "0") is not None  # used now
    cache.prune()
    assert sorted(path.name for path in (cache.root / "kind").iterdir()) == ["0", "3"]
    cache.limit = 10
    cache.prune()
    assert [path.name for path in (cache.root / "kind").iterdir()] == ["0"]  # its rows may still be read
    assert not list(cache.root.glob(".new-*"))


def test_errors_of_a_strategy_come_from_stored_rows_too(
    tmp_path: Path, thinking_folder: Path, data_kit: ModuleType, small_parts: None
):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(14))
    cache = Cache(tmp_path / "cache")
    data_kit.prepare_all(settings_for(path), thinking_folder, cache, 2)
    with pytest.raises(DataError) as caught:
        data_kit.prepare_all(settings_for(path, check_dataset_strategy="error"), thinking_folder, cache, 2)
    assert caught.value.code == "nothing-trained"


def test_digests_tell_trees_apart(tmp_path: Path, thinking_folder: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(12))
    trees = encode_rows(
        load_conversations(str(path)).conversations,
        Encoder.from_folder(thinking_folder),
        max_length=-1,
        truncation="delete",
        strategy="none",
    ).trees
    digests = {digest_of(tree) for tree in trees}
    assert len(digests) == len(trees)
    lighter = dataclasses.replace(trees[1], target_weights=trees[1].target_weights * np.float32(0.5))
    assert digest_of(lighter) != digest_of(trees[1])


@pytest.mark.parametrize("format_name", [None, "query-response"])
def test_a_file_that_is_no_utf8_is_one_error(tmp_path: Path, format_name: str | None):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(('{"query": "a?", "response": "b"}\n' * 3).encode("utf-16"))
    with pytest.raises(ConfigError, match="UTF-16"):
        open_table(
            path, name="d", shown="rows.jsonl", format_name=format_name, cache=Cache(tmp_path / "c"), processes=1
        )


def test_a_format_that_does_not_exist_is_said_first(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"query": "a?", "response": "b"}])
    with pytest.raises(ConfigError, match="there is no format 'query'"):
        open_table(path, name="d", shown="d", format_name="query", cache=Cache(tmp_path / "c"), processes=1)
