from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core.types import ToolCall
from actune.render.matching import find_call, find_text, find_value

NULLABLE = {"type": "object", "properties": {"note": {"type": ["string", "null"]}}}


def found(text: str, arguments: str, *, name: str = "find", start: int = 0, schema: dict | None = None) -> bool:
    return find_call(text, ToolCall(name=name, arguments=arguments), start, schema or {}) is not None


@pytest.mark.parametrize(
    "text",
    [
        'call {"name": "find", "arguments": {"a": 1, "b": {"c": [true, null, "x\\"y"]}}}',
        'call {"arguments": {"a": 1, "b": {"c": [true, null, "x\\"y"]}}, "name": "find"}',
        "call find<key>a</key><value>1</value><key>b</key><value>{'c': [True, None, 'x\"y']}</value>",
        'call find{a:1,b:{c:[true,null,"x\\"y"]}}',
    ],
)
def test_a_call_is_found_in_any_layout(text: str):
    assert found(text, json.dumps({"a": 1, "b": {"c": [True, None, 'x"y']}}))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('find {"a": 10}', '{"a": 1}'),
        ('find {"a": 1.5}', '{"a": 1}'),
        ('find {"a": -1}', '{"a": 1}'),
        ('find {"a": ""}', '{"a": true}'),
        ("find {}", '{"a": null}'),
        ('find {"a": "x &lt; y"}', '{"a": "x < y"}'),
        ('finder {"a": 1}', '{"a": 1}'),
        ('find {"a": "hello"}', '{"a": "hell"}'),
        ('find {"x": 1, "a": 2}', '{"a": 1, "x": 2}'),
    ],
)
def test_a_changed_or_missing_value_is_not_found(text: str, arguments: str):
    assert not found(text, arguments)


def test_a_null_may_be_left_out_where_the_schema_allows_it():
    assert found("find {}", '{"note": null}', schema=NULLABLE)
    assert not found("find {}", '{"note": null}', schema={"type": "object", "properties": {"note": {"type": "string"}}})


def test_values_that_changed_places_between_calls_are_not_found():
    text = 'find {"city": "B"} find {"city": "A"}'
    first = find_call(text, ToolCall(name="find", arguments='{"city": "A"}'), 0, {})
    assert first == len(text) - 2
    assert find_call(text, ToolCall(name="find", arguments='{"city": "B"}'), first, {}) is None


def test_text_is_found_as_it_is_or_escaped_and_not_inside_words():
    assert find_text("they know", "now") is None
    assert find_text("they know now", "now") == len("they know now")
    assert find_text('"two\\nlines and more of it"', "two\nlines and more of it") is not None
    assert find_text("用户今天好", "今天") is not None


def test_json_in_another_layout_is_the_same_value():
    assert find_value('{"b":[1,null],"a":"中"}', '{"b": [1,  null], "a": "\\u4e2d"}') is not None
    assert find_value('{"a":"中","b":[1,null]}', '{"b": [1,  null], "a": "\\u4e2d"}') is not None
    assert find_value('{"b":[1],"a":"中"}', '{"b": [1,  null], "a": "\\u4e2d"}') is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=4), ascii_only=st.booleans())
def test_every_call_is_found_in_its_own_json(arguments: dict[str, object], ascii_only: bool):
    text = json.dumps({"name": "find", "arguments": arguments}, ensure_ascii=ascii_only)
    call = ToolCall(name="find", arguments=json.dumps(arguments))
    assert find_call(text, call, 0, {}) is not None
