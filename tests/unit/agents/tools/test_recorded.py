"""Recorded observations: found by name and equal arguments, in order; the tools they imply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.recorded import infer_schema, load_record
from actune.agents.tools.toolbox import Toolbox
from actune.core.errors import ConfigError
from actune.core.types import ToolCall


def load(tmp_path: Path, rows: list) -> Toolbox:
    path = tmp_path / "seen.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return load_toolbox([f"record:{path}"])


def row(name: str, arguments: dict, observation: object) -> dict:
    return {"name": name, "arguments": arguments, "observation": observation}


def ask(toolbox: Toolbox, name: str, text: str):
    return toolbox.call(ToolCall(name=name, arguments=text))


def test_arguments_are_compared_as_json(tmp_path: Path):
    toolbox = load(
        tmp_path, [row("t", {"a": 1, "b": {"x": [2.0, "杭州"]}}, "found"), row("t", {"a": 1, "b": {}}, {"k": "值"})]
    )
    assert ask(toolbox, "t", '{"b": {"x": [2, "杭州"]}, "a": 1.0}').text == "found"
    assert ask(toolbox, "t", "{'a': 1, 'b': {'x': [2, '\\u676d州']}}").text == "found"
    assert ask(toolbox, "t", '{"a": 1, "b": {}}').text == '{"k": "值"}'
    for other in ('{"a": 2, "b": {}}', '{"a": 1, "b": {"x": ["杭州", 2]}}', '{"a": 1, "b": {"x": []}}'):
        observation = ask(toolbox, "t", other)
        assert observation.error == "not-recorded"
        assert "t with" in observation.text
    assert ask(toolbox, "t", '{"a": true, "b": {}}').error == "arguments-invalid"


def test_true_is_not_one(tmp_path: Path):
    toolbox = load(tmp_path, [row("t", {"a": True}, "yes"), row("t", {"a": 1}, "one")])
    assert [ask(toolbox, "t", text).text for text in ('{"a": 1}', '{"a": true}')] == ["one", "yes"]


def test_repeated_calls_get_the_observations_in_order_then_the_last_again(tmp_path: Path):
    toolbox = load(tmp_path, [row("t", {}, "one"), row("u", {}, "other"), row("t", {}, "two")])
    calls = [ToolCall(name="t", arguments="{}")] * 4
    assert [answer.text for answer in toolbox.call_all(calls)] == ["one", "two", "two", "two"]
    assert ask(toolbox, "u", "{}").text == "other"


def test_the_tools_are_inferred(tmp_path: Path):
    toolbox = load(tmp_path, [row("b", {"x": 1, "y": "s"}, ""), row("a", {}, ""), row("b", {"x": 1.5, "z": None}, "")])
    assert [spec.name for spec in toolbox.specs] == ["b", "a"]
    assert toolbox.specs[0].parameters == {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {"type": "string"}, "z": {"type": "null"}},
        "required": ["x"],
    }
    assert toolbox.specs[1].parameters == {"type": "object", "properties": {}}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values), min_size=1, max_size=5))
def test_every_recorded_call_fits_what_is_inferred(calls):
    schema = infer_schema(calls)
    Draft202012Validator.check_schema(schema)
    for arguments in calls:
        Draft202012Validator(schema).validate(arguments)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "no JSON"),
        ("[]", "no object"),
        ('{"name": "t", "arguments": {}}', "without observation"),
        ('{"name": "t", "arguments": {}, "observation": 1, "extra": 2}', "extra"),
        ('{"name": "", "arguments": {}, "observation": 1}', "no name"),
        ('{"name": 5, "arguments": {}, "observation": 1}', "no name"),
        ('{"name": "t", "arguments": "{}", "observation": 1}', "no object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line, part):
    path = tmp_path / "seen.jsonl"
    path.write_text(json.dumps(row("t", {}, "x")) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"seen\.jsonl:3") as error:
        load_record(path)
    assert part in str(error.value)


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "seen.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(ConfigError, match="no observation"):
        load_record(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_record(path)
