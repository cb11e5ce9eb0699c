"""When a message that was read counts as the one that was written."""

import json

import pytest

from actune.core.types import Message, ToolCall, ToolSpec
from actune.render.readback import allows_null, find_difference, same_arguments

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": ["integer", "null"]},
        "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "kind": {"enum": ["a", None]},
        "size": {"type": "integer", "nullable": True},
        "any": {"description": "anything"},
        "ref": {"$ref": "#/$defs/x"},
    },
}
TOOLS = (ToolSpec(name="find", parameters=SCHEMA),)


def call(arguments: object, *, name: str = "find", id: str | None = None) -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name=name, arguments=text, id=id)


def say(content: str = "", reasoning: str = "", *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)


@pytest.mark.parametrize("key", ["days", "unit", "kind", "size", "any"])
def test_null_may_be_left_out_where_the_schema_allows_it(key: str):
    assert allows_null(SCHEMA, key)
    assert same_arguments(call({"city": "x"}), call({"city": "x", key: None}), TOOLS)
    assert same_arguments(call({"city": "x", key: None}), call({"city": "x"}), TOOLS)


@pytest.mark.parametrize("key", ["city", "ref", "unknown"])
def test_null_is_a_value_elsewhere(key: str):
    assert not allows_null(SCHEMA, key)
    assert not same_arguments(call({}), call({key: None}), TOOLS)


@pytest.mark.parametrize(
    ("one", "other"), [({"n": 1}, {"n": True}), ({"n": 1}, {"n": "1"}), ({"n": 1}, {"n": 1.0}), ({"n": [1, 2]}, {"n": [2, 1]})]
)  # fmt: skip
def test_values_of_other_types_are_other_values(one: dict, other: dict):
    assert not same_arguments(call(one), call(other), TOOLS)


def test_layout_and_the_order_of_keys_are_nothing():
    assert same_arguments(call('{"b":1,  "a":"é"}'), call('{"a": "\\u00e9", "b": 1}'), TOOLS)


@pytest.mark.parametrize(
    ("read", "want", "field"),
    [
        (say("Yes"), say("No"), "content"),
        (say("Yes", "so"), say("Yes"), "reasoning"),
        (say("", "", call({})), say(""), "tool_calls"),
        (say("", "", call({}), call({"city": "b"})), say("", "", call({}), call({"city": "a"})), "tool_calls[1].arguments"),
        (say("", "", call({}, name="seek")), say("", "", call({})), "tool_calls[0].name"),
        (say("", "", call({}, id="two")), say("", "", call({}, id="one")), "tool_calls[0].id"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named(read: Message, want: Message, field: str):
    found = find_difference(read, want, TOOLS)
    assert found is not None
    assert found[0] == field


def test_blanks_at_edges_and_ids_that_are_not_shown_are_nothing():
    assert find_difference(say("Yes", "so", call({})), say(" Yes\n", "\nso ", call({}, id="one")), TOOLS) is None
