"""Prompts that reach a server are those of the loop in this process and of training, id by id."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.engines.remote_http import Server, read_address
from actune.agents.engines.remote_probe import open_engine, pick_model
from actune.agents.loop import Agent, Limits, Task
from actune.agents.rendered import RenderedModel
from actune.agents.tools.toolbox import Observation
from actune.core.types import Conversation, Message, Source, ToolSpec
from actune.render.encoder import Encoder

SPECS = (
    ToolSpec(
        name="look",
        description="Look.",
        parameters={"type": "object", "properties": {"value": {"type": "string", "description": "V."}}},
    ),
)
# Text from outside with everything that a server could take for a control token or a stop.
PIECES = st.sampled_from(
    ["<|im_end|>", "<|im_start|>user\n", "Observation:", "\nObservation: x", "<tool_call>", "好", "\N{WINKING FACE}", "\n", " ", "a", '"']
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=6).map("".join)
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\U000f0000\U000f0001"), max_size=10)


class Answers:
    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def call_each(self, wanted):
        return [
            Observation(text=self._texts[i % len(self._texts)], error=None, seconds=0.0) for i in range(len(wanted))
        ]


@pytest.mark.parametrize("family", ["vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize("style", ["react", "chat"])
def test_prompts_at_the_server_are_those_of_training(
    agent_kit: ModuleType, server_kit: ModuleType, tools_folder: Path, family: str, style: str
):
    encoder = Encoder.from_folder(tools_folder)
    tokenizer = encoder.renderer.tokenizer
    fake = server_kit.FakeServer(family, tokenizer=tokenizer)
    with server_kit.serve(fake):
        server = Server(read_address(fake.url, None))
        engine, _ = open_engine(
            server, pick_model(server, None), tokenizer, trial=tokenizer.encode("Hello"), context=None
        )

        @settings(max_examples=15, deadline=None)
        @given(
            history=st.lists(st.tuples(TEXTS, VALUES.filter(str.strip)), max_size=2),
            question=TEXTS,
            values=st.lists(VALUES, max_size=2),
            observations=st.lists(TEXTS, min_size=1, max_size=2),
        )
        def check(history, question, values, observations) -> None:
            calls = [json.dumps({"value": value}, ensure_ascii=False) for value in values]
            if style == "chat":
                outputs = [f'<tool_call>{{"name": "look", "arguments": {call}}}</tool_call>' for call in calls] + [
                    "done"
                ]
            else:
                outputs = [f"Thought: go\nAction: look\nAction Input: {call}\nObservation:" for call in calls]
                outputs.append("Thought: ok\nFinal Answer: done")
            messages: list[Message] = []
            for asked, answered in history:
                messages += [Message(role="user", content=asked), Message(role="assistant", content=answered)]
            task = Task(messages=(*messages, Message(role="user", content=question)), tools=SPECS)
            scripted = agent_kit.ScriptedEngine(list(outputs), tokenizer=tokenizer)
            traces = []
            fake.bodies.clear()
            # What follows a stop word is the model's invention; stop tokens are what the server ends in.
            fake.outputs = [text + (" invented\n" if text.endswith("Observation:") else "<stop>") for text in outputs]
            for one in (scripted, engine):
                model = RenderedModel(one, encoder, style=style)
                traces.append(Agent(model, Answers(observations), limits=Limits(repeats=0)).run(task))
            local, remote = traces
            assert remote.final_answer == "done"
            assert remote.messages == local.messages
            assert [step.output for step in remote.steps] == outputs
            sent = [body["prompt"] for body in fake.bodies]
            assert sent == [list(request.prompt) for request in scripted.requests]
            row = Conversation(messages=remote.messages, tools=SPECS, style=style, source=Source(file="trace", line=1))
            turns = encoder.encode_turns(row)[-len(sent) :]
            assert sent == [turn.ids[: turn.start] for turn in turns]

        check()
        server.close()
