"""What a talk of several questions asks an engine is what training on the whole talk shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from actune.agents.loop import Agent
from actune.agents.rendered import RenderedModel
from actune.agents.tools.toolbox import Tool, Toolbox
from actune.core.types import Conversation, Source, ToolSpec
from actune.recipes.agents import Bench
from actune.recipes.chat import Reader, Session
from actune.render.encoder import Encoder

SPEC = ToolSpec(
    name="first",
    description="the first tool",
    parameters={"type": "object", "properties": {"value": {"type": "string", "description": "a value"}}},
)
# What a person types: no command, no line that goes on, nothing that is blank.
QUESTIONS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), max_codepoint=0xFFFF), max_size=8).map(
    lambda text: "q" + text.replace("\\", "") + "?"
)
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\U000f0000\U000f0001"), max_size=8)


@pytest.mark.parametrize("style", ["react", "chat"])
def test_prompts_of_a_talk_are_those_of_training(agent_kit: ModuleType, tools_folder: Path, style: str):
    encoder = Encoder.from_folder(tools_folder)

    def call(value: str) -> str:
        arguments = {"value": value}
        if style == "chat":
            return f"<tool_call>{json.dumps({'name': 'first', 'arguments': arguments}, ensure_ascii=False)}</tool_call>"
        return f"Thought: go\nAction: first\nAction Input: {json.dumps(arguments, ensure_ascii=False)}\nObservation:"

    @settings(max_examples=40, deadline=None)
    @given(questions=st.lists(st.tuples(QUESTIONS, st.lists(VALUES, max_size=2)), min_size=1, max_size=3), seen=VALUES)
    def check(questions, seen) -> None:
        final = "done" if style == "chat" else "Thought: ok\nFinal Answer: done"
        outputs = [text for _, values in questions for text in [*map(call, values), final]]
        engine = agent_kit.ScriptedEngine(outputs, tokenizer=encoder.renderer.tokenizer)
        toolbox = Toolbox((SPEC,), (Tool(spec=SPEC, call=lambda _: seen, inline=True),))
        model = RenderedModel(engine, encoder, style=style)
        bench = Bench(agent=Agent(model, toolbox), toolbox=toolbox, style=style)
        lines = iter([question for question, _ in questions])

        def read(_prompt: str) -> str:
            line = next(lines, None)
            if line is None:
                raise EOFError
            return line

        session = Session(bench, None, "", Console(file=io.StringIO()), Reader(read))
        session.talk()
        messages, tools = session._talk.messages, session._talk.tools
        row = Conversation(messages=messages, tools=tools, style=style, source=Source(file="talk", line=1))
        turns = encoder.encode_turns(row)
        assert len(turns) == len(outputs)
        assert [list(request.prompt) for request in engine.requests] == [turn.ids[: turn.start] for turn in turns]

    check()
