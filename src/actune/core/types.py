"""The conversation types that every layer shares: frozen, slotted, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actune.core.errors import DataError
from actune.core.values import read_value

Role = Literal["system", "user", "assistant", "tool"]
# The text that a row was written in: ReAct with English or Chinese instructions, or messages.
Style = Literal["react", "react_zh", "chat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a row comes from; every error names it.

    `file` is the path or hub id as the user gave it, `line` counts from 1 (of a JSON array: the line where the element
    starts; of a table: the row number).
    """

    file: str
    line: int
    dataset: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool: one shape whatever the source.

    `parameters` is a JSON Schema of type object. `parameter_list` keeps the reference's flat list
    (`[{"name", "description", "required"}]`) where the source has one, so that it can be written back as it was.
    `source` is the function object of the row where it is not the normal one (other keys, another order): clients send
    it as it is, so templates see it as it is.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any]
    parameter_list: tuple[Mapping[str, Any], ...] | None = None
    source: Mapping[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the tool as chat templates and servers take it: the OpenAI function form."""
        if self.source is not None:
            return {"type": "function", "function": dict(self.source)}
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call as the model emits it: `arguments` is the raw text, byte for byte."""

    name: str
    arguments: str
    id: str | None = None

    def parse_arguments(self) -> dict[str, Any]:
        """Return the arguments as a dict: JSON, else a Python literal (never `eval`).

        Raises:
            DataError: code `arguments-unreadable` when the text is neither, or is no object; `arguments-encoded-twice`
                when it is the JSON text of such a text.
        """
        value = read_value(self.arguments)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            twice = isinstance(value, str) and isinstance(read_value(value), dict)
            raise DataError(
                f"the arguments of {self.name!r} are {'the JSON text of a text' if twice else 'no JSON object'}: "
                f"{_shorten(self.arguments)}",
                code="arguments-encoded-twice" if twice else "arguments-unreadable",
                fix='write the arguments as one JSON object, for example {"city": "Hangzhou"}',
            )
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, for all dialects.

    `reasoning` is the thought before the content or call. `source_text` is the exact text in the source, kept only
    where it is not what the dialect would write itself. `train` and `weight` (>= 0) scale the loss on an assistant
    message.
    """

    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool = True
    weight: float = 1.0
    source_text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One row: tools, messages, and where it comes from.

    `messages[0]` may be the system message; it holds the user's own system text, never the tool list. `style` says
    whether the source was ReAct text. `system_source` is the whole system text of a ReAct source whose API block is
    not in the normal layout. `repairs` says what the reader had to mend to read the row; checks report it.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    style: Style = "chat"
    source: Source
    id: str | None = None
    system_source: str | None = None
    repairs: tuple[str, ...] = ()


def _shorten(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
