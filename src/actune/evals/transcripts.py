"""The same prompts put to the model before and after, for people to read beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actune.agents.engines.engine import Engine
from actune.agents.loop import Agent, Limits, Task
from actune.agents.rendered import RenderedModel
from actune.agents.tools.toolbox import Observation
from actune.agents.trace import Trace
from actune.core.types import Message, Style, ToolCall, ToolSpec
from actune.evals.reference import OBSERVATIONS, PROMPTS, Prompt
from actune.evals.report import Part, Side, Transcript
from actune.render.encoder import Encoder


class RecordedAnswers:
    """Tools that always give the same text, whatever their arguments: as a person who fills in an Observation would."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Answer by tool name."""
        self._texts = texts

    def call_each(self, wanted: Sequence[tuple[ToolCall, Sequence[ToolSpec] | None]]) -> list[Observation]:
        """Return one observation a call."""
        return [self._answer(call) for call, _ in wanted]

    def _answer(self, call: ToolCall) -> Observation:
        text = self._texts.get(call.name)
        if text is None:
            names = ", ".join(self._texts)
            return Observation(text=f"no tool named {call.name}; there are: {names}", error="unknown-tool", seconds=0.0)
        return Observation(text=text, error=None, seconds=0.0)


def run_prompts(engine: Engine, encoder: Encoder, *, style: Style, tokens: int) -> list[Trace]:
    """Return a Trace of each of the reference's prompts: greedy, at most `tokens` an output and four steps."""
    limits = Limits(steps=4, tokens=4 * tokens, output_tokens=tokens, seconds=3600.0)
    agent = Agent(RenderedModel(engine, encoder, style=style), RecordedAnswers(OBSERVATIONS), limits=limits)
    return agent.run_many([_task(prompt) for prompt in PROMPTS], parallel=len(PROMPTS))


def pair_traces(base: Sequence[Trace], tuned: Sequence[Trace]) -> list[Transcript]:
    """Return the traces of the reference's prompts side by side."""
    return [
        Transcript(
            id=prompt.id,
            axis=prompt.axis,
            title=prompt.id,
            question=prompt.text,
            base=_side(before),
            tuned=_side(after),
        )
        for prompt, before, after in zip(PROMPTS, base, tuned, strict=True)
    ]


def _task(prompt: Prompt) -> Task:
    return Task(messages=(Message(role="user", content=prompt.text),), tools=prompt.tools, id=prompt.id)


def _side(trace: Trace) -> Side:
    parts: list[Part] = []
    for step in trace.steps:
        parts.append(Part(kind="output", text=step.output))
        parts.extend(Part(kind="observation", text=text) for text in step.observations)
    errors = [step.error for step in trace.steps if step.error is not None]
    note = "" if trace.reason == "answer" else trace.reason + (f": {errors[-1]}" if errors else "")
    return Side(parts=tuple(parts), note=note)
