"""Answers in OpenAI's shape: one object, or the chunks of a stream. Pure functions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actune import __version__
from actune.core.json_text import write_json
from actune.core.types import ToolCall
from actune.serving.reading import Fault, Reply
from actune.serving.splitter import Piece

# Characters of arguments in one chunk of a stream.
_ARGUMENTS = 64
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True, kw_only=True)
class Usage:
    """Tokens of a request: of its prompt, of all its outputs (stop tokens included), and of the prompt from the cache."""

    prompt: int
    completion: int = 0
    cached: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return OpenAI's object."""
        found: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }
        if self.cached is not None:
            found["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all chunks of one answer share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def wrap(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the object around choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"actune-{__version__}",
            "choices": list(choices),
        }

    def whole(self, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        """Return the answer of a request that does not stream."""
        choices = [_write_choice(index, reply) for index, reply in enumerate(replies)]
        return self.wrap("chat.completion", choices) | {"usage": usage.to_json()}

    def chunk(self, index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return one chunk of a stream."""
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return self.wrap("chat.completion.chunk", [choice])


def _write_choice(index: int, reply: Reply) -> dict[str, Any]:
    message = reply.message
    written: dict[str, Any] = {
        "role": "assistant",
        "content": message.content if message.content or not message.tool_calls else None,
        "refusal": None,
    }
    if message.reasoning:
        written["reasoning_content"] = message.reasoning
    if message.tool_calls:
        written["tool_calls"] = [_write_call(call) for call in message.tool_calls]
    choice: dict[str, Any] = {"index": index, "message": written, "logprobs": None, "finish_reason": reply.reason}
    if reply.faults:
        choice["actune"] = write_faults(reply.faults)
    return choice


def _write_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def write_faults(faults: Sequence[Fault]) -> dict[str, Any]:
    """Return what a client is told beside an answer."""
    return {"faults": [{"code": fault.code, "message": fault.message} for fault in faults]}


def begin_deltas(envelope: Envelope, index: int) -> dict[str, Any]:
    """Return the first chunk of a choice: its role."""
    return envelope.chunk(index, {"role": "assistant", "content": "", "refusal": None})


def piece_delta(envelope: Envelope, index: int, piece: Piece) -> dict[str, Any]:
    """Return the chunk of a piece of reasoning or content."""
    kind, text = piece
    return envelope.chunk(index, {"reasoning_content" if kind == "reasoning" else "content": text})


def end_deltas(
    envelope: Envelope, index: int, reply: Reply, *, reasoning: int, content: int
) -> Iterator[dict[str, Any]]:
    """Yield the last chunks of a choice of which so many characters were sent: the rest, calls, why it ended."""
    message = reply.message
    if message.reasoning[reasoning:]:
        yield piece_delta(envelope, index, ("reasoning", message.reasoning[reasoning:]))
    if message.content[content:]:
        yield piece_delta(envelope, index, ("content", message.content[content:]))
    for place, call in enumerate(message.tool_calls):
        begin = {"index": place, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield envelope.chunk(index, {"tool_calls": [begin]})
        for start in range(0, len(call.arguments), _ARGUMENTS):
            part = {"index": place, "function": {"arguments": call.arguments[start : start + _ARGUMENTS]}}
            yield envelope.chunk(index, {"tool_calls": [part]})
    last = envelope.chunk(index, {}, reply.reason)
    if reply.faults:
        last["choices"][0]["actune"] = write_faults(reply.faults)
    yield last


def write_event(value: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + write_json(value).encode() + b"\n\n"
