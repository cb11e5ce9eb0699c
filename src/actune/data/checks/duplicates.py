"""Rows that stand twice, and prompts with several answers: found by digests, so that a data set need not be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from actune.core.types import Conversation, Message, Source
from actune.data.checks.findings import Finding
from actune.data.checks.tools import read_offer


class SeenRows:
    """The rows seen so far, in 16 bytes each for the row and for its prompt."""

    def __init__(self) -> None:
        """Begin with none."""
        self._rows: dict[bytes, Source] = {}
        self._prompts: dict[bytes, Source] = {}

    def add(self, conversation: Conversation) -> Iterator[Finding]:
        """Yield what a row shares with an earlier one: all of it, or its prompt."""
        digests = _digest(conversation)
        row, prompt = digests
        first = self._rows.setdefault(row, conversation.source)
        asked = self._prompts.setdefault(prompt, conversation.source)
        if first is not conversation.source:
            yield Finding(
                level="warning",
                code="duplicate-row",
                field="messages",
                message=f"the same row stands at {first}",
                fix="keep one of them, unless it is to count twice",
            )
        elif asked is not conversation.source:
            yield Finding(
                level="warning",
                code="answers-differ",
                field="messages",
                message=f"the row begins as the one at {asked} and goes on with another answer",
                fix="keep both if either is right; else keep one",
            )


def _digest(conversation: Conversation) -> tuple[bytes, bytes]:
    """Return the digests of a row and of what stands before its first answer; ids and places do not count."""
    total = hashlib.blake2b(read_offer(conversation.tools).digest, digest_size=16)
    prompt = b""
    for message in conversation.messages:
        if message.role == "assistant" and not prompt:
            prompt = total.digest()
        total.update(_content(message).encode("utf-8", "surrogatepass"))
    return total.digest(), prompt or total.digest()


def _content(message: Message) -> str:
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    parts = (message.role, message.content, message.reasoning, calls, message.name, message.train, message.weight)
    return json.dumps(parts)
