"""Files to rows with lines, rows to conversations, and what lands in quarantine."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from actune.core.errors import ConfigError, DataError
from actune.core.types import Source
from actune.data.reading import files, sources
from actune.data.reading.sources import load_conversations, read_conversations, read_file

PAIRS = [{"query": f"q{number}", "response": f"r{number}"} for number in range(10)]


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def outcome(path: Path) -> list[tuple[int, object]]:
    """Return (line, row or error code) of each row."""
    return [(source.line, row.code if isinstance(row, DataError) else row) for source, row in read_file(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.v2.jsonl", "A.JSONL"])
def test_jsonl_lines_count_blank_lines_too(tmp_path, name):
    path = write(tmp_path / name, '{"a": 1}\n\n  \r\n{"a": 2}\r\n{"a": "\u2028"}')
    assert outcome(path) == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": "\u2028"})]


def test_reading_goes_on_after_a_wrong_line(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2 "b"}\n[1]\n{"a": "\\ud83d"}\n{"a": "\\ud83d\\ude00"}\n')
    codes = ["json-invalid", "row-not-object", "surrogate-alone"]
    assert outcome(path) == [(1, {"a": 1}), (2, codes[0]), (3, codes[1]), (4, codes[2]), (5, {"a": "😀"})]
    error = list(read_file(path))[1][1]
    assert isinstance(error, DataError)
    assert "line 2, column 9" in error.message


def test_bom_is_accepted_and_wrong_utf8_named_by_line_and_byte(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n{"a": 3}\n')
    assert outcome(path) == [(1, {"a": 1}), (2, "utf8-invalid"), (3, {"a": 3})]
    error = list(read_file(path))[1][1]
    assert isinstance(error, DataError)
    assert "line 2, byte 8" in error.message


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_array_gives_the_line_where_each_element_starts(tmp_path, name):
    text = '\n[\n  {"a": 1}, {"a":\n 2},\n\n  {\n"a": 3}\n]\n'
    assert outcome(write(tmp_path / name, text)) == [(3, {"a": 1}), (3, {"a": 2}), (6, {"a": 3})]


@pytest.mark.parametrize("key", ["data", "rows"])
def test_json_object_with_a_list_of_rows(tmp_path, key):
    path = write(tmp_path / "a.json", '{"version": [1, {}],\n "%s": [\n{"a": 1}]}' % key)  # noqa: UP031 - braces
    assert outcome(path) == [(3, {"a": 1})]


def test_json_of_one_row_and_json_with_an_object_a_line(tmp_path):
    assert outcome(write(tmp_path / "one.json", '{\n"query": "q",\n"response": "r"}')) == [
        (1, {"query": "q", "response": "r"})
    ]
    assert outcome(write(tmp_path / "lines.json", '{"a": 1}\n{"a": }\n{"a": 3}\n')) == [
        (1, {"a": 1}),
        (2, "json-invalid"),
        (3, {"a": 3}),
    ]


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ('[{"a": 1},\n {"a" 2}]', 2, "line 2, column 7"),
        ('[{"a": 1}\n {"a": 2}]', 2, "line 2, column 2: ',' or ']' expected"),
        ('[{"a": 1},\n', 2, "line 2, column 1"),
        ('"text"', 1, "array of objects"),
        ('{"a": 1', 1, "line 1"),
    ],
)
def test_wrong_json_names_line_and_column(tmp_path, text, line, part):
    *_, (source, error) = read_file(write(tmp_path / "a.json", text))
    assert isinstance(error, DataError)
    assert (source.line, error.code) == (line, "json-invalid")
    assert part in error.message


def test_wrong_utf8_in_json(tmp_path):
    path = write(tmp_path / "a.json", b'[{"a": 1},\n{"a": "\xe4"},\n{"a": 3}]')
    assert outcome(path) == [(1, {"a": 1}), (2, "utf8-invalid"), (3, {"a": 3})]
    error = list(read_file(path))[1][1]
    assert isinstance(error, DataError)
    assert "line 2, byte 8" in error.message


def test_deeply_nested_json_is_an_error_of_its_row(tmp_path):
    path = write(tmp_path / "a.jsonl", "[" * 200_000 + '\n{"a": 1}\n')
    assert outcome(path) == [(1, "json-invalid"), (2, {"a": 1})]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_rows_by_number_with_nested_cells(tmp_path, name):
    messages = json.dumps([{"role": "user", "content": 'a,\n"b"'}])
    plain = tmp_path / "plain.csv"
    with plain.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["messages", "tag"], [messages, ""], ["[nope", "x"], ["only"]])
    path = write(tmp_path / name, plain.read_bytes())
    assert outcome(path) == [(1, {"messages": json.loads(messages)}), (2, "json-invalid"), (3, "csv-columns")]


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet_rows_by_number_with_nested_cells(tmp_path, name):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    call = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]}]  # fmt: skip
    table = pa.Table.from_pylist(
        [{"messages": call, "tools": '[{"name": "f"}]'}, {"messages": call[:1], "tools": None}]
    )
    pq.write_table(table, tmp_path / "plain.parquet")
    path = write(tmp_path / name, (tmp_path / "plain.parquet").read_bytes())
    rows = list(read_conversations(path))
    assert [source.line for source, _ in rows] == [1, 2]
    assert rows[0][1].messages[1].tool_calls[0].name == "f"
    assert rows[1][1].code == "no-assistant"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("empty.jsonl", "", "is empty"),
        ("blank.jsonl", "\n \n", "has no rows"),
        ("none.json", "[]", "has no rows"),
        ("a.md", "x", "no type that can be read"),
        ("a.parquet", "not parquet", "cannot be read"),
    ],
)
def test_a_file_that_gives_no_rows_is_a_setting_error(tmp_path, name, content, part):
    with pytest.raises(ConfigError, match=part):
        load_conversations(str(write(tmp_path / name, content)))


def test_a_damaged_gz_is_a_setting_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(PAIRS * 50).encode())[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_conversations(str(path))


def test_missing_files_and_names_suggest_what_is_there(tmp_path):
    write(tmp_path / "train.jsonl", jsonl(PAIRS))
    with pytest.raises(ConfigError, match=r"did you mean '.*train\.jsonl'"):
        load_conversations(str(tmp_path / "trian.jsonl"))
    with pytest.raises(ConfigError, match=r"did you mean '.*train\.jsonl'"):
        read_file(tmp_path / "trian.jsonl")
    with pytest.raises(ConfigError, match="did you mean 'ms-agent'"):
        load_conversations("ms-agnt")
    with pytest.raises(ConfigError, match="is a folder"):
        read_file(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="no data file"):
        load_conversations(str(tmp_path / "sub"))


def test_a_folder_is_all_its_data_files(tmp_path):
    write(tmp_path / "b.jsonl", jsonl(PAIRS[5:]))
    write(tmp_path / "a.json", json.dumps(PAIRS[:5]))
    write(tmp_path / "notes.md", "x")
    loaded = load_conversations(str(tmp_path))
    assert [c.messages[0].content for c in loaded.conversations] == [row["query"] for row in PAIRS]
    assert loaded.conversations[5].source == Source(file=str(tmp_path / "b.jsonl"), line=1, dataset=str(tmp_path))


def test_drawing_rows_is_by_seed_without_repetition_in_order(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl([*PAIRS[:3], {"query": "no answer"}, *PAIRS[3:]]))

    def drawn(count: int, seed: int) -> list[str]:
        return [c.messages[0].content for c in load_conversations(f"{path}#{count}", seed=seed).conversations]

    queries = [row["query"] for row in PAIRS]
    first = drawn(4, 1)
    assert len(set(first)) == 4
    assert first == sorted(first, key=queries.index) == drawn(4, 1)
    assert any(drawn(4, seed) != first for seed in range(2, 6))
    loaded = load_conversations(f"{path}#11", seed=1)
    assert (len(loaded.conversations), loaded.available, len(loaded.quarantined)) == (10, 10, 1)
    assert "11 rows were asked for, 10 can be read" in loaded.notices[0]


@pytest.mark.parametrize("count", ["0", "-1", "x", ""])
def test_a_wrong_count_is_a_setting_error(tmp_path, count):
    path = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    with pytest.raises(ConfigError, match="how many rows"):
        load_conversations(f"{path}#{count}")


def test_a_file_whose_name_has_the_mark_is_itself(tmp_path):
    path = write(tmp_path / "a#2.jsonl", jsonl(PAIRS))
    assert len(load_conversations(str(path)).conversations) == 10


def test_a_local_file_wins_over_a_registry_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ms-agent", "x")
    with pytest.raises(ConfigError, match="no type that can be read"):
        load_conversations("ms-agent")


def test_the_registry_names_are_the_references():
    assert dict(files.REGISTRY) == {"ms-agent": "ms:iic/ms_agent", "ms-bench": "ms:iic/ms_bench"}


def test_an_unknown_format_names_the_file_and_a_given_one_overrides(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl([{"txet": "x"}]))
    with pytest.raises(ConfigError, match=r"a\.jsonl: the format of the rows is not known"):
        load_conversations(str(path))
    [quarantined] = load_conversations(str(path), format_name="openai").quarantined
    assert quarantined.code == "messages-missing"
    with pytest.raises(ConfigError, match="there is no format"):
        load_conversations(str(path), format_name="opneai")


def test_a_file_of_wrong_lines_only_is_all_quarantine(tmp_path):
    loaded = load_conversations(str(write(tmp_path / "a.jsonl", "{\n{\n")))
    assert (loaded.conversations, len(loaded.quarantined)) == ((), 2)


def test_the_quarantine_file(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": -1}]},
        {"messages": [{"role": "user", "content": "q\ud83d"}]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("{nope\n" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = load_conversations(str(path), format_name="openai")
    sources.write_quarantine(tmp_path / "quarantine.jsonl", loaded.quarantined)
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["line"], line["code"]) for line in lines] == [
        (1, "json-invalid"),
        (2, "train-flag"),
        (3, "surrogate-alone"),
    ]
    assert lines[1]["message"] == "messages[1]"
    assert lines[1]["field"] == "messages[1].weight"
    assert list(lines[1]) == ["file", "line", "code", "message", "field", "reason", "fix"]
    assert "message" not in lines[0]
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []
    with pytest.raises(ConfigError, match="cannot be written"):
        sources.write_quarantine(tmp_path / "no" / "quarantine.jsonl", loaded.quarantined)


@pytest.mark.shared
def test_real_files(shared):
    loaded = load_conversations(str(shared / "data/agent/doraemon_msagent.jsonl") + "#100", seed=3)
    assert (len(loaded.conversations), loaded.available) == (100, 3598)
    assert [(q.source.line, q.code) for q in loaded.quarantined] == [
        (112, "action-without-input"),
        (1144, "action-without-input"),
    ]
    alpaca = load_conversations(str(shared / "data/general/alpaca_zh_demo.json"))
    assert (len(alpaca.conversations), alpaca.conversations[0].source.line) == (1000, 2)
    assert alpaca.conversations[-1].source.line == 4997


def test_utf16_is_one_error_about_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "response": "r"}\n' * 3, encoding="utf-16")
    with pytest.raises(ConfigError, match=r"rows\.jsonl: the file is UTF-16"):
        load_conversations(str(path))


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no footer")
    with pytest.raises(ConfigError, match=r"rows\.parquet: the parquet file cannot be read"):
        load_conversations(str(path))
