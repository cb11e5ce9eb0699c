"""What happened in one run of an agent, step by step: the one thing that evaluation and users read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from actune.core.errors import DataError
from actune.core.types import Message, ToolCall, ToolSpec

VERSION = 1
# answer: the model gave one; steps, tokens, seconds: a limit; unparsable: an output that is neither call nor answer;
# error: the conversation so far cannot be shown to the model.
EndReason = Literal["answer", "steps", "tokens", "seconds", "unparsable", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One output of the model and what came back. `error` says why the output or one of its calls was not usable."""

    output: str
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[str, ...] = ()
    error: str | None = None
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One run: the user's prompt, the steps, the final answer (None without one) and why it ended.

    `messages` and `tools` are the whole conversation as the model was shown it.
    """

    prompt: str
    steps: tuple[TraceStep, ...]
    final_answer: str | None
    reason: EndReason
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the Trace as `actune run --json` prints it; a key that does not apply is absent."""
        content: dict[str, Any] = {"version": VERSION}
        if self.id is not None:
            content["id"] = self.id
        content |= {"prompt": self.prompt, "steps": [_write_step(step) for step in self.steps]}
        if self.final_answer is not None:
            content["final_answer"] = self.final_answer
        content["stop_reason"] = self.reason
        return content


def _write_step(step: TraceStep) -> dict[str, Any]:
    content: dict[str, Any] = {
        "output": step.output,
        "calls": [{"name": call.name, "arguments": read_arguments(call)} for call in step.calls],
        "observations": list(step.observations),
    }
    if step.error is not None:
        content["error"] = step.error
    return content | {"seconds": round(step.seconds, 4), "tokens": step.tokens}


def read_arguments(call: ToolCall) -> dict[str, Any] | str:
    """Return the arguments of a call as an object, or as the raw text where they are none."""
    try:
        return call.parse_arguments()
    except DataError:
        return call.arguments
