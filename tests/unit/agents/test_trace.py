"""A Trace as JSON: nothing of the conversation is lost, keys that do not apply are absent."""

from __future__ import annotations

import json
from dataclasses import replace

from actune.agents.engines.engine import Sampling
from actune.agents.trace import Dropped, Trace, TraceStep
from actune.core.types import Message, ToolCall, ToolSpec

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "City."}}, "required": ["city"]}
LISTED = ({"name": "city", "description": "City.", "required": "True", "extra": "kept"},)
TOOLS = (
    ToolSpec(name="plain", description="d", parameters=SCHEMA),
    ToolSpec(name="listed", description="d", parameters=SCHEMA, parameter_list=LISTED),
    ToolSpec(name="own", parameters=SCHEMA, source={"parameters": SCHEMA, "name": "own", "strict": True}),
)
RAW = "{'city': '杭州', }"
MESSAGES = (
    Message(role="system", content=""),
    Message(role="user", content="q\u2028", name="Ann"),
    Message(role="assistant", reasoning="why", content="beside", tool_calls=(ToolCall(name="plain", arguments=RAW),)),
    Message(role="tool", content="sunny", source_text=" sunny\n\n"),
    Message(
        role="assistant",
        tool_calls=(ToolCall(name="a", arguments="{}", id="c1"), ToolCall(name="b", arguments="broken", id="c2")),
        source_text="Action:a\nAction Input: {}\nObservation:",
    ),
    Message(role="tool", content="1", tool_call_id="c1"),
    Message(role="tool", content="2", tool_call_id="c2", name="b"),
    Message(role="assistant", content="done", train=False, weight=0.5),
)
TRACE = Trace(
    prompt="q",
    steps=(TraceStep(output="x", calls=MESSAGES[2].tool_calls, observations=("sunny",), seconds=0.123456, tokens=3),),
    final_answer="done",
    reason="answer",
    messages=MESSAGES,
    tools=TOOLS,
)


def read_message(item: dict) -> Message:
    calls = [
        ToolCall(name=one["function"]["name"], arguments=one["function"]["arguments"], id=one.get("id"))
        for one in item.get("tool_calls", [])
    ]
    more = {key: item[key] for key in ("tool_call_id", "name", "train", "weight", "source_text") if key in item}
    reasoning = item.get("reasoning_content", "")
    return Message(role=item["role"], content=item["content"], reasoning=reasoning, tool_calls=tuple(calls), **more)


def read_tool(item: dict) -> ToolSpec:
    function = item["function"]
    normal = list(function) == ["name", "description", "parameters"]
    return ToolSpec(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function["parameters"],
        parameter_list=tuple(item["parameter_list"]) if "parameter_list" in item else None,
        source=None if normal else function,
    )


def test_the_conversation_comes_back_whole():
    row = json.loads(json.dumps(TRACE.to_json()))
    assert tuple(map(read_message, row["messages"])) == MESSAGES
    assert tuple(map(read_tool, row["tools"])) == TOOLS
    # Arguments as the model wrote them, not as they are read.
    assert row["messages"][2]["tool_calls"][0]["function"]["arguments"] == RAW
    assert row["steps"][0]["calls"] == [{"name": "plain", "arguments": {"city": "杭州"}}]


def test_keys_that_do_not_apply_are_absent():
    row = replace(TRACE, tools=(), final_answer=None, reason="steps").to_json()
    assert set(row) == {"version", "prompt", "steps", "stop_reason", "messages"}
    assert set(row["steps"][0]) == {"output", "calls", "observations", "seconds", "tokens"}
    assert row["messages"][0] == {"role": "system", "content": ""}


def test_what_a_reader_has_to_know_of_a_run():
    row = replace(
        TRACE,
        id="7",
        sample=2,
        model="tiny",
        dialect="react",
        sampling=Sampling(temperature=0.7, top_p=0.9, seed=5),
        dropped=(Dropped(step=0, messages=2),),
        steps=(replace(TRACE.steps[0], repaired=(0,), error="cut"),),
    ).to_json()
    assert (row["id"], row["sample"], row["model"], row["dialect"]) == ("7", 2, "tiny", "react")
    assert row["sampling"] == {"temperature": 0.7, "top_p": 0.9, "seed": 5}
    assert row["dropped"] == [{"step": 0, "messages": 2}]
    assert (row["steps"][0]["repaired"], row["steps"][0]["error"]) == ([0], "cut")
