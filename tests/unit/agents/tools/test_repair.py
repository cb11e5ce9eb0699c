"""Repaired arguments: what is mended, what is not, that nothing of the text is lost, and that it counts against it."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.tools.repair import LONGEST, repair_arguments
from actune.agents.tools.toolbox import Tool, Toolbox
from actune.core.types import ToolCall, ToolSpec
from actune.evals.agent_metrics import key_f1, schema_valid, strict_call
from actune.evals.outputs import read_output

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"city": "Hangzhou"', {"city": "Hangzhou"}),
        ("{city: 杭州, days: 2}", {"city": "杭州", "days": 2}),
        ('```json\n{"city": "杭州"}\n```', {"city": "杭州"}),
        ('Sure! {"city": "x"}', {"city": "x"}),
        ('{"city": "x"}}', {"city": "x"}),
        ('{"city": "the "Big" Apple", "days": 1}', {"city": 'the "Big" Apple', "days": 1}),
        ('{"city": "x" "days": 1}', {"city": "x", "days": 1}),
        ('{"city": "two\nlines", "days": 2}', {"city": "two\nlines", "days": 2}),
        ('{"city": “x”}', {"city": "x"}),
        ('{"a": true, "b": None, "c": [1, {"d": 2', {"a": True, "b": None, "c": [1, {"d": 2}]}),
        ('"{\\"city\\": \\"x\\"}"', {"city": "x"}),
        ('{"path": "C:\\\\new", q: "\\u4e2d"}', {"path": "C:\\new", "q": "中"}),
    ],
)
def test_what_is_mended(text, value):
    assert repair_arguments(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "Hangzhou",
        "",
        "{",
        "[1, 2",
        "[1]",
        '"text"',
        "5",
        '{"a": 1}{"b": 2}',  # glued: which one is meant?
        '{"a": 1, "a": 2',  # one of them would be lost
        '{"a": 5 km}',
        '{"a": "5" tall, "n": 3}',
        '{"a": "x", b}',
        '{"a": 1, "b":}',  # a value would be made up
        '{"a": NaN, "b"',
        '{"a": 1e999, b: 1}',
        '{"a": "\\ud800", b: 1}',
        '{"a": "x" /* a comment */, b: 1}',
        '{"a":' * 50_000,
        "[" * 30_000,
        '{"a": "' + "x" * LONGEST,
    ],
)
def test_what_is_not(text):
    assert repair_arguments(text) is None


@pytest.mark.parametrize("unit", ['{"a":”}#', "\n])*/{```1/*中*/", "("])
def test_hostile_text_does_not_take_long(unit):
    trace = sys.gettrace()
    assert repair_arguments(("{" + unit * LONGEST)[:LONGEST]) is None
    assert sys.gettrace() is trace


words = st.text(alphabet="xyz中 {}[]:,\"'/-9", max_size=6)
objects = st.dictionaries(words, words | st.integers(0, 9) | st.booleans() | st.none() | st.lists(words, max_size=2))


@settings(max_examples=200, deadline=None)
@given(objects, st.data())
def test_a_damaged_object_is_mended_without_a_loss_or_not_at_all(value, data):
    text = json.dumps(value, ensure_ascii=False)
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + text[place + 1 :]
    mended = repair_arguments(damaged)
    if mended is not None:
        written = json.dumps(mended, ensure_ascii=False)
        assert [letter for letter in written if letter in "xyz中9"] == [
            letter for letter in damaged if letter in "xyz中9"
        ]


# --- in a toolbox -----------------------------------------------------------------------------------------------------


def make_box(seen: list) -> Toolbox:
    spec = ToolSpec(name="weather", parameters=SCHEMA)
    return Toolbox([spec], [Tool(spec=spec, call=lambda arguments: seen.append(arguments) or "sunny")])


def test_a_repaired_call_is_made_and_said():
    seen: list = []
    broken = ToolCall(name="weather", arguments='{"city": "杭州", days: 2')
    answers = make_box(seen).call_all([broken, ToolCall(name="weather", arguments='{"city": "x"}')])
    assert seen == [{"city": "杭州", "days": 2}, {"city": "x"}]
    assert [(one.text, one.error, one.repaired) for one in answers] == [
        ("sunny", None, '{"city": "杭州", "days": 2}'),
        ("sunny", None, None),
    ]
    assert broken.arguments == '{"city": "杭州", days: 2'  # the model's own text stays


@pytest.mark.parametrize("text", ['{"town": "x"', '{"city": 5, days: 1', "{}}", '{"city": "x"} {"city": "y"}'])
def test_a_repair_that_does_not_fit_the_tool_is_none(text):
    seen: list = []
    observation = make_box(seen).call(ToolCall(name="weather", arguments=text))
    assert (observation.error, observation.repaired, seen) == ("arguments-unreadable", None, [])
    assert "JSON object" in observation.text


def test_metrics_read_what_the_model_wrote():
    gold = {"calls": [{"name": "weather", "arguments": {"city": "x"}}], "tools": {"weather": SCHEMA}}

    def score(metric, arguments):
        return metric(read_output({"text": "", "calls": [{"name": "weather", "arguments": arguments}]}), gold)

    broken = '{"city": "x"'
    assert repair_arguments(broken) == {"city": "x"}
    for metric in (strict_call, key_f1, schema_valid):
        assert (score(metric, '{"city": "x"}'), score(metric, broken)) == (1.0, 0.0)
