"""openai rows: every spelling of calls, contents and tools, and what is refused."""

from __future__ import annotations

import json

import pytest

from actune.core.errors import DataError
from actune.core.types import Source
from actune.formats import openai

SOURCE = Source(file="rows.jsonl", line=1)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(arguments: object = '{"city": "杭州"}', name: str = "get_weather", **extra: object) -> dict:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}, **extra}


def row(*messages: dict, tools: object = (WEATHER,), **extra: object) -> dict:
    return {"messages": list(messages), "tools": list(tools) if isinstance(tools, tuple) else tools, **extra}


USER = {"role": "user", "content": "weather?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [call()]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
ANSWER = {"role": "assistant", "content": "It is sunny."}


def test_a_row_with_a_call():
    conversation = openai.read(row({"role": "developer", "content": "s"}, USER, CALL, RESULT, ANSWER, id=5), SOURCE)
    system, _, asked, result, answer = conversation.messages
    assert (system.role, conversation.id, conversation.style) == ("system", "5", "chat")
    assert asked.tool_calls[0].arguments == '{"city": "杭州"}'
    assert (asked.tool_calls[0].id, result.tool_call_id) == ("c1", "c1")
    assert answer.content == "It is sunny."
    assert conversation.tools[0].parameters == WEATHER["function"]["parameters"]


def test_arguments_as_a_string_keep_their_bytes_and_an_object_becomes_json():
    spaced = '{ "city":\t"杭州" }'
    text = openai.read(row(USER, {**CALL, "tool_calls": [call(spaced)]}, RESULT), SOURCE)
    assert text.messages[1].tool_calls[0].arguments == spaced
    as_object = openai.read(row(USER, {**CALL, "tool_calls": [call({"city": "杭州"})]}, RESULT), SOURCE)
    assert as_object.messages[1].tool_calls[0].arguments == '{"city": "杭州"}'


def test_absent_arguments_are_read_as_none_given_and_said():
    conversation = openai.read(row(USER, {**CALL, "tool_calls": [call(None)]}, RESULT), SOURCE)
    assert conversation.messages[1].tool_calls[0].arguments == "{}"
    assert conversation.repairs == ("messages[1].tool_calls[0].function.arguments: no arguments, read as {}",)


def test_the_older_spelling_of_calls_results_and_tools():
    raw = {
        "functions": [WEATHER["function"]],
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
            {"role": "function", "name": "get_weather", "content": "sunny"},
        ],
    }
    conversation = openai.read(raw, SOURCE)
    assert conversation.messages[1].tool_calls[0].name == "get_weather"
    assert (conversation.messages[2].role, conversation.messages[2].name) == ("tool", "get_weather")
    assert conversation.tools[0].name == "get_weather"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_under_each_key(key):
    conversation = openai.read(row(USER, {**ANSWER, key: "hm"}), SOURCE)
    assert conversation.messages[1].reasoning == "hm"


def test_typed_blocks():
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "let me "},
        {"type": "text", "value": "look"},
        {"type": "tool_call", "value": '{"name": "get_weather", "arguments": {"city": "x"}}'},
        {"type": "tool_calls", "tool_calls": [call("{}")]},
    ]
    user = {"role": "user", "content": [{"type": "text", "text": "weather?"}]}
    asked = openai.read(row(user, {"role": "assistant", "content": blocks}), SOURCE).messages[1]
    assert (asked.reasoning, asked.content) == ("hm", "let me look")
    assert [c.arguments for c in asked.tool_calls] == ['{"city": "x"}', "{}"]


def test_blocks_of_other_servers_and_blocks_in_blocks():
    user = {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]}
    asked = {
        "role": "assistant",
        "content": [{"type": "text", "text": {"value": "I look."}}],
        "tool_calls": [call("{}")],
    }
    inner = [{"type": "text", "text": "sun"}, {"type": "text", "text": "ny"}]
    found = {"role": "tool", "content": [{"type": "tool_result", "content": inner}]}
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    silent = {"role": "assistant", "content": None, "refusal": "No."}
    messages = openai.read(row(user, said, user, asked, found, refused, user, silent), SOURCE).messages
    assert [m.content for m in messages] == [
        "weather?", "Let me look.", "weather?", "I look.", "sunny", "No.", "weather?", "No.",
    ]  # fmt: skip


def test_a_system_text_beside_the_messages_is_read():
    assert openai.read(row(USER, ANSWER, system="s"), SOURCE).messages[0].content == "s"
    with pytest.raises(DataError) as caught:
        openai.read(row({"role": "system", "content": "t"}, USER, ANSWER, system="s"), SOURCE)
    assert caught.value.code == "system-twice"


def test_weights_and_train_flags():
    first, second = {**ANSWER, "weight": 0}, {**ANSWER, "weight": 0.5, "loss": False}
    messages = openai.read(row(USER, first, USER, second), SOURCE).messages
    assert [(m.weight, m.train) for m in messages if m.role == "assistant"] == [(0.0, True), (0.5, False)]


def test_tools_as_json_text_and_bare():
    conversation = openai.read(row(USER, ANSWER, tools=json.dumps([WEATHER["function"]])), SOURCE)
    assert conversation.tools[0].name == "get_weather"
    assert openai.read(row(USER, ANSWER, tools=""), SOURCE).tools == ()


def test_quirks_of_a_schema_are_mended_only_where_it_could_not_be_read_and_are_said():
    odd = {
        "name": "f",
        "parameters": {"type": "dict", "properties": {"type": {"type": "str"}, "n": {"type": "int"}}},
        "required": ["n"],
    }
    conversation = openai.read(row(USER, ANSWER, tools=[{"type": "function", "function": odd}]), SOURCE)
    assert conversation.tools[0].parameters == {
        "type": "object",
        "properties": {"type": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["n"],
    }
    assert len(conversation.repairs) == 2
    fine = {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "str"}}}}
    untouched = openai.read(row(USER, ANSWER, tools=[fine]), SOURCE)
    assert (untouched.tools[0].parameters, untouched.repairs) == (fine["parameters"], ())


def test_a_tool_is_shown_to_templates_as_the_row_writes_it():
    bare = {"parameters": WEATHER["function"]["parameters"], "strict": True, "name": "get_weather"}
    conversation = openai.read(row(USER, ANSWER, tools=[bare]), SOURCE)
    assert json.dumps(conversation.tools[0].describe()) == json.dumps({"type": "function", "function": bare})
    assert openai.write(conversation)["tools"] == [{"type": "function", "function": bare}]
    assert conversation.repairs == ()
    normal = openai.read(row(USER, ANSWER, tools=[WEATHER]), SOURCE)
    assert normal.tools[0].source is None
    assert normal.tools[0].describe() == WEATHER


def test_a_flat_parameter_list_becomes_a_schema():
    listed = [{"name": "city", "description": "c", "required": "True"}]
    tool = openai.read(row(USER, ANSWER, tools=[{"name": "f", "parameters": listed}]), SOURCE).tools[0]
    assert tool.parameters["required"] == ["city"]
    assert tool.parameter_list == tuple(listed)


def test_one_message_may_hold_the_results_of_parallel_calls_without_ids():
    calls = [{"name": "get_weather", "arguments": {"city": city}} for city in "ab"]
    raw = row(USER, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "both"}, ANSWER)
    conversation = openai.read(raw, SOURCE)
    assert len(conversation.messages[1].tool_calls) == 2
    assert openai.read(openai.write(conversation), SOURCE).messages == conversation.messages


def test_a_react_system_text_makes_react_of_plain_messages():
    system = (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        "1. f: Find. Parameters: []\n\nUse the following format:\n\nThought: x\nBegin!"
    )
    steps = "Action: f\nAction Input: {}"
    raw = row({"role": "system", "content": system}, USER, {"role": "assistant", "content": steps}, tools=None)
    raw["messages"] += [
        {"role": "user", "content": "Observation: r"},
        {"role": "assistant", "content": "Final Answer: a"},
    ]
    conversation = openai.read(raw, SOURCE)
    assert conversation.style == "react"
    assert [m.role for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].content == "r"


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (row(), "messages-empty", "messages"),
        (row(USER, RESULT), "result-without-call", "messages[1]"),
        (row(USER, CALL, ANSWER), "call-without-result", "messages[2]"),
        (row(USER, CALL, {**RESULT, "tool_call_id": "zz"}), "tool-call-id", "messages[2].tool_call_id"),
        (row(USER, CALL, RESULT, RESULT), "result-without-call", "messages[3]"),
        (row({"role": "bot", "content": "x"}), "role-unknown", "messages[0].role"),
        (row({"content": "x"}), "role-unknown", "messages[0].role"),
        (row({"role": "user", "content": None}, ANSWER), "content-missing", "messages[0].content"),
        (row({"role": "user", "content": 3}, ANSWER), "content-type", "messages[0].content"),
        (row({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "content-block", "messages[0].content[0]"),
        (row(USER, {"role": "assistant"}), "content-missing", "messages[1].content"),
        (
            row(
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_call", "value": call()}, {"type": "text", "text": "x"}],
                },
            ),
            "block-order",
            "messages[1].content[1]",
        ),
        (
            row({"role": "user", "content": [{"type": "tool_result"}]}, ANSWER),
            "content-block",
            "messages[0].content[0]",
        ),
        (row(USER, {**ANSWER, "refusal": "No."}), "content-block", "messages[1].refusal"),
        (row(USER, {**ANSWER, "reasoning": "a", "thinking": "b"}), "reasoning-twice", "messages[1]"),
        (row(USER, {**CALL, "tool_calls": [call(name="get_wether")]}, RESULT), "unknown-tool", "messages[1]"),
        (
            row(USER, {**CALL, "tool_calls": [call("not json")]}),
            "arguments-unreadable",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            row(USER, {**CALL, "tool_calls": [call([1])]}),
            "arguments-unreadable",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (row(USER, {**CALL, "tool_calls": [call(name="")]}), "call-name", "messages[1].tool_calls[0].function.name"),
        (row(USER, {**CALL, "tool_calls": ["f"]}), "call-unreadable", "messages[1].tool_calls[0]"),
        (row({**USER, "tool_calls": [call()]}, ANSWER), "role-content", "messages[0]"),
        (row(USER, ANSWER, tools="[nope"), "tools-unreadable", "tools"),
        (row(USER, ANSWER, tools=[{"type": "function", "function": {}}]), "tool-name", "tools[0].function.name"),
        (row(USER, ANSWER, tools=[WEATHER, WEATHER]), "tool-duplicate", "tools[1]"),
        (
            row(USER, ANSWER, tools=[{"name": "f", "parameters": {"type": "string"}}]),
            "tool-parameters",
            "tools[0].parameters.type",
        ),
        (row(USER), "no-assistant", None),
    ],
)
def test_a_wrong_row_names_code_field_and_fix(raw, code, field):
    with pytest.raises(DataError) as caught:
        openai.read(raw, SOURCE)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.fix


def test_written_rows_read_back_the_same():
    thinking = {**ANSWER, "reasoning_content": "hm", "weight": 0.25}
    raw = row(
        {"role": "system", "content": "s"}, USER, CALL, RESULT, thinking, USER, {**ANSWER, "train": False}, id="r"
    )
    conversation = openai.read(raw, SOURCE)
    assert openai.read(openai.write(conversation), SOURCE) == conversation


def test_written_calls_have_ids_and_json_arguments():
    raw = row(USER, {"role": "assistant", "tool_calls": [{"name": "get_weather", "arguments": "{'city': 'x'}"}]})
    raw["messages"].append({"role": "tool", "content": "r"})
    written = openai.write(openai.read(raw, SOURCE))["messages"]
    assert written[1]["tool_calls"][0]["id"] == written[2]["tool_call_id"] == "call00000"
    assert json.loads(written[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "x"}


@pytest.mark.shared
def test_real_rows_with_typed_blocks(shared):
    lines = (shared / "data/agent/reason_tool_use_demo_50.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [openai.read(json.loads(line), SOURCE) for line in lines]
    assert len(conversations) == 50
    assert sum(len(m.tool_calls) for c in conversations for m in c.messages) == 68
    assert all(m.reasoning for c in conversations for m in c.messages if m.role == "assistant")
    assert all(tool.parameters["type"] == "object" for c in conversations for tool in c.tools)
    repairs = [repair for c in conversations for repair in c.repairs]
    assert repairs
    assert all(any(part in repair for part in ("'dict'", "'required'", "without a type")) for repair in repairs)
