"""A model's own way to write reasoning and calls, learnt from its chat template by rendering probes.

`native_probe` renders the probes and finds the literals around reasoning, text and calls, `native_calls` holds the
forms of calls; here an output is taken apart with them. What was learnt is tried on other conversations before it is
trusted: `NativeFormat.reason` says what does not come back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actune.core.errors import DataError
from actune.core.types import Message, ToolSpec
from actune.render import matching, native_probe
from actune.render.chat import ChatRenderer
from actune.render.native_calls import Form, ReadCall, compile_literal, skip_blanks, unreadable
from actune.render.native_probe import Frame, Probe
from actune.render.readback import find_difference

# Places in one text that may begin a call where the format has no marker; more are an output gone wrong.
_BEGINNINGS = 64
# Characters from which on a marker without letters is believed, and within which a broken call names its tool.
_STRONG, _NAMED_WITHIN = 4, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An output as it was read: the message, where its reasoning and text stand (start, end), and its calls in order."""

    message: Message
    reasoning: tuple[int, int]
    text: tuple[int, int]
    calls: tuple[ReadCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeFormat:
    """How a template writes reasoning, text and calls. `reason` says why calls cannot be read back, None if they can.

    `frames` are the layouts of an answer, those tried first in front; `form` is the form of its calls.
    """

    reason: str | None = None
    frames: tuple[Frame, ...] = ()
    form: Form | None = None

    def parse(self, text: str, tools: Sequence[ToolSpec]) -> Message:
        """Return an output of the model as an assistant message, see `read`."""
        return self.read(text, tools).message

    def parse_plain(self, text: str) -> Message:
        """Return an output of a conversation without tools, see `read_plain`."""
        return self.read_plain(text).message

    def read(self, text: str, tools: Sequence[ToolSpec]) -> Reading:
        """Return an output of the model as an assistant message, with the places of its pieces.

        The arguments are the text of the output where it is JSON, else JSON of what was read, typed by `tools`. What
        is no reasoning and no call is content; where the prompt opened the reasoning and the output does not close it,
        all of it is reasoning.

        Raises:
            DataError: code `call-unreadable` when a call begins and breaks off or is malformed, or when the format of
                calls is unknown and the output looks like one.
        """
        if self.form is None and _looks_like_call(text, tools):
            raise unreadable(text, f"the format is unknown, {self.reason}")
        for frame in self.frames:
            found = self._match(frame, text, tools)
            if found is not None:
                return found
        return self._read_open(text)

    def read_plain(self, text: str) -> Reading:
        """Return an output of a conversation without tools: reasoning and text, whatever else the text looks like."""
        frames = tuple(frame for frame in self.frames if "calls" not in frame.slots)
        return NativeFormat(reason=self.reason, frames=frames).read(text, ())

    def _read_open(self, text: str) -> Reading:
        """Return an output that no layout matches: reasoning that was not closed, or just text."""
        for frame in self.frames:
            if frame.slots[0] != "reasoning":
                continue
            start = compile_literal(frame.literals[0]).match(text)
            if start is not None:
                if self._begins_call(text):
                    raise unreadable(text, "it stands in reasoning that is not closed")
                return _join(text, {"reasoning": (start.end(), len(text))})
        if self._begins_call(text):
            raise unreadable(text, "it is not at the place of a call")
        return _join(text, {"text": (0, len(text))})

    def _begins_call(self, text: str) -> bool:
        markers = {frame.marker for frame in self.frames if "calls" in frame.slots}
        return any(not _is_weak(marker) and compile_literal(marker).search(text) is not None for marker in markers)

    def _match(self, frame: Frame, text: str, tools: Sequence[ToolSpec]) -> Reading | None:
        """Return the message if the text has this layout."""
        start = compile_literal(frame.literals[0]).match(text)
        if start is None:
            return None
        at, calls = start.end(), tuple[ReadCall, ...]()
        parts: dict[str, tuple[int, int]] = {}
        if frame.slots[0] == "calls" and _is_weak(frame.literals[0]) and not self._opens(text, at, tools):
            return None
        for number, slot in enumerate(frame.slots):
            following = frame.slots[number + 1] if number + 1 < len(frame.slots) else None
            literal = frame.literals[number + 1]
            if slot == "calls":
                read = self._read_calls(text, at, frame, tools)
                if read is None:
                    return None
                calls, at = read
                if following is None and text[at:].strip():
                    raise unreadable(text, "text follows the call")
            elif following is None:
                parts[slot] = (at, at + len(_cut_end(text[at:], literal)))
            elif following == "calls" and _is_weak(literal):
                return self._search(frame, text, at, literal, parts, tools)
            else:
                end = compile_literal(literal).search(text, at)
                if end is None:
                    return None
                parts[slot], at = (at, end.start()), end.end()
        if not calls and self._begins_call(text[slice(*parts.get("text", (0, 0)))]):
            raise unreadable(text, "it is not at the place of a call")
        return _join(text, parts, calls)

    def _opens(self, text: str, at: int, tools: Sequence[ToolSpec]) -> bool:
        """Whether a call without a marker can begin there."""
        pattern = None if self.form is None else self.form.begin(tools)
        return pattern is not None and re.compile(pattern).match(text, skip_blanks(text, at)) is not None

    def _read_calls(
        self, text: str, at: int, frame: Frame, tools: Sequence[ToolSpec]
    ) -> tuple[tuple[ReadCall, ...], int] | None:
        """Return the calls at a place and their end; None where there is no marker and it is other JSON."""
        if self.form is None:
            return None
        try:
            calls, end = self.form.read(text, at, tools)
        except DataError:
            if not _is_weak(frame.marker) or _names_tool(text[at:], tools) or not _is_json(text[at:]):
                raise
            return None
        return tuple(calls), end

    def _search(
        self,
        frame: Frame,
        text: str,
        at: int,
        literal: str,
        parts: dict[str, tuple[int, int]],
        tools: Sequence[ToolSpec],
    ) -> Reading | None:
        """Look for calls behind a text where no marker stands between; they are what the output ends in."""
        pattern = None if self.form is None else self.form.begin(tools)
        if pattern is None:
            return None
        fault: DataError | None = None
        places = re.compile(f"(?:{compile_literal(literal).pattern})(?P<call>{pattern})")
        for count, begin in enumerate(places.finditer(text, at)):
            if count >= _BEGINNINGS:
                raise unreadable(text, f"there are more than {_BEGINNINGS} beginnings")
            try:
                calls, end = self.form.read(text, begin.start("call"), tools) if self.form is not None else ([], 0)
            except DataError as error:
                fault = fault or (error if _names_tool(text[begin.start() :], tools) else None)
                continue
            if not text[end:].strip():
                return _join(text, {**parts, frame.slots[-2]: (at, begin.start())}, calls)
        if fault is not None:
            raise fault
        return None


def _join(text: str, parts: dict[str, tuple[int, int]], calls: Sequence[ReadCall] = ()) -> Reading:
    """Return the reading of a text by the places of its reasoning and text, and its calls."""
    reasoning, content = parts.get("reasoning", (0, 0)), parts.get("text", (0, 0))
    message = Message(
        role="assistant",
        content=text[slice(*content)],
        reasoning=text[slice(*reasoning)],
        tool_calls=tuple(read.call for read in calls),
    )
    return Reading(message=message, reasoning=reasoning, text=content, calls=tuple(calls))


def learn_format(renderer: ChatRenderer) -> NativeFormat:
    """Return the format that probes of the template show, tried on other conversations than it was learnt from."""
    learnt = native_probe.learn(renderer)
    known = NativeFormat(reason=learnt.reason, frames=learnt.frames, form=learnt.form)
    if known.reason is None:
        fault = _try(known, renderer)
        if fault is not None:
            plain = tuple(frame for frame in known.frames if "calls" not in frame.slots)
            known = replace(known, reason=fault, frames=plain, form=None)
    return known


def _try(known: NativeFormat, renderer: ChatRenderer) -> str | None:
    """Return what does not come back of the probes that the template shows in full; None if all do."""
    calls = 0
    for probe in native_probe.trials(renderer):
        try:
            read = known.parse(probe.text, probe.tools)
        except DataError as error:
            return f"a call of the chat template cannot be read back: {error.message}"
        fault = _compare(probe, read)
        if fault is not None:
            return f"an answer of the chat template is read back changed: {fault}"
        calls += len(read.tool_calls)
    return None if calls else "the chat template writes none of the calls that it was tried with"


def _compare(probe: Probe, read: Message) -> str | None:
    """Return what differs between a message and what was read of its text, None if nothing does."""
    if probe.ids and [call.id for call in read.tool_calls] != [call.id for call in probe.message.tool_calls]:
        return "ids of calls are read differently"
    found = find_difference(read, probe.message, probe.tools)
    if found is None or (probe.same_as is not None and find_difference(read, probe.same_as, probe.tools) is None):
        return None
    return f"{found[0]} of {probe.text!r}: {found[1]}"


def _cut_end(text: str, literal: str) -> str:
    """Return a text without the literal that ends it, or without the blanks of it that are there."""
    core = literal.strip()
    if core:
        place = text.rstrip().rfind(core)
        if place < 0 or text[place + len(core) :].strip():
            return text
        text = text[:place]
        literal = literal[: literal.index(core)]
    for size in range(len(literal), 0, -1):
        if text.endswith(literal[-size:]):
            return text[:-size]
    return text


def _names_tool(text: str, tools: Sequence[ToolSpec]) -> bool:
    """Whether the beginning of a text names a tool."""
    return any(tool.name in text[:_NAMED_WITHIN] for tool in tools)


def _is_weak(marker: str) -> bool:
    """Whether a marker is one that ordinary text holds as well, such as a bracket: alone it tells no call."""
    core = marker.strip()
    return len(core) < _STRONG and not any(map(str.isalnum, core))


def _looks_like_call(text: str, tools: Sequence[ToolSpec]) -> bool:
    """Whether a text in an unknown format may hold a call: it names a tool, in whatever way."""
    return any(matching.find_word(text, tool.name) is not None for tool in tools if tool.name)


def _is_json(text: str) -> bool:
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return True
