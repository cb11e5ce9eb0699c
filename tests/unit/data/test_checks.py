from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.checks.duplicates import SeenRows
from actune.data.checks.rules import find_problems
from actune.data.checks.tools import JUDGING, read_offer
from actune.formats.registry import read_row

ROOT = Path(__file__).resolve().parents[3]
SECTION = "## Rows that can be read"


def read(raw: dict) -> Conversation:
    name = "ms-agent" if "conversations" in raw else "openai"
    return read_row(json.loads(json.dumps(raw)), Source(file="x.jsonl", line=1), name)


def codes(conversation: Conversation) -> list[str]:
    return [finding.code for finding in find_problems(conversation)]


def test_each_rule_fires_on_a_bad_row_and_not_on_its_twin(check_code: str, rows: ModuleType):
    bad, good = (read(raw) for raw in rows.TABLE[check_code])
    assert codes(bad) == [check_code]
    assert codes(good) == []
    for finding in find_problems(bad):
        assert finding.field
        assert finding.message
        assert finding.fix


def test_the_page_lists_these_rules_with_examples_that_hold(rows: ModuleType):
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    section = text.split(SECTION)[1].split("\n## ")[0]
    listed = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            code, level, _, example, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            listed[code.strip("`")] = (level, example)
    only_here = {"source-repaired", "unknown-tool", "observation-missing", "duplicate-row", "answers-differ"}
    only_here |= {"prompt-overlap", "eval-overlap"}
    assert set(listed) == set(rows.TABLE) | only_here
    for code, (bad, _) in rows.TABLE.items():
        level, example = listed[code]
        quoted = re.findall(r"`([^`]+)`", example)
        assert quoted, code
        whole = json.dumps(bad, ensure_ascii=False).replace("\\", "").replace("\n", " ")
        assert [piece for piece in quoted if piece.replace("\\", "") not in whole] == [], code
        assert {finding.level for finding in find_problems(read(bad))} == {level}, code


# --- fields -----------------------------------------------------------------------------------------------------------


def fields(raw: dict) -> list[tuple[str, str]]:
    return [(finding.code, finding.field) for finding in find_problems(read(raw))]


def test_the_field_is_the_path_of_the_value(rows: ModuleType):
    item = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    tools = rows.with_schema(items={"type": "array", "items": item}, note={"type": ["string", "null"]})
    arguments = {"items": [{"price": 1}, {"price": "2"}, {}, {"price": "3"}], "note": None}
    place = "messages[1].tool_calls[0].arguments.items"
    assert fields(rows.calls(rows.call(arguments), tools=tools)) == [
        ("argument-type", f"{place}[1].price"),
        ("argument-missing", f"{place}[2].price"),
    ]
    (first, _) = find_problems(read(rows.calls(rows.call(arguments), tools=tools)))
    assert "and 1 more" in first.message


def test_unknown_parameters_are_those_that_a_schema_names_none_of(rows: ModuleType):
    closed = {"type": "object", "properties": {"city": rows.CITY}, "additionalProperties": False}
    place = "messages[1].tool_calls[0].arguments"
    both = {"city": "Hangzhou", "a": 1, "b": 2}
    for schema in (closed, closed | {"additionalProperties": None}):
        plain = {key: value for key, value in schema.items() if value is not None}
        raw = rows.calls(rows.call(both), tools=[rows.tool(parameters=plain)])
        assert fields(raw) == [("argument-unknown", f"{place}.a"), ("argument-unknown", f"{place}.b")]
    for free in ({"type": "object"}, closed | {"additionalProperties": True}, closed | {"additionalProperties": {}}):
        assert fields(rows.calls(rows.call(both), tools=[rows.tool(parameters=free)])) == []


def test_null_is_no_fault_where_it_is_allowed(rows: ModuleType):
    for entry in ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, {}):
        assert fields(rows.calls(rows.call({"a": None}), tools=rows.with_schema(a=entry))) == []
    for entry in ({"type": "string"}, {"enum": ["x"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}):
        found = fields(rows.calls(rows.call({"a": None}), tools=rows.with_schema(a=entry)))
        assert found == [("argument-null", "messages[1].tool_calls[0].arguments.a")]


# --- schemas ----------------------------------------------------------------------------------------------------------


def test_a_schema_never_fetches_a_reference():
    remote = ToolSpec(name="weather", description="W.", parameters={"$ref": "http://127.0.0.1:9/schema.json"})
    conversation = Conversation(
        messages=(
            Message(role="user", content="hi"),
            Message(role="assistant", tool_calls=(ToolCall(name="weather", arguments="{}"),)),
        ),
        tools=(remote,),
        source=Source(file="x", line=1),
    )
    (finding,) = find_problems(conversation)
    assert finding.code == "argument-schema"
    assert "cannot be resolved" in finding.message


def test_references_inside_a_schema_are_followed(rows: ModuleType):
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    tools = [rows.tool(parameters=schema)]
    assert fields(rows.calls(rows.call({"a": 1}), tools=tools)) == []
    assert fields(rows.calls(rows.call({"a": "x"}), tools=tools)) == [
        ("argument-type", "messages[1].tool_calls[0].arguments.a")
    ]


def test_the_words_of_json_schema_are_all_known():
    jsonschema = pytest.importorskip("jsonschema")
    plain = {"type", "properties", "required", "enum", "items", "additionalProperties", "format"}
    assert set(jsonschema.Draft202012Validator.VALIDATORS) <= JUDGING | plain


def test_the_quick_test_passes_nothing_that_jsonschema_refuses():
    """Random plain schemas and values; and schemas that the quick test takes are valid ones."""
    from jsonschema import Draft202012Validator

    rng = random.Random(0)
    taken = 0
    for _ in range(1500):
        schema = _schema(rng, 3) | {"type": "object", "properties": {"a": _schema(rng, 2), "b": _schema(rng, 2)}}
        offer = read_offer((ToolSpec(name="t", description="T.", parameters=schema),))
        parameters = offer.parameters["t"]
        if parameters.fits is None:
            continue
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema)
        for _ in range(6):
            value = {key: _value(rng, 3) for key in ("a", "b", "c") if rng.random() < 0.7}
            if parameters.fits(value):
                taken += 1
                assert validator.is_valid(value), (schema, value)
    assert taken > 400


def _schema(rng: random.Random, depth: int) -> dict:
    kinds = ["string", "integer", "number", "boolean", "null", "array", "object"]
    schema: dict = {}
    if rng.random() < 0.7:
        schema["type"] = rng.choice(kinds) if rng.random() < 0.8 else rng.sample(kinds, 2)
    if rng.random() < 0.2:
        schema["enum"] = rng.sample(["x", "y", 1, True, None], 2)
    if depth and rng.random() < 0.4:
        schema["items"] = _schema(rng, depth - 1)
    if depth and rng.random() < 0.5:
        schema["properties"] = {key: _schema(rng, depth - 1) for key in "abc" if rng.random() < 0.6}
        schema["required"] = rng.sample(["a", "b", "c"], rng.randint(0, 2))
        schema["additionalProperties"] = rng.choice([True, False, {"type": "string"}])
    if rng.random() < 0.1:
        schema[rng.choice(["minLength", "description", "note", "maximum"])] = 3
    return schema


def _value(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(8 if depth else 6)
    if kind == 6:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return {key: _value(rng, depth - 1) for key in "abc" if rng.random() < 0.5}
    return ["x", "z", 1, 1.5, True, None][kind]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_repairs_of_the_reader_are_reported():
    source = Source(file="x", line=1)
    messages = (Message(role="user", content="hi"), Message(role="assistant", content="Hello!"))
    conversation = Conversation(messages=messages, source=source, repairs=("tool weather: mended",))
    assert codes(conversation) == ["source-repaired"]


def test_rows_that_no_reader_gives_are_judged_too():
    """Conversations may be made by programs: a wrong name, a call without its result."""
    wrong = (ToolCall(name="wether", arguments="{}"),)
    messages = (
        Message(role="user", content="hi"),
        Message(role="assistant", tool_calls=wrong),
        Message(role="assistant", content="Hello!"),
    )
    tool = ToolSpec(name="weather", description="W.", parameters={"type": "object"})
    conversation = Conversation(messages=messages, tools=(tool,), source=Source(file="x", line=1))
    assert [(f.level, f.code) for f in find_problems(conversation)] == [
        ("error", "observation-missing"),
        ("error", "unknown-tool"),
    ]


def test_call_at_the_end_of_a_row_needs_no_result(rows: ModuleType):
    assert codes(read(rows.row(rows.user(), rows.asks(rows.call())))) == []


def test_an_episode_may_end_with_the_answer_of_its_environment(rows: ModuleType):
    """FireAct: `finish[...]` is the answer, what follows it is the environment's."""
    steps = [
        "Question: where?",
        "Thought: I look.\nAction: search[a]",
        "Observation: b",
        "Thought: done\nAction: finish[b]",
    ]
    end = "Observation: Episode finished, reward = True"
    whole, cut = rows.chat(*steps, end), rows.chat(*steps[:2], end)
    assert codes(read(whole)) == []
    assert codes(read(cut)) == ["ends-without-answer"]


@pytest.mark.parametrize(
    "code", ["result-in-answer", "placeholder-answer", "answer-copies-question", "reasoning-in-answer"]
)
def test_what_is_not_trained_teaches_nothing_wrong(rows: ModuleType, code: str):
    bad = json.loads(json.dumps(rows.TABLE[code][0]))
    bad["messages"][1]["train"] = False
    bad["messages"] += [rows.user("And now?"), rows.says()]
    assert codes(read(bad)) == []


@pytest.mark.parametrize("text", ["你好，世界", "“quoted” – it’s", "naïve café", "Ünïcödé £5"])
def test_utf8_that_was_read_as_another_encoding(rows: ModuleType, text: str):
    assert codes(read(rows.chat("Hi", text))) == []
    for encoding in ("latin-1", "cp1252"):
        damaged = "".join(bytes([byte]).decode(encoding, errors="replace") for byte in text.encode())
        if "\ufffd" not in damaged:
            assert codes(read(rows.chat("Hi", damaged))) == ["wrong-encoding"], damaged


def test_a_zero_width_space_parts_words_where_no_space_does(rows: ModuleType):
    assert codes(read(rows.chat("Hi", "สวัสดี\u200bครับ"))) == []
    assert codes(read(rows.chat("Hi", "สวัสดี\u2060ครับ"))) == ["invisible-character"]


def test_rows_that_stand_twice_and_prompts_with_two_answers(rows: ModuleType):
    def at(line: int, raw: dict) -> Conversation:
        return read_row(raw, Source(file="x.jsonl", line=line), "openai")

    seen = SeenRows()
    first, again = at(1, {"id": "a"} | rows.chat("Hi", "Hello!")), at(2, {"id": "b"} | rows.chat("Hi", "Hello!"))
    other, offered = at(3, rows.chat("Hi", "Good day!")), at(4, rows.chat("Hi", "Hello!", offered=True))
    found = [[(f.code, f.message) for f in seen.add(row)] for row in (first, again, other, offered)]
    assert found[0] == found[3] == []
    assert found[1] == [("duplicate-row", "the same row stands at x.jsonl:1")]
    assert [code for code, _ in found[2]] == ["answers-differ"]
    assert "x.jsonl:1" in found[2][0][1]


@pytest.mark.parametrize(
    "text", ["", "\x00", "{{", "```", '{"', "<|", "[", "Ã", "…", "\ud800", "Observation:", "\u202e"]
)
def test_no_text_breaks_a_rule(text: str):
    messages = (
        Message(role="system", content=text),
        Message(role="user", content=text),
        Message(role="assistant", content=text, reasoning=text, tool_calls=(ToolCall(name=text, arguments=text),)),
        Message(role="tool", content=text, name=text, tool_call_id=text),
        Message(role="assistant", content=text),
    )
    tool = ToolSpec(name=text, description=text, parameters={"type": "object", "properties": {text: {"type": text}}})
    conversation = Conversation(messages=messages, tools=(tool,), source=Source(file="x", line=1))
    find_problems(conversation)
    list(SeenRows().add(conversation))
