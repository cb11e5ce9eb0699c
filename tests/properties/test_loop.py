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
from actune.agents.rendered import RenderedModel, Window
from actune.agents.tools.toolbox import Observation
from actune.core.turns import head_length, keep_part, turn_starts
from actune.core.types import Conversation, Message, Source, ToolSpec
from actune.data.encode import encode_row, longest
from actune.render.encoder import Encoder
from actune.render.tree import TokenTree

ENDLESS = Limits(repeats=0)
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
        trace = Agent(RenderedModel(engine, encoder, style=style), Answers(observations), limits=ENDLESS).run(
            Task(messages=messages, tools=SPECS)
        )
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
        agent = Agent(RenderedModel(engine, encoder, style=style), Answers(observations), limits=Limits(steps=4))
        trace = agent.run(Task(messages=(Message(role="user", content="?"),), tools=SPECS))
        assert 1 <= len(trace.steps) <= 4
        assert (trace.final_answer is not None) == (trace.reason == "answer")
        assert json.loads(json.dumps(trace.to_json())) == trace.to_json()
        # Nothing that came from outside is taken for the model's own.
        assert all(len(step.calls) == len(step.observations) for step in trace.steps)
        assert dataclasses.is_dataclass(trace)

    check()


@pytest.mark.parametrize("style", ["react", "chat"])
def test_what_is_dropped_is_what_training_drops(agent_kit: ModuleType, tools_folder: Path, style: str):
    """The prompt of the loop is that of the row that training with `truncation_strategy turns` cuts to the same length."""
    encoder = Encoder.from_folder(tools_folder)
    write = write_native if style == "chat" else write_react
    final = "done" if style == "chat" else "Thought: ok\nFinal Answer: done"
    turn = st.tuples(VALUES, st.sampled_from(["yes", "no, not at all", "a: b"]))

    @settings(max_examples=60, deadline=None)
    @given(
        system=st.none() | VALUES,
        history=st.lists(turn, max_size=4),
        question=VALUES,
        call=st.none() | CALLS,
        observation=UNMARKED,
        kept=st.integers(0, 4),
        spare=st.integers(-1, 2),
    )
    def check(system, history, question, call, observation, kept, spare) -> None:
        messages = [Message(role="system", content=system)] if system else []
        for asked, answered in history:
            messages += [Message(role="user", content=asked), Message(role="assistant", content=answered)]
        messages.append(Message(role="user", content=question))
        outputs = [final] if call is None else [write(*call), final]

        def run(window: Window, tokens: int):
            engine = agent_kit.ScriptedEngine(list(outputs), tokenizer=encoder.renderer.tokenizer)
            model = RenderedModel(engine, encoder, style=style, window=window)
            agent = Agent(model, Answers([observation]), limits=Limits(output_tokens=tokens))
            return agent.run(Task(messages=tuple(messages), tools=SPECS)), engine.requests

        whole, _ = run(Window(), 512)
        assert whole.final_answer == "done"
        row = Conversation(messages=whole.messages, tools=SPECS, style=style, source=Source(file="trace", line=1))
        last = encoder.encode_turns(row)[-1]
        # Training needs room for the answer itself; the loop is told to leave just that much.
        answer = len(last.ids) - last.start
        starts = turn_starts(row.messages)
        part = dataclasses.replace(row, messages=keep_part(row.messages, starts[min(kept, len(starts) - 1)]))
        limit = max(4 * answer, len(encoder.encode_turns(part)[-1].ids) + spare)
        trained = encode_row(row, encoder, max_length=limit, truncation="turns")
        trace, requests = run(Window(limit=limit), answer if call is None else 512)
        if call is not None:
            # Each output may be long, so more is dropped than training would; what is left is still a row of training.
            start = head_length(row.messages) + (trace.dropped[-1].messages if trace.dropped else 0)
            cut = dataclasses.replace(row, messages=keep_part(row.messages, start))
            turn = encoder.encode_turns(cut)[-1]
            assert list(requests[-1].prompt) == turn.ids[: turn.start]
            return
        if trained.length > limit and not trained.shortened:
            return  # training leaves this row out: not even its last turn fits
        (tree,) = trained.trees
        assert longest(tree) <= limit
        assert list(requests[0].prompt) + last.ids[last.start :] == read_last(tree)
        assert bool(trace.dropped) == trained.shortened

    check()


def read_last(tree: TokenTree) -> list[int]:
    """Return the longest sequence of a tree: its last turn with all before it."""
    at = int(tree.positions.argmax())
    return [int(token) for index, token in enumerate(tree.input_ids[: at + 1]) if tree.end[index] > at]
