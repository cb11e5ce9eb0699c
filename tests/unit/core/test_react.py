from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core import react
from actune.core.errors import DataError
from actune.core.types import Message, ToolCall, ToolSpec

CALL = "Action: weather\nAction Input: {'city': '杭州'}\nObservation: sunny\n"
ANSWER = "Thought: I now know the final answer\nFinal Answer: It is sunny."

# The reference recipe's own prompt for its fire-alarm scenario (two of its four entries).
FIRE = (
    "Answer the following questions as best you can. You have access to the following APIs:\n"
    "1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize "
    'whether there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize '
    'fire", "required": "True"}]\n\n'
    "2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the "
    "building's administraters. Parameters: []\n\n"
    "Use the following format:\n\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[fire_recognition, fire_alert]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n"
    "Begin!"
)


def test_turn_is_split_into_calls_results_and_answer():
    messages = react.read_turn(CALL + "Thought: again\n" + CALL + ANSWER)
    assert [m.role for m in messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert messages[0].tool_calls[0] == ToolCall(name="weather", arguments="{'city': '杭州'}")
    assert messages[0].tool_calls[0].parse_arguments() == {"city": "杭州"}
    assert messages[1].content == "sunny"
    assert messages[2].reasoning == "again"
    assert (messages[4].reasoning, messages[4].content) == ("I now know the final answer", "It is sunny.")


def test_normal_layout_needs_no_source_text():
    assert all(m.source_text is None for m in react.read_turn(CALL + ANSWER))


@pytest.mark.parametrize(
    "text",
    [
        CALL + ANSWER,
        "Let me look.\n" + CALL + ANSWER,
        "Thought:no blank\nAction:weather\nAction Input:{}\nObservation:none\n" + ANSWER,
        "Thought: a\n\nAction: weather\nAction Input: {}\nObservation: x\n\n" + ANSWER + "\n",
        "Action: weather\nAction Input: {}\nObservation: line one\nAction Input: odd\nObservation: odd\n" + ANSWER,
        "Action: weather\nAction Input: {}",
        "Action: weather\nAction Input: {}\nObservation:",
        "Action: weather\nAction Input: {}\nObservation: open end",
        "Action: weather\nAction Input: {}\nObservation: open end\n",
        "plain answer",
        "Final Answer: ",
    ],
)
def test_turn_is_written_back_byte_for_byte(text: str):
    assert react.write_turn(react.read_turn(text)) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Action: weather\nFinal Answer: x", "action-without-input"),
        ("Action: a\nAction: b\nAction Input: {}\nObservation: x", "action-without-input"),
        ("Thought: hm", "thought-only"),
        ("Action Input: {}", "input-without-action"),
        ("Observation: x", "observation-without-action"),
        ("Action:\nAction Input: {}\nObservation: x", "action-without-name"),
        ("Action: a\nAction Input: {}\nThought: x\nFinal Answer: y", "text-after-input"),
        ("Final Answer: x\nObservation: y", "text-after-answer"),
    ],
)
def test_malformed_text_is_named(text: str, code: str):
    with pytest.raises(DataError) as caught:
        react.read_turn(text)
    assert caught.value.code == code
    assert caught.value.fix


def test_step_that_goes_on_after_the_stop_word_is_an_invented_observation():
    with pytest.raises(DataError, match="more than one step"):
        react.parse_step(CALL)


def test_completion_of_a_call_ends_in_the_stop_word():
    message = Message(role="assistant", reasoning="t", tool_calls=(ToolCall(name="f", arguments="{}"),))
    assert react.write_step(message) == "Thought: t\nAction: f\nAction Input: {}\nObservation:"
    assert react.read_message(react.parse_step(react.write_step(message))) == message


def test_two_calls_in_one_message_are_refused():
    calls = (ToolCall(name="f", arguments="{}"),) * 2
    with pytest.raises(DataError) as caught:
        react.write_step(Message(role="assistant", tool_calls=calls))
    assert caught.value.code == "react-parallel-calls"


def test_reference_system_text_is_read_and_written_back():
    block = react.read_system(FIRE)
    assert block is not None
    assert [tool.name for tool in block.tools] == ["fire_recognition", "fire_alert"]
    schema = block.tools[0].parameters
    assert schema["required"] == ["image"]
    assert schema["properties"]["image"] == {"description": "The input image to recognize fire"}
    assert react.write_system(block.system, block.tools) == FIRE


def test_own_system_text_stands_before_the_block():
    block = react.read_system("You are a robot.\n\n" + FIRE)
    assert block is not None
    assert block.system == "You are a robot."
    assert react.write_system(block.system, block.tools).endswith(FIRE)


def test_both_languages_share_one_grammar():
    block = react.read_system(FIRE)
    assert block is not None
    chinese = react.write_system("", block.tools, "zh")
    again = react.read_system(chinese)
    assert again is not None
    assert (again.language, again.tools) == ("zh", block.tools)
    for marker in ("Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:"):
        assert f"\n{marker}" in chinese


def test_unescaped_quotes_in_a_list_are_read_and_reported():
    broken = FIRE.replace("The input image to recognize fire", 'The image, "" if none')
    block = react.read_system(broken)
    assert block is not None
    assert block.repaired == ("fire_recognition",)
    assert block.tools[0].parameters["properties"]["image"]["description"] == 'The image, "" if none'
    assert len(block.tools) == 2


@pytest.mark.parametrize("damage", ["Parameters: [{", "Parameters: 7", "no list"])
def test_unreadable_list_is_an_error(damage: str):
    with pytest.raises(DataError) as caught:
        react.read_system(FIRE.replace("Parameters: []", damage))
    assert caught.value.code == "api-list-unreadable"


def test_text_without_api_list_has_no_tools():
    assert react.read_system("You are helpful.") is None


def test_types_and_flags_of_lists_become_json_schema():
    schema = react.schema_of_list(
        [
            {"name": "a", "description": "d", "required": True, "type": "int"},
            {"name": "b", "required": "false", "schema": {"type": "array", "items": {"type": "string"}}},
        ]
    )
    assert schema["required"] == ["a"]
    assert schema["properties"]["a"]["type"] == "integer"
    assert schema["properties"]["b"] == {"type": "array", "items": {"type": "string"}}


NAMES = st.text(alphabet="abcxyz_", min_size=1, max_size=8)
TEXT = st.text(alphabet="ab 中文\n{}:[]\"'", max_size=30).map(str.strip)


@given(
    st.lists(
        st.tuples(NAMES, TEXT, st.dictionaries(NAMES, TEXT, max_size=3)),
        min_size=1,
        max_size=3,
        unique_by=lambda t: t[0],
    )
)
def test_written_tools_are_read_back(specs: list[tuple[str, str, dict[str, str]]]):
    tools = [
        ToolSpec(
            name=name,
            description=description,
            parameters={
                "type": "object",
                "properties": {key: {"description": text, "type": "string"} for key, text in properties.items()},
                "required": list(properties)[:1],
            },
        )
        for name, description, properties in specs
    ]
    text = react.write_system("", tools)
    block = react.read_system(text)
    assert block is not None
    assert react.write_system(block.system, block.tools) == text
    assert [(t.name, t.description) for t in block.tools] == [(t.name, t.description) for t in tools]
    for got, want in zip(block.tools, tools, strict=True):
        assert got.parameters["properties"] == want.parameters["properties"]


WORDS = st.text(alphabet="ab中 .,{}\"'", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(st.tuples(WORDS, NAMES, WORDS, st.text(alphabet="ab \n中", max_size=20)), max_size=3), WORDS, WORDS)
def test_composed_turns_are_parsed_as_composed(steps: list[tuple[str, str, str, str]], thought: str, answer: str):
    messages = []
    for reasoning, name, value, observation in steps:
        call = ToolCall(name=name, arguments=json.dumps({"q": value}, ensure_ascii=False))
        messages += [
            Message(role="assistant", reasoning=reasoning, tool_calls=(call,)),
            Message(role="tool", content=observation),
        ]
    messages.append(Message(role="assistant", reasoning=thought, content=answer))
    assert react.read_turn(react.write_turn(messages)) == messages


@given(
    st.text(alphabet="abTHO:\n ", max_size=60)
    | st.lists(
        st.sampled_from(["Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:", " x", "\n", "{}"]),
        max_size=14,
    ).map("".join)
)
def test_any_text_is_either_split_without_loss_or_refused(text: str):
    try:
        messages = react.read_turn(text)
    except DataError:
        return
    assert react.write_turn(messages) == text
