"""What the loop asks an engine is what training on the same conversation shows; no output breaks it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.loop import Agent, Limits, Task
from actune.agents.tools.toolbox import Observation
from actune.core.types import Conversation, Message, Source, ToolSpec
from actune.render.encoder import Encoder

SPECS = tuple(
    ToolSpec(
        name=name,
        description=f"the {name} tool",
        parameters={"type": "object", "properties": {"value": {"type": "string", "description": "a value"}}},
    )
    for name in ("first", "second")
)
# Text with everything that could be taken for something else.
PIECES = st.sampled_from(
    [
        "Thought: ", "Action: first", "Action Input: {}", "Observation:", "Observation", "Final Answer: ", "\n", " ", "好",
        "<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>", '{"name": "first", "arguments": {"value": "x"}}',
        "<think>", "</think>", "\N{WINKING FACE}", "{", "}", '"', "\\", "a", "\U000f0000", "\u2028", "\r\n",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=8).map("".join)
# Marks of neutralised text are taken out of what comes from outside; training refuses a row that holds them.
UNMARKED = TEXTS.map(lambda text: text.replace("\U000f0000", ""))
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\U000f0000\U000f0001"), max_size=12)
CALLS = st.tuples(st.sampled_from(["first", "second"]), VALUES)


class Answers:
    """Tools that give what the test says."""

    specs = SPECS

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def call_each(self, wanted):
        return [
            Observation(text=self._texts[i % len(self._texts)], error=None, seconds=0.0) for i in range(len(wanted))
        ]


def write_react(name: str, value: str) -> str:
    return (
        f"Thought: go\nAction: {name}\nAction Input: {json.dumps({'value': value}, ensure_ascii=False)}\nObservation:"
    )


def write_native(name: str, value: str) -> str:
    call = json.dumps({"name": name, "arguments": {"value": value}}, ensure_ascii=False)
    return f"<tool_call>{call}</tool_call>"


@pytest.mark.parametrize("style", ["react", "react_zh", "chat"])
def test_prompts_of_the_loop_are_those_of_training(agent_kit: ModuleType, tools_folder: Path, style: str):
    encoder = Encoder.from_folder(tools_folder)
    write = write_native if style == "chat" else write_react

    @settings(max_examples=60, deadline=None)
    @given(
        system=st.none() | VALUES,
        question=VALUES,
        calls=st.lists(CALLS, max_size=3),
        observations=st.lists(UNMARKED, min_size=1, max_size=3),
        answer=st.sampled_from(["done", "完成了。", "a: b"]),
    )
    def check(system, question, calls, observations, answer) -> None:
        final = answer if style == "chat" else f"Thought: ok\nFinal Answer: {answer}"
        outputs = [write(*call) for call in calls] + [final]
        engine = agent_kit.ScriptedEngine(outputs, tokenizer=encoder.renderer.tokenizer)
        messages = (Message(role="system", content=system),) if system else ()
        messages = (*messages, Message(role="user", content=question))
        trace = Agent(engine, encoder, Answers(observations), style=style).run(Task(messages=messages, tools=SPECS))
        assert trace.final_answer == answer
        row = Conversation(messages=trace.messages, tools=trace.tools, style=style, source=Source(file="trace", line=1))
        turns = encoder.encode_turns(row)
        assert [list(request.prompt) for request in engine.requests] == [turn.ids[: turn.start] for turn in turns]

    check()


@pytest.mark.parametrize("style", ["react", "chat"])
def test_no_output_breaks_the_loop(agent_kit: ModuleType, tools_folder: Path, style: str):
    encoder = Encoder.from_folder(tools_folder)

    @settings(max_examples=400, deadline=None)
    @given(outputs=st.lists(TEXTS, min_size=4, max_size=4), observations=st.lists(TEXTS, min_size=1, max_size=2))
    def check(outputs, observations) -> None:
        engine = agent_kit.ScriptedEngine(outputs, tokenizer=encoder.renderer.tokenizer)
        agent = Agent(engine, encoder, Answers(observations), style=style, limits=Limits(steps=4))
        trace = agent.run(Task(messages=(Message(role="user", content="?"),), tools=SPECS))
        assert 1 <= len(trace.steps) <= 4
        assert (trace.final_answer is not None) == (trace.reason == "answer")
        assert json.loads(json.dumps(trace.to_json())) == trace.to_json()
        # Nothing that came from outside is taken for the model's own.
        assert all(len(step.calls) == len(step.observations) for step in trace.steps)
        assert dataclasses.is_dataclass(trace)

    check()
