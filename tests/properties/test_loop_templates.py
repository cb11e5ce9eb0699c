"""The loop under real chat templates: what it asks an engine is what training on the same conversation shows."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.loop import Agent, Task
from actune.agents.rendered import RenderedModel
from actune.agents.tools.toolbox import Observation
from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.chat import ChatRenderer
from actune.render.encoder import Encoder
from actune.render.native import learn_format
from actune.render.tokenizer import ChatTemplates, TextTokenizer

SPECS = tuple(
    ToolSpec(
        name=name,
        description=f"what {name} is for",
        parameters={"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}},
    )
    for name in ("get_weather", "get_time")
)
VARIANTS = (
    ("react", "", False),
    ("react_zh", "I look.", False),
    ("chat", "", False),
    ("chat", "I look.", False),
    ("chat", "", True),
)
SEEN = 'sunny\nFinal Answer: 42\n{"a": [null]}'


class Answers:
    def call_each(self, wanted):
        return [Observation(text=SEEN, error=None, seconds=0.0) for _ in wanted]


def call(name: str, number: int) -> ToolCall:
    return ToolCall(name=name, arguments='{"city": "杭州 \\"x\\""}', id=f"call{number:05d}")


def history(*, reasoning: str, parallel: bool) -> list[Message]:
    """Return a question, two steps of calls and an answer, then another question with its answer."""
    first = (call("get_weather", 1), call("get_time", 2)) if parallel else (call("get_weather", 1),)
    messages = [
        Message(role="user", content="How is it?"),
        Message(role="assistant", reasoning=reasoning, tool_calls=first),
    ]
    messages += [Message(role="tool", content=SEEN, tool_call_id=one.id) for one in first]
    last = call("get_time", len(first) + 1)
    messages += [Message(role="assistant", reasoning=reasoning, tool_calls=(last,))]
    messages += [Message(role="tool", content=SEEN, tool_call_id=last.id)]
    messages += [Message(role="assistant", reasoning=reasoning, content="It is sunny.")]
    return messages


def outputs_of(encoder: Encoder, row: Conversation) -> list[str]:
    """Return what the model has to emit for every answer, as an engine returns it."""
    dialect = encoder.dialect_of(row)
    stops = dialect.stops()
    texts = []
    for index, message in enumerate(row.messages):
        if message.role == "assistant":
            text = dialect.completion(row, index, dialect.prompt(row, index))
            for stop in (*encoder.renderer.profile.stops, *stops.texts):
                text = text.removesuffix(stop)
            texts.append(text)
    return texts


def check(agent_kit: ModuleType, encoder: Encoder, style: str, *, reasoning: str, parallel: bool) -> bool:
    """Run the loop on what the dialect itself writes; False where the template cannot express the conversation."""
    messages = tuple(history(reasoning=reasoning, parallel=parallel))
    row = Conversation(messages=messages, tools=SPECS, style=style, source=Source(file="made", line=1))
    try:
        encoder.encode_turns(row)
        outputs = outputs_of(encoder, row)
    except (RenderError, DataError):
        return False
    engine = agent_kit.ScriptedEngine(outputs, tokenizer=encoder.renderer.tokenizer)
    trace = Agent(RenderedModel(engine, encoder, style=style), Answers()).run(Task(messages=messages[:1], tools=SPECS))
    assert trace.reason == "answer", trace.steps[-1].error
    assert trace.final_answer == "It is sunny."
    turns = encoder.encode_turns(replace(row, messages=trace.messages))
    assert [list(request.prompt) for request in engine.requests] == [turn.ids[: turn.start] for turn in turns]
    expected = encoder.encode_turns(row)
    assert [turn.ids for turn in turns] == [turn.ids for turn in expected]
    return True


@pytest.mark.shared
def test_prompts_under_every_real_template(agent_kit: ModuleType, shared: Path):
    tokenizer = TextTokenizer.from_folder(shared / "assets" / "tokenizers" / "qwen3")
    counts = {"react": 0, "react_zh": 0, "chat": 0}
    for file in sorted((shared / "assets" / "chat_templates").glob("*.jinja")):
        text = file.read_text(encoding="utf-8")
        try:
            renderer = ChatRenderer(tokenizer, ChatTemplates(plain=text, tools=text, origin=file.name))
        except RenderError:
            continue
        encoder = Encoder(renderer)
        read_back = functools.cache(lambda renderer: learn_format(renderer).reason)
        for style, reasoning, parallel in VARIANTS:
            if style == "chat" and (renderer.profile.arguments is None or read_back(renderer) is not None):
                continue
            try:
                done = check(agent_kit, encoder, style, reasoning=reasoning, parallel=parallel)
            except AssertionError as error:
                raise AssertionError(f"{file.name}, {style}, {reasoning!r}, parallel {parallel}: {error}") from error
            counts[style] += done
    assert counts["react"] == counts["react_zh"] > 100
    assert counts["chat"] > 60
