"""A whole output as an answer: what the client is told, and the message that the next prompt is written with."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actune.agents.engines.engine import StopReason
from actune.agents.tools.repair import repair_arguments
from actune.core.conversion import json_arguments
from actune.core.errors import DataError
from actune.core.json_text import write_json
from actune.core.types import Message, ToolCall, ToolSpec
from actune.render.dialects import ChatDialect, Dialect
from actune.serving.requests import Choice
from actune.serving.splitter import Splitter

_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a client should know of an answer besides itself: a stable code and a text."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: `message` as the client gets it, `exact` as the model wrote it, `faults` what is odd about it.

    Every call of both has an id. `reason` is OpenAI's finish_reason.
    """

    message: Message
    exact: Message
    reason: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads outputs of one request: its dialect, the tools shown, what was wanted of calls, and how calls get ids."""

    dialect: Dialect
    tools: tuple[ToolSpec, ...]
    choice: Choice
    new_id: Callable[[], str]

    def read(self, text: str, reason: StopReason, splitter: Splitter) -> Reply:
        """Return the answer that an output is.

        `splitter` has taken in the whole text; what it gave out is a beginning of what the answer holds. An output that
        is neither a call nor an answer is given as it stands, less the reasoning that it begins with.
        """
        cut = reason in ("length", "time")
        faults: list[Fault] = []
        if reason == "time":
            faults.append(Fault(code="time", message="the time for this request was over"))
        try:
            exact = self._parse(text, splitter, cut=cut)
        except DataError as error:
            faults.append(Fault(code=error.code.replace("-", "_"), message=error.message))
            exact = self._keep_text(text, splitter)
        exact = self._limit(exact, faults)
        calls = []
        for call in exact.tool_calls:
            calls.append(self._show(call, faults))
        message = replace(exact, tool_calls=tuple(calls), source_text=None)
        finish = "length" if cut else "tool_calls" if calls else "stop"
        return Reply(message=message, exact=exact, reason=finish, faults=tuple(faults))

    def _parse(self, text: str, splitter: Splitter, *, cut: bool) -> Message:
        """Return the message that the dialect reads.

        Raises:
            DataError: it reads none, one that what was given out already contradicts, or a call that is not allowed.
        """
        message = parse_output(self.dialect, text, self.tools)
        if not (message.reasoning.startswith(splitter.reasoning) and message.content.startswith(splitter.content)):
            raise DataError("reasoning is begun and not ended", code="reasoning_open")
        if message.tool_calls and self.choice.mode == "none":
            raise DataError('the model calls a tool where tool_choice is "none"', code="call_not_wanted")
        if cut and message.tool_calls:
            for call in message.tool_calls:
                try:
                    call.parse_arguments()
                except DataError:
                    raise DataError("a call was cut off", code="call_cut") from None
        named = tuple(call if call.id is not None else replace(call, id=self.new_id()) for call in message.tool_calls)
        return replace(message, tool_calls=named)

    def _keep_text(self, text: str, splitter: Splitter) -> Message:
        reasoning, content = splitter.read_plain()
        source = None if isinstance(self.dialect, ChatDialect) else text
        return Message(role="assistant", content=content, reasoning=reasoning, source_text=source)

    def _limit(self, message: Message, faults: list[Fault]) -> Message:
        """Return a message with the one call that is wanted, where only one is."""
        if not self.choice.single or len(message.tool_calls) <= 1:
            return message
        left = len(message.tool_calls) - 1
        faults.append(Fault(code="calls_left_out", message=f"{left} further calls were written; one was asked for"))
        return replace(message, tool_calls=message.tool_calls[:1])

    def _show(self, call: ToolCall, faults: list[Fault]) -> ToolCall:
        """Return a call with JSON arguments where its text can be read as such, or mended."""
        try:
            return replace(call, arguments=json_arguments(call, "arguments"))
        except DataError as error:
            mended = repair_arguments(call.arguments)
            if mended is None:
                faults.append(Fault(code="arguments_unreadable", message=error.message))
                return call
            faults.append(
                Fault(code="arguments_repaired", message=f"the arguments of {call.name!r} were no JSON object")
            )
            return replace(call, arguments=write_json(mended))


def parse_output(dialect: Dialect, text: str, tools: Sequence[ToolSpec]) -> Message:
    """Return the message that an output is; where no tools are, nothing is a call.

    Raises:
        DataError: it is neither a call nor an answer.
    """
    if isinstance(dialect, ChatDialect) and not tools:
        return dialect.format.parse_plain(text)
    return dialect.parse(text, tools)


def random_id() -> str:
    """Return an id for a call: nine letters and digits, which suits every template and stays unique among clients."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))
