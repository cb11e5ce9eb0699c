from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core import react
from actune.core.errors import DataError
from actune.core.types import Message, ToolCall

CALL = "Action: weather\nAction Input: {'city': '杭州'}\nObservation: sunny\n"
ANSWER = "Thought: I now know the final answer\nFinal Answer: It is sunny."


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


NAMES = st.text(alphabet="abcxyz_", min_size=1, max_size=8)
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
