"""What happened in one run of an agent, step by step: the one thing that evaluation and users read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from actune.agents.engines.engine import Sampling
from actune.core.errors import DataError
from actune.core.types import Message, Style, ToolCall, ToolSpec

VERSION = 1
# answer: the model gave one; steps, tokens, seconds: a limit; unparsable: an output that is neither call nor answer;
# loop: the same again and again; error: the conversation so far cannot be shown to the model, or its server failed.
EndReason = Literal["answer", "steps", "tokens", "seconds", "unparsable", "loop", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One output of the model and what came back. `error` says why the output or one of its calls was not usable.

    `repaired` are the places (from 0) of calls whose arguments had to be mended before they could be read.
    """

    output: str
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[str, ...] = ()
    error: str | None = None
    repaired: tuple[int, ...] = ()
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """From the output of `steps[step]` on, the first `messages` messages after the system text were not shown."""

    step: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One run: the user's prompt, the steps, the final answer (None without one) and why it ended.

    `messages` and `tools` are the whole conversation; `dropped` says from which step on its oldest messages were no
    longer shown. `dialect` is what it was written in, `model` a name without folders, `sample` the number (from 0)
    of a task that is done several times.
    """

    prompt: str
    steps: tuple[TraceStep, ...]
    final_answer: str | None
    reason: EndReason
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    dialect: Style | None = None
    model: str | None = None
    sampling: Sampling | None = None
    id: str | None = None
    sample: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the Trace as `actune run --json` prints it; a key that does not apply is absent."""
        content: dict[str, Any] = {"version": VERSION}
        for key, value in (("id", self.id), ("sample", self.sample), ("model", self.model), ("dialect", self.dialect)):
            if value is not None:
                content[key] = value
        if self.sampling is not None and self.sampling.temperature > 0:
            content["sampling"] = asdict(self.sampling)
        content |= {"prompt": self.prompt, "steps": [_write_step(step) for step in self.steps]}
        if self.final_answer is not None:
            content["final_answer"] = self.final_answer
        content["stop_reason"] = self.reason
        if self.dropped:
            content["dropped"] = [{"step": one.step, "messages": one.messages} for one in self.dropped]
        content["messages"] = [write_message(message) for message in self.messages]
        if self.tools:
            content["tools"] = [write_tool(tool) for tool in self.tools]
        return content


def _write_step(step: TraceStep) -> dict[str, Any]:
    content: dict[str, Any] = {
        "output": step.output,
        "calls": [{"name": call.name, "arguments": read_arguments(call)} for call in step.calls],
        "observations": list(step.observations),
    }
    if step.error is not None:
        content["error"] = step.error
    if step.repaired:
        content["repaired"] = list(step.repaired)
    return content | {"seconds": round(step.seconds, 4), "tokens": step.tokens}


def read_arguments(call: ToolCall) -> dict[str, Any] | str:
    """Return the arguments of a call as an object, or as the raw text where they are none."""
    try:
        return call.parse_arguments()
    except DataError:
        return call.arguments


# --- the conversation, so that nothing of it is lost ------------------------------------------------------------------


def write_message(message: Message) -> dict[str, Any]:
    """Return a message in OpenAI's form, whole.

    Arguments are the raw text that the model emitted, also where it is no JSON. `source_text` is the exact text of a
    message where its dialect would write it otherwise.
    """
    content: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        content["reasoning_content"] = message.reasoning
    if message.tool_calls:
        content["tool_calls"] = [_write_call(call) for call in message.tool_calls]
    given = {"tool_call_id": message.tool_call_id, "name": message.name, "source_text": message.source_text}
    content |= {key: value for key, value in given.items() if value is not None}
    if not message.train:
        content["train"] = False
    if message.weight != 1:
        content["weight"] = message.weight
    return content


def _write_call(call: ToolCall) -> dict[str, Any]:
    content: dict[str, Any] = {} if call.id is None else {"id": call.id}
    return content | {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def write_tool(tool: ToolSpec) -> dict[str, Any]:
    """Return a tool in OpenAI's form; the reference's flat `parameter_list`, where it has one, beside the function."""
    content = tool.describe()
    if tool.parameter_list is not None:
        content["parameter_list"] = [dict(item) for item in tool.parameter_list]
    return content
