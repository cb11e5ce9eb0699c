"""What models wrote, where it says more than clients send back: kept so that a history is written as it was.

A client gets reasoning, content and JSON arguments. A model may have laid its text out otherwise, or have written its
arguments as a Python literal; and many clients do not send reasoning back. When a client sends an answer back after the
same messages, with its reasoning or without, the model's own message takes its place, so the next prompt is the one that
training shows. What was forgotten, or changed by the client, is written from what the client sends.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from actune.core.types import Message, ToolSpec


class Memory:
    """The latest answers that cannot be written from what clients may send back; bounded by number and characters."""

    def __init__(self, *, answers: int = 8192, characters: int = 16_000_000) -> None:
        """Keep at most so many answers, of so many characters in all; one with reasoning counts twice."""
        self._answers = answers
        self._room = characters
        self._kept: OrderedDict[bytes, tuple[Message, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of answers kept."""
        return len(self._kept)

    def remember(self, before: bytes, shown: Message, exact: Message) -> None:
        """Keep `exact` for when a client sends `shown` back after the messages that `before` stands for."""
        if exact == shown and not exact.reasoning:
            return
        for message in {shown.reasoning: shown, "": replace(shown, reasoning="")}.values():
            self._keep(_key(before, message), exact)

    def _keep(self, key: bytes, exact: Message) -> None:
        size = sum(map(len, (exact.content, exact.reasoning, exact.source_text or "")))
        size += sum(len(call.arguments) for call in exact.tool_calls)
        self._forget(key)
        self._kept[key] = (exact, size)
        self._room -= size
        while self._kept and (len(self._kept) > self._answers or self._room < 0):
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._room += found[1]

    def restore(
        self, model: str, tools: Sequence[ToolSpec], messages: Sequence[Message]
    ) -> tuple[tuple[Message, ...], bytes]:
        """Return messages with the model's own answers in place, and what stands for all of them as they came."""
        listed = json.dumps([tool.describe() for tool in tools], default=str)
        state = hashlib.sha256(f"{len(model)}:{model}{listed}".encode(errors="surrogatepass")).digest()
        restored = []
        for message in messages:
            key = _key(state, message)
            found = self._kept.get(key) if message.role == "assistant" else None
            if found is not None:
                self._kept.move_to_end(key)
            restored.append(message if found is None else found[0])
            state = _key(state, replace(message, reasoning=""))  # a client may send it for the latest answers only
        return tuple(restored), state


def _key(state: bytes, message: Message) -> bytes:
    """Return what stands for messages when another follows."""
    calls = [[call.name, call.arguments, call.id] for call in message.tool_calls]
    parts = [message.role, message.content, message.reasoning, calls, message.tool_call_id, message.name]
    return hashlib.sha256(state + json.dumps(parts).encode()).digest()
