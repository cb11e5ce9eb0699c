"""A trace, as it is or converted, trains exactly what the model saw and emitted, or is listed; every trace is somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actune.agents.loop import Agent, Limits, Task
from actune.agents.rendered import RenderedModel, Window
from actune.agents.tools.toolbox import Observation
from actune.cli.main import main
from actune.core.errors import DataError
from actune.core.types import Message, Source, ToolSpec
from actune.data.reading.sources import load_conversations
from actune.formats import registry
from actune.render.encoder import Encoder

SPECS = tuple(
    ToolSpec(
        name=name,
        description=f"the {name} tool 工具",
        parameters={"type": "object", "properties": {"value": {"type": "string", "description": "a value"}}},
    )
    for name in ("first", "second")
)
BLANKS = st.sampled_from(["", " ", "\n", "\n\n", "  ", " \n"])
SPACES = st.sampled_from(["", " ", "  "])
VALUES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\U000f0000\U000f0001"), max_size=8
)
PIECES = [
    "Thought: ",
    "\nThought: ",
    "\nFinal Answer: ",
    "Observation:",
    "\n",
    " ",
    "好，晴",
    "<|im_end|>",
    "<tool_call>",
    "{",
    '"',
    "a",
    "\r\n",
]
OBSERVATIONS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)


class Answers:
    specs = SPECS

    def __init__(self, texts: list[str]) -> None:
        self._texts = list(texts)

    def call_each(self, wanted):
        return [Observation(text=self._texts.pop(0), error=None, seconds=0.0) for _ in wanted]


def make_agent(engine, encoder: Encoder, texts: list[str], style: str, window: Window | None = None) -> Agent:
    model = RenderedModel(engine, encoder, style=style, window=window)
    return Agent(model, Answers(texts), limits=Limits(steps=8, repeats=0))


@st.composite
def react_steps(draw):
    parts = [
        draw(BLANKS),
        "Thought:",
        draw(SPACES),
        draw(VALUES),
        "\nAction:",
        draw(SPACES),
        draw(st.sampled_from(["first", "second"])),
    ]
    arguments = json.dumps(
        {"value": draw(VALUES)},
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )
    return "".join([*parts, draw(SPACES), "\nAction Input:", draw(SPACES), arguments, draw(SPACES), "\nObservation:"])


@st.composite
def react_answers(draw):
    thought = draw(st.sampled_from(["", "Thought: so\n", "Thought:好了\n"]))
    return draw(BLANKS) + thought + "Final Answer:" + draw(SPACES) + "Done 完成" + draw(BLANKS)


@st.composite
def native_steps(draw):
    call = {"name": draw(st.sampled_from(["first", "second"])), "arguments": {"value": draw(VALUES)}}
    return f"<tool_call>{json.dumps(call, ensure_ascii=draw(st.booleans()))}</tool_call>"


def run(agent_kit: ModuleType, encoder: Encoder, style: str, outputs, observations, messages, window=None):
    """Return the trace of a scripted run as it stands in a file, and what the engine was asked."""
    engine = agent_kit.ScriptedEngine(outputs, tokenizer=encoder.renderer.tokenizer)
    trace = make_agent(engine, encoder, observations, style, window).run(Task(messages=messages, tools=SPECS, id="t"))
    return trace, engine.requests


def check_rows(path: Path, encoder: Encoder, trace, requests, *, completions: bool) -> None:
    (conversation,) = load_conversations(str(path)).conversations
    turns = [turn for turn in encoder.encode_turns(conversation) if turn.weight]
    assert [list(turn.ids[: turn.start]) for turn in turns] == [list(request.prompt) for request in requests]
    if completions:
        end = encoder.renderer.profile.answer_end
        said = [turn.turn.completion for turn in turns]
        assert [text.removesuffix(end) for text in said[-1:]] == [trace.steps[-1].output]
        assert said[:-1] == [step.output for step in trace.steps[:-1]]


def write_trace(folder: Path, trace) -> Path:
    path = folder / "traces.jsonl"
    path.write_text(json.dumps(trace.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
    return path


HISTORY = (
    Message(role="system", content="Sei kurz. 请简短。"),
    Message(role="user", content="before"),
    Message(role="assistant", content="an answer of another day"),
)


@pytest.mark.parametrize("style", ["react", "react_zh"])
def test_react_rows_hold_what_was_seen_and_emitted(agent_kit, tools_folder, tmp_path_factory, style):
    encoder = Encoder.from_folder(tools_folder)
    folder = tmp_path_factory.mktemp("traces")
    written = []

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        outputs=st.lists(react_steps(), max_size=3),
        answer=react_answers(),
        observations=st.lists(OBSERVATIONS, min_size=3, max_size=3),
        history=st.booleans(),
    )
    def check(outputs, answer, observations, history):
        messages = (*(HISTORY if history else ()), Message(role="user", content="q 问"))
        trace, requests = run(agent_kit, encoder, style, [*outputs, answer], observations, messages)
        if trace.reason != "answer":  # a value with a marker in it, say
            return
        source, out = write_trace(folder, trace), folder / "rows.jsonl"
        check_rows(source, encoder, trace, requests, completions=True)
        code = main(["convert", str(source), str(out), "--to", "ms-agent", "--overwrite"])
        lines = out.read_text(encoding="utf-8").splitlines()
        written.append(code == 0)
        if code == 0:
            check_rows(out, encoder, trace, requests, completions=True)
            return
        (bad,) = (folder / "rows.jsonl.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
        assert lines == []
        assert json.loads(bad)["code"] in {"react-marker-in-text", "trace-not-exact", "format-changes-row"}
        # Only what stands at a border of a step, or a marker inside, can be in the way.
        texts = [*observations[: len(outputs)], *outputs[1:], answer if outputs else "x"]
        assert any(
            text != text.lstrip()
            or text.endswith("\n")
            or re.search("Thought|Final|Observation", text[:-12] if text in outputs else text)
            for text in texts
        )

    check()
    assert sum(written) > 5


def test_native_rows_show_the_prompts_of_the_loop(agent_kit, tools_folder, tmp_path_factory):
    encoder = Encoder.from_folder(tools_folder)
    folder = tmp_path_factory.mktemp("traces")

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        outputs=st.lists(st.lists(native_steps(), min_size=1, max_size=2).map("".join), max_size=3),
        answer=st.sampled_from(["done", "完成了。", "a: b"]),
        observations=st.lists(OBSERVATIONS, min_size=6, max_size=6),
        history=st.booleans(),
    )
    def check(outputs, answer, observations, history):
        messages = (*(HISTORY if history else ()), Message(role="user", content="q 问"))
        trace, requests = run(agent_kit, encoder, "chat", [*outputs, answer], observations, messages)
        assert trace.reason == "answer"
        source, out = write_trace(folder, trace), folder / "rows.jsonl"
        check_rows(source, encoder, trace, requests, completions=False)
        assert main(["convert", str(source), str(out), "--to", "openai", "--overwrite"]) == 0
        check_rows(out, encoder, trace, requests, completions=False)

    check()


@pytest.mark.parametrize("style", ["react", "chat"])
def test_with_a_cut_history_only_what_saw_the_row_is_trained(agent_kit, tools_folder, tmp_path_factory, style):
    encoder = Encoder.from_folder(tools_folder)
    folder = tmp_path_factory.mktemp("traces")
    cuts = []

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        values=st.lists(st.integers(1, 40), min_size=1, max_size=3),
        before=st.lists(st.integers(1, 30), max_size=4),
        limit=st.integers(300, 700),
    )
    def check(values, before, limit):
        messages = [Message(role="system", content="Be brief.")]
        for number in before:
            messages += [Message(role="user", content="u " * number), Message(role="assistant", content="a " * number)]
        messages.append(Message(role="user", content="q"))
        if style == "react":
            outputs = ['Action: first\nAction Input: {"value": "x"}\nObservation:'] * len(values) + [
                "Final Answer: done"
            ]
        else:
            outputs = ['<tool_call>{"name": "first", "arguments": {"value": "x"}}</tool_call>'] * len(values) + ["done"]
        window = Window(limit=limit)
        trace, requests = run(agent_kit, encoder, style, outputs, ["o " * v for v in values], tuple(messages), window)
        if trace.reason != "answer":
            return
        cuts.append(len(trace.dropped))
        first = trace.dropped[-1].step if trace.dropped else 0
        check_rows(write_trace(folder, trace), encoder, trace, requests[first:], completions=False)

    check()
    assert sum(map(bool, cuts)) > 5


@pytest.mark.parametrize("style", ["react", "chat"])
def test_every_trace_is_a_row_or_an_error_of_its_own(agent_kit, tools_folder, style):
    encoder = Encoder.from_folder(tools_folder)
    junk = [*PIECES, "Action: first\n", "Action Input: {}\n", "Action: none\nAction Input: {}\nObservation:"]
    junk += [
        '<tool_call>{"name": "first", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {}}</tool_call>',
    ]
    texts = st.lists(st.sampled_from(junk), max_size=6).map("".join)

    codes = set()

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(outputs=st.lists(texts, min_size=8, max_size=8), observations=st.lists(texts, min_size=40, max_size=40))
    def check(outputs, observations):
        trace, _ = run(agent_kit, encoder, style, outputs, observations, (Message(role="user", content="?"),))
        row = json.loads(json.dumps(trace.to_json()))
        try:
            conversation = registry.read_row(row, Source(file="t", line=1), registry.detect_format([row]))
        except DataError as error:
            codes.add(error.code)
            return
        assert [m.content for m in conversation.messages] == [m.content for m in trace.messages]

    check()
    assert codes <= {"no-assistant", "unknown-tool", "answer-empty"}
