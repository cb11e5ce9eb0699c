"""Traces as rows: what the outputs saw and said, what is trained of it, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest

from actune.agents.trace import Trace, TraceStep
from actune.core.errors import ConfigError, DataError
from actune.core.types import Message, Source, ToolCall, ToolSpec
from actune.formats import registry
from actune.formats.trace import read_steps

SOURCE = Source(file="traces.jsonl", line=3)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "City."}}, "required": ["city"]}
LISTED = ({"name": "city", "description": "City.", "required": "True", "extra": "kept"},)
TOOLS = (
    ToolSpec(name="weather", description="d", parameters=SCHEMA, parameter_list=LISTED),
    ToolSpec(name="own", parameters=SCHEMA, source={"parameters": SCHEMA, "name": "own", "strict": True}),
)


def call(arguments: str = '{"city": "Rome"}', name: str = "weather") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def step(*calls: ToolCall, error: str | None = None, **more) -> TraceStep:
    return TraceStep(
        output="x", calls=calls, observations=("o",) * len(calls), error=error, seconds=0.1, tokens=3, **more
    )


MESSAGES = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="first"),
    Message(role="assistant", content="an answer of before"),
    Message(role="user", content="q"),
    Message(
        role="assistant",
        reasoning="why",
        tool_calls=(call("{'city': '杭州', }"),),
        source_text="Thought:why\nAction: weather",
    ),
    Message(role="tool", content="sunny", source_text=" sunny\n\n"),
    Message(role="assistant", tool_calls=(call("Rome, broken"),)),
    Message(role="tool", content="no such city"),
    Message(role="assistant", content="done"),
)
TRACE = Trace(
    prompt="q",
    steps=(step(call()), step(call(), error="arguments-invalid: no object"), step()),
    final_answer="done",
    reason="answer",
    messages=MESSAGES,
    tools=TOOLS,
    dialect="react",
    id="7",
    sample=2,
)


def to_row(**changed) -> dict:
    row = json.loads(json.dumps(TRACE.to_json()))
    return {key: value for key, value in (row | changed).items() if value is not None}


def read(row: dict):
    return registry.read_row(row, SOURCE, registry.detect_format([row]))


def test_a_trace_is_the_conversation_that_it_came_from():
    conversation = read(to_row())
    context = [MESSAGES[2].__class__(role="assistant", content="an answer of before", train=False)]
    assert conversation.messages == (*MESSAGES[:2], *context, *MESSAGES[3:])
    assert (conversation.tools, conversation.style, conversation.id) == (TOOLS, "react", "7#2")
    assert conversation.repairs == ()


def test_a_file_of_traces_is_no_file_of_messages():
    row, other = to_row(), {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert registry.detect_format([row, row]) == "trace"
    with pytest.raises(ConfigError, match="different formats"):
        registry.detect_format([row, other])


def test_steps_say_what_was_wrong_with_them():
    steps = [
        step(call()),
        step(call(), error="output-cut"),
        step(call(), error="output-cut; tool-error: x; y"),
        step(call(), repaired=(0,)),
    ]
    row = to_row(
        steps=Trace(prompt="", steps=tuple(steps), final_answer=None, reason="steps", messages=()).to_json()["steps"]
    )
    assert [one.fault for one in read_steps(row)] == ["", "", "output-cut; tool-error: x; y", "repaired arguments"]


def test_an_output_that_is_neither_call_nor_answer_stands_in_its_step_alone():
    steps = [
        *to_row()["steps"][:2],
        {"output": "Thought: hm", "calls": [], "observations": [], "tokens": 4, "error": "thought-only"},
    ]
    row = to_row(steps=steps, stop_reason="unparsable", final_answer=None, messages=to_row()["messages"][:-1])
    assert [message.train for message in read(row).messages if message.role == "assistant"] == [False, True, True]
    with pytest.raises(DataError) as caught:
        read(to_row(steps=steps[2:], stop_reason="unparsable", messages=to_row()["messages"][:2]))
    assert caught.value.code == "no-assistant"


def test_a_step_can_be_left_untrained():
    row = to_row()
    row["steps"][1]["train"] = False
    assert [message.train for message in read(row).messages if message.role == "assistant"] == [
        False,
        True,
        False,
        True,
    ]
    row["steps"][1]["train"] = "no"
    with pytest.raises(DataError) as caught:
        read(row)
    assert caught.value.code == "train-flag"


def test_history_that_was_cut_is_left_out_and_what_saw_more_is_not_trained():
    row = to_row(dropped=[{"step": 1, "messages": 2}])
    conversation = read(row)
    assert [message.content for message in conversation.messages[:2]] == ["Be brief.", "q"]
    assert [message.train for message in conversation.messages if message.role == "assistant"] == [False, True, True]
    assert len(conversation.repairs) == 2
    # Nothing was said after this cut, so the row shows what all outputs saw.
    assert read(to_row(dropped=[{"step": 3, "messages": 2}])).repairs == ()


def old(**more) -> dict:
    text = "Thought: look\nAction: weather\nAction Input: {'city': 'Rome'} \nObservation:"
    steps = [
        {
            "output": text,
            "calls": [{"name": "weather", "arguments": {"city": "Rome"}}],
            "observations": ["sunny"],
            "seconds": 1,
            "tokens": 9,
        },
        {"output": " Final Answer: Sunny.", "calls": [], "observations": [], "seconds": 1, "tokens": 5},
    ]
    return {"version": 1, "prompt": "q", "steps": steps, "final_answer": "Sunny.", "stop_reason": "answer"} | more


def test_traces_of_steps_alone_are_read_as_far_as_they_say_what_was_shown():
    tools = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}]
    conversation = read(old(tools=tools, dialect="react_zh", system="Kurz."))
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].source_text == old()["steps"][0]["output"]
    assert conversation.messages[4].source_text == " Final Answer: Sunny."
    assert conversation.style == "react_zh"
    plain = old(tools=[], steps=[{"output": "Hello.", "calls": [], "observations": []}])
    assert read(plain).messages[-1].content == "Hello."
    for more in ({}, {"tools": tools}, {"tools": tools, "dialect": "chat"}):
        with pytest.raises(DataError) as caught:
            read(old(**more))
        assert caught.value.code == "trace-incomplete"


def spoil(row: dict, path: list, value) -> dict:
    row = copy.deepcopy(row)
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return row


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (["version"], 2, "trace-version"),
        (["dialect"], "latin", "trace-incomplete"),
        (["stop_reason"], 1, "content-type"),
        (["steps", 0], "x", "trace-steps"),
        (["steps", 0, "calls"], {}, "trace-steps"),
        (["steps", 0, "calls", 0], {"name": 1}, "trace-steps"),
        (["steps", 0, "calls", 0, "name"], "own", "trace-steps"),
        (["steps", 0, "observations"], [1], "trace-steps"),
        (["steps", 0, "tokens"], True, "trace-steps"),
        (["steps", 0, "error"], {}, "content-type"),
        (["messages", 4, "content"], None, "content-type"),
        (["messages", 4, "role"], "robot", "role-unknown"),
        (["messages", 4, "tool_calls", 0], {"name": "weather"}, "call-unreadable"),
        (["messages", 4, "tool_calls", 0, "function", "arguments"], {}, "content-type"),
        (["messages", 4, "source_text"], 1, "content-type"),
        (["messages"], [], "messages-empty"),
        (["messages", 5, "role"], "user", "call-without-result"),
        (["tools", 0, "parameter_list"], ["x"], "tool-parameters"),
        (["dropped"], [{"step": 1}], "trace-steps"),
        (["dropped"], [{"step": 1, "messages": 99}], "trace-steps"),
        (["dropped"], [{"step": 1, "messages": 2}, {"step": 0, "messages": 1}], "trace-steps"),
    ],
)
def test_what_is_no_trace_is_an_error_of_its_row(path, value, code):
    row = spoil(to_row(), path, value)
    with pytest.raises(DataError) as caught:
        read(row)
    assert caught.value.code == code
