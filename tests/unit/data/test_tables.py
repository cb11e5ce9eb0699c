"""Tables: csv rows that cost no other, parquet values as they are, JSON columns, maps and padded structs."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation
from actune.data.reading.sources import Quarantined, load_conversations, read_conversations, read_file
from actune.data.store.cache import Cache
from actune.data.store.index import open_table

ROW = {"query": "q", "response": "r"}


def outcome(path: Path) -> list[object]:
    return [row.code if isinstance(row, DataError) else dict(row) for _, row in read_file(path)]


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_every_type_is_read_plain_and_packed(tmp_path, kind, packed):
    texts = ["你好", 'a, "b" \u2028 c', "x" * 100_000]
    if kind == "parquet":
        raw = parquet(tmp_path / "plain", pa.table({"text": texts})).read_bytes()
    elif kind == "csv":
        sheet = io.StringIO()
        csv.writer(sheet).writerows([["text"], *([text] for text in texts)])
        raw = sheet.getvalue().encode()
    else:
        rows = [{"text": text} for text in texts]
        lines = texts if kind == "txt" else [json.dumps(row, ensure_ascii=False) for row in rows]
        raw = json.dumps(rows).encode() if kind == "json" else "\r\n".join(lines).encode()
    if packed:
        raw = gzip.compress(raw) if packed == ".gz" else pa.compress(raw, codec="zstd", asbytes=True)
    path = tmp_path / f"rows.{kind}{packed}"
    path.write_bytes(raw)
    assert [row["text"] for _, row in read_file(path)] == texts
    if packed:
        path.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(ConfigError, match=rf"rows\.{kind}{packed} cannot be read"):
            load_conversations(str(path))


def test_a_line_of_a_txt_file_is_a_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone  \r\n\n \t\ntwo\u2028two\nth\xffee\n".encode().replace("\xff".encode(), b"\xff"))
    assert outcome(path) == [{"text": "one  "}, {"text": "two\u2028two"}, "utf8-invalid"]
    assert [source.line for source, _ in read_file(path)] == [1, 4, 5]


def test_a_wrong_csv_row_costs_no_other(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('query,response\nq,r\n"q"x,r\n中,r\nq,r\n'.encode("gb18030"))
    assert outcome(path) == [ROW, "csv-invalid", "utf8-invalid", ROW]
    path.write_text('query,response\nq,r\n"q,r\nq,r\n')
    assert outcome(path) == [ROW, "csv-invalid"]
    [error] = [row for _, row in read_file(path) if isinstance(row, DataError)]
    assert "line 3: a quote that is never closed; the rows after it are not read" in error.message


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("query,response,query\nq,r,s\n")
    with pytest.raises(ConfigError, match="'query' stands twice"):
        load_conversations(str(path))
    table = pa.table([["q"], ["r"], ["s"]], names=["query", "response", "query"])
    with pytest.raises(ConfigError, match="'query' stands twice"):
        load_conversations(str(parquet(tmp_path / "a.parquet", table)))


def test_a_parquet_value_without_a_python_form_costs_its_own_row(tmp_path):
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0\4\0\0\0"), pa.py_buffer(b"q\xff\xfeq")
    table = pa.table({"query": pa.StringArray.from_buffers(3, offsets, data), "response": ["r"] * 3})
    assert outcome(parquet(tmp_path / "a.parquet", table)) == [ROW, "utf8-invalid", ROW]
    far = pa.table({"query": ["q", "q"], "response": ["r", "r"], "at": pa.array([1, 2**62], pa.timestamp("us"))})
    codes = outcome(parquet(tmp_path / "b.parquet", far))
    assert codes[1] == "cell-unreadable"
    assert codes[0]["query"] == "q"


# --- nested values ----------------------------------------------------------------------------------------------------


def call_row(arguments: object, name: str = "weather") -> dict:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}


def tool(name: str, **properties: object) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def read_all(path: Path) -> list[Conversation | DataError]:
    return [result for _, result in read_conversations(path)]


def arguments(result: Conversation | DataError) -> str:
    assert isinstance(result, Conversation), result
    return result.messages[-1].tool_calls[0].arguments


def test_json_columns_and_maps_hold_arguments_as_they_are(tmp_path):
    text = '{"n": 1.10, "big": 12345678901234567890, "none": null, "list": [{}, 1.0]}'
    function = pa.StructArray.from_arrays(
        [pa.array(["weather"]), pa.ExtensionArray.from_storage(pa.json_(), pa.array([text]))], ["name", "arguments"]
    )
    calls = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([function], ["function"]))
    messages = pa.StructArray.from_arrays([pa.array(["assistant"]), calls], ["role", "tool_calls"])
    table = pa.table({"messages": pa.ListArray.from_arrays([0, 1], messages)})
    assert arguments(read_all(parquet(tmp_path / "a.parquet", table))[0]) == text

    whole = pa.ExtensionArray.from_storage(pa.json_(), pa.array([json.dumps(call_row({"a": None})["messages"])]))
    assert arguments(read_all(parquet(tmp_path / "b.parquet", pa.table({"messages": whole})))[0]) == '{"a": null}'

    lines = pa.array([[json.dumps(message) for message in call_row({"a": 1})["messages"]]])
    assert arguments(read_all(parquet(tmp_path / "c.parquet", pa.table({"messages": lines})))[0]) == '{"a": 1}'

    kind = pa.list_(pa.struct({"name": pa.string(), "arguments": pa.map_(pa.string(), pa.int64())}))
    message = pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": kind})
    rows = [
        [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": pairs}]}]
        for pairs in ([("a", 1), ("b", None)], [("a", 1), ("a", 2)])
    ]
    results = read_all(parquet(tmp_path / "d.parquet", pa.table({"messages": pa.array(rows, pa.list_(message))})))
    assert arguments(results[0]) == '{"a": 1, "b": null}'
    assert isinstance(results[1], DataError)
    assert (results[1].code, "'a', which stands twice" in results[1].message) == ("json-duplicate-key", True)
    assert results[1].field == "messages[0].tool_calls[0].arguments"


def test_padding_of_structs_is_left_out_and_reported_where_null_cannot_be_a_value(tmp_path):
    """Parameters of one tool do not become parameters of another, in calls or schemas."""
    tools = [
        tool("weather", city={"type": "string"}),
        tool("search", query={"type": "string"}, top={"type": "integer"}),
    ]
    rows = [
        call_row({"city": "Hangzhou"}) | {"tools": tools},
        call_row({"query": "x", "top": 3}, "search") | {"tools": tools},
        call_row({"query": "x"}, "search") | {"tools": tools[1:]},
    ]
    results = read_all(parquet(tmp_path / "a.parquet", pa.Table.from_pylist(rows)))
    assert [arguments(result) for result in results] == [
        '{"city": "Hangzhou"}',
        '{"query": "x", "top": 3}',
        '{"query": "x"}',
    ]
    for result, given in zip(results, rows, strict=True):
        assert isinstance(result, Conversation)
        assert [one.parameters for one in result.tools] == [one["function"]["parameters"] for one in given["tools"]]
        assert any("only pad the table" in repair for repair in result.repairs)
    assert "call of weather: keys that only pad the table left out: query, top" in results[0].repairs


@pytest.mark.parametrize(
    ("properties", "given"),
    [
        ({"unit": {"type": ["string", "null"]}}, {"unit": None, "city": "x"}),  # may be null
        ({"unit": {"description": "no type"}}, {"unit": None, "city": "x"}),
        ({}, {"unit": None, "city": "x"}),  # nothing is known of the tool
    ],
)
def test_a_null_that_may_be_a_value_is_refused(tmp_path, properties, given):
    rows = [call_row(given), call_row({"unit": "C", "city": "x"})]
    if properties:
        rows = [row | {"tools": [tool("weather", city={"type": "string"}, **properties)]} for row in rows]
    results = read_all(parquet(tmp_path / "a.parquet", pa.Table.from_pylist(rows)))
    assert isinstance(results[0], DataError)
    assert (results[0].code, results[0].field) == (
        "struct-padding",
        "messages[1].tool_calls[0].function.arguments.unit",
    )
    assert json.loads(arguments(results[1])) == {"unit": "C", "city": "x"}


def test_the_same_null_in_jsonl_is_a_value(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(call_row({"unit": None})))
    assert arguments(read_all(path)[0]) == '{"unit": null}'


@pytest.mark.parametrize(
    "value", [decimal.Decimal("1.10"), datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2), b"x", float("nan")]
)
def test_what_json_does_not_have_is_refused_in_arguments(tmp_path, value):
    [result] = read_all(parquet(tmp_path / "a.parquet", pa.Table.from_pylist([call_row({"a": value})])))
    assert isinstance(result, DataError)
    assert (result.code, result.field) == (
        "arguments-unreadable",
        "messages[1].tool_calls[0].function.arguments.a",
    )


def test_numbers_of_a_table_keep_their_type(tmp_path):
    given = {"whole": 1, "float": 1.0, "big": 2**62, "text": "1", "list": [{"x": 0.1}], "truth": True}
    [result] = read_all(parquet(tmp_path / "a.parquet", pa.Table.from_pylist([call_row(given)])))
    assert arguments(result) == json.dumps(given)


def test_a_run_reads_the_rows_of_a_table_as_every_command_does(tmp_path):
    """What a run keeps of a file (numbers as written, padding left out, refused rows) is what reading it gives."""
    tools = [tool("weather", city={"type": "string"}), tool("search", query={"type": "string"})]
    rows = [
        call_row({"city": "杭州\u2028"}) | {"tools": tools, "score": float("nan")},
        call_row({"query": "x"}, "search") | {"tools": tools, "score": 1.0, "at": datetime.date(2024, 1, 2)},
        call_row({"query": None}, "other") | {"tools": tools},
    ]
    documents = json.dumps([call_row({"n": "N"})] * 2).replace('"N"', "1.10", 1).replace('"N"', "NaN", 1)
    (tmp_path / "b.json").write_text(documents)
    for path in (parquet(tmp_path / "a.parquet", pa.Table.from_pylist(rows)), tmp_path / "b.json"):
        table = open_table(
            path, name="", shown=str(path), format_name=None, cache=Cache(tmp_path / "cache"), processes=1
        )
        given = list(read_conversations(path))
        assert [table.load(number) for number in range(len(table))] == [
            result for _, result in given if not isinstance(result, DataError)
        ]
        assert list(table.quarantined) == [
            Quarantined.of(source, result) for source, result in given if isinstance(result, DataError)
        ]
        assert len(table.quarantined) == 1
