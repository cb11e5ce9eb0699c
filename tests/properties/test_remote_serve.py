"""run -> /chat/completions -> actune serve: what the model is shown there is what the loop shows in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.engines.remote_chat import ChatModel
from actune.agents.engines.remote_http import Server, read_address
from actune.agents.loop import Agent, Limits, Task
from actune.agents.rendered import RenderedModel
from actune.agents.tools.toolbox import Observation
from actune.core.types import Message, ToolSpec
from actune.render.encoder import Encoder

SPECS = tuple(
    ToolSpec(
        name=name,
        description=f"The {name}.",
        parameters={"type": "object", "properties": {"value": {"description": "V."}}, "required": ["value"]},
    )
    for name in ("look", "ask")
)
TEXTS = st.lists(
    st.sampled_from(["<|im_end|>", "Observation:", "\nFinal Answer: x", "好", "a", " ", "\n", '"', "{}"]), max_size=5
).map("".join)
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\U000f0000\U000f0001"), max_size=8)
# Thoughts and answers are what is read of a text: without blanks around them.
ANSWERS = st.sampled_from(["done", "好了。", "a: b"])


class Answers:
    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def call_each(self, wanted):
        return [
            Observation(text=self._texts[i % len(self._texts)], error=None, seconds=0.0) for i in range(len(wanted))
        ]


@pytest.mark.parametrize("style", ["react", "chat"])
def test_the_circle_is_closed(serving_kit: ModuleType, agent_kit: ModuleType, tools_folder: Path, style: str):
    encoder = Encoder.from_folder(tools_folder)
    outputs: list[str] = []
    bench = serving_kit.Bench(tools_folder, lambda request, base: outputs.pop(0), style=style)
    with serving_kit.on_a_socket(bench) as address:
        server = Server(read_address(address, None))
        model = ChatModel(server, "tuned")

        @settings(max_examples=25, deadline=None)
        @given(
            system=st.none() | VALUES,
            history=st.lists(st.tuples(TEXTS, ANSWERS), max_size=2),
            question=TEXTS,
            values=st.lists(VALUES, max_size=2),
            observations=st.lists(TEXTS, min_size=1, max_size=2),
            answer=ANSWERS,
        )
        def check(system, history, question, values, observations, answer) -> None:
            said = []
            for number, value in enumerate(values):
                call = json.dumps({"value": value}, ensure_ascii=False)
                name = SPECS[number % 2].name
                said.append(
                    f'<tool_call>{{"name": "{name}", "arguments": {call}}}</tool_call>'
                    if style == "chat"
                    else f"Thought: go on\nAction: {name}\nAction Input: {call}\nObservation:"
                )
            said.append(answer if style == "chat" else f"Thought: I know\nFinal Answer: {answer}")
            messages = [Message(role="system", content=system)] if system else []
            for asked, answered in history:
                messages += [Message(role="user", content=asked), Message(role="assistant", content=answered)]
            task = Task(messages=(*messages, Message(role="user", content=question)), tools=SPECS)
            scripted = agent_kit.ScriptedEngine(list(said), tokenizer=encoder.renderer.tokenizer)
            outputs[:] = said
            bench.engine.requests.clear()
            traces = [
                Agent(one, Answers(observations), limits=Limits(repeats=0)).run(task)
                for one in (RenderedModel(scripted, encoder, style=style), model)
            ]
            assert [trace.final_answer for trace in traces] == [answer, answer]
            here = [list(request.prompt) for request in scripted.requests]
            there = [list(request.prompt) for request in bench.engine.requests]
            assert there == here

        check()
        server.close()
    bench.close()
