"""JSON text: what is read, what is refused, and numbers that come back as they were written."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core.json_text import DuplicateKeyError, NotJsonError, Written, read_json, write_json


@pytest.mark.parametrize(
    "text",
    [
        "1.10", "1e5", "1E5", "-0", "-0.0", "0.1234567890123456789012345", "1.0", "1", "9007199254740993", "-1e-400",
        "123456789012345678901234567890", "true", "null", '"1.10"', "1e308", "5e-324", "-0.50",
    ],
)  # fmt: skip
def test_a_number_comes_back_as_it_was_written(text):
    for form in ("{}", "[1, {}]", '{{"a": {{"b": [{}, "-0 1.10"]}}}}'):
        whole = form.format(text)
        assert write_json(read_json(whole)) == whole


def test_a_written_number_is_a_number():
    value = read_json('{"weight": 0.50, "n": -0, "date": "2024-01-02"}')
    assert (value["weight"], value["n"]) == (0.5, 0)
    assert isinstance(value["weight"], float)
    assert json.dumps(value) == '{"weight": 0.5, "n": -0.0, "date": "2024-01-02"}'
    for made in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # rows pass between processes
        assert write_json(made) == '{"weight": 0.50, "n": -0, "date": "2024-01-02"}'
    assert type(read_json("1.5")) is float
    assert isinstance(read_json("1.50"), Written)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"b": {"x": 1, "a": {}, "a": null}}]', r'{"a": 1, "\u0061": 2}']
)
def test_a_key_that_stands_twice_is_named(text):
    with pytest.raises(DuplicateKeyError, match="the key 'a' stands twice"):
        read_json(text)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[Infinity]", '{"a": 1e400}', "-1e999"])
def test_what_is_no_json_number_is_refused(text):
    with pytest.raises(NotJsonError):
        read_json(text)


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {"a": b"x"}])
def test_what_json_does_not_have_is_not_written(value):
    with pytest.raises((TypeError, ValueError)):
        write_json(value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(_JSON)
def test_it_reads_and_writes_what_the_standard_library_does(value):
    text = json.dumps(value, ensure_ascii=False)
    assert repr(read_json(text)) == repr(json.loads(text))
    assert write_json(value) == text
