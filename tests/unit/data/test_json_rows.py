"""Rows of JSON documents: what a wrong element costs, rows by their ids, duplicate keys, numbers."""

from __future__ import annotations

import json

import pytest

from actune.core.errors import DataError
from actune.data.reading.json_rows import read_line, scan_document


def outcome(text: str | bytes) -> list[tuple[int, object]]:
    raw = text.encode() if isinstance(text, str) else text
    return [(line, row.code if isinstance(row, DataError) else row) for line, row in scan_document(raw)]


def messages(text: str) -> list[str]:
    return [row.message for _, row in scan_document(text.encode()) if isinstance(row, DataError)]


PRETTY = json.dumps([{"a": number, "in": {"b": [{}]}} for number in range(4)], indent=2)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("change", [('"b": [', '"b" ['), ('"a": ', '"a": tru'), ('"in": {', '"in": '), ('"b"', '"b')])
def test_a_wrong_element_of_a_laid_out_array_costs_one_row(number, change):
    place = [index for index in range(len(PRETTY)) if PRETTY.startswith("\n  {\n", index)][number]
    text = PRETTY[:place] + PRETTY[place:].replace(*change, 1)
    codes = [row if isinstance(row, str) else row["a"] for _, row in outcome(text)]
    assert codes == ["json-invalid" if index == number else index for index in range(4)]
    # In the last element nothing certain follows; before it, nothing is said to be lost.
    assert any("not read" in message for message in messages(text)) == (number == 3)


def test_elements_on_lines_of_their_own_without_indentation():
    assert outcome('[\n{"a": 1},\n{"a" 2},\n{"a": 3}\n]') == [(2, {"a": 1}), (3, "json-invalid"), (4, {"a": 3})]
    # Every object begins a line here, also those inside: which of them are rows is not certain.
    nested = '[\n{\n"a":\n{\n"b": 1\n}\n},\n{\n"a" 2\n},\n{\n"a": 3\n}\n]'
    assert outcome(nested) == [(2, {"a": {"b": 1}}), (8, "json-invalid")]
    assert "the rows after it are not read" in messages(nested)[-1]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('[{"a": 1}, {"a" 2}, {"a": 3}]', 1),
        ('[{"a": 1},', 1),
        ('[{"a": 1}, ]', 1),
        ('[{"a": 1}] {"a": 2}', 1),
        ('[{"a": 1}', 1),
    ],
)
def test_where_no_place_is_certain_the_error_says_that_the_rest_is_not_read(text, good):
    found = outcome(text)
    assert [row for _, row in found] == [{"a": number + 1} for number in range(good)] + ["json-invalid"]
    assert "not read" in messages(text)[-1]


def test_a_missing_comma_costs_the_element_after_it():
    text = '[\n  {"a": 1}\n  {"a": 2},\n  {"a": 3}\n]'
    assert outcome(text) == [(2, {"a": 1}), (3, "json-invalid"), (4, {"a": 3})]


def test_bytes_that_are_no_utf8_cost_their_own_row():
    raw = '[{"a": "中"}, {"a": 2},\n {"a": "文"}]'.encode("gb18030")
    assert outcome(raw) == [(1, "utf8-invalid"), (1, {"a": 2}), (2, "utf8-invalid")]
    message = [row.message for _, row in scan_document(raw) if isinstance(row, DataError)][1]
    assert "line 2, byte 9" in message


@pytest.mark.parametrize(
    ("element", "code"),
    [
        ('{"a": 1, "a": 2}', "json-duplicate-key"),
        ('{"a": {"b": NaN}}', "json-number"),
        ('{"a": 1e400}', "json-number"),
        ('{"a": "\\ud83d"}', "surrogate-alone"),
    ],
)
def test_what_has_right_syntax_and_is_wrong_costs_its_own_row_everywhere(element, code):
    assert outcome(f'[{{"n": 1}}, {element}, {{"n": 3}}]') == [(1, {"n": 1}), (1, code), (1, {"n": 3})]
    assert outcome(f'{{"n": 1}}\n{element}\n{{"n": 3}}') == [(1, {"n": 1}), (2, code), (3, {"n": 3})]
    error = read_line(element.encode(), 7)
    assert isinstance(error, DataError)
    assert (error.code, "line 7" in error.message) == (code, True)
    if code == "json-duplicate-key":
        assert "'a'" in error.message


def test_an_object_of_rows_by_their_ids():
    text = '{"7": {"q": 1},\n "8": {"q": 2, "id": "own"},\n "9": {"q": 1, "q": 2}}'
    assert outcome(text) == [(1, {"id": "7", "q": 1}), (2, {"id": "own", "q": 2}), (3, "json-duplicate-key")]
    assert outcome('{"7": {"q": 1}, "8": {"q" 2}}') == [(1, {"id": "7", "q": 1}), (1, "json-invalid")]
    assert "not read" in messages('{"7": {"q": 1}, "8": {"q" 2}}')[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"query": "q",\n "response": {}}', {"query": "q", "response": {}}),
        ("{}", {}),
        ('{"a": "x", "a": "x"}', "json-duplicate-key"),
        ('{"a": "x"', "json-invalid"),
        ('{"a": "x"} {"b": 1}', "json-invalid"),
        ('{"a": "x", 1: 2}', "json-invalid"),
        ('{"a": {"b": 1, "b": 2}, "c": 1}', "json-duplicate-key"),
    ],
)
def test_a_document_of_one_row(text, expected):
    assert [row for _, row in outcome(text)] == [expected]


def test_lines_in_a_json_file_whose_first_line_is_wrong():
    assert outcome('{"a" 1}\n{"a": 2}\n\n{"a": 3}') == [(1, "json-invalid"), (2, {"a": 2}), (4, {"a": 3})]


def test_blank_lines_are_none_and_nothing_else_is():
    assert read_line(b" \t\r\n", 3) is None
    assert read_line(b"\xef\xbb\xbf\n", 1) is None
    for raw in (b"\x00\n", "\u3000\n".encode(), b"\xef\xbb\xbf\n"):
        assert isinstance(read_line(raw, 2), DataError)
