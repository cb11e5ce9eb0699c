"""Forms in which chat templates write tool calls, and reading a call in such a form; nothing here knows a template.

Three forms cover what templates do: a JSON value that holds name and arguments (`Envelope`), a name beside JSON
arguments (`Named`), and a name with keys and values between markers (`Pairs`). Where arguments are JSON, their end is
found by the JSON decoder, so text inside a string never ends them. Where values are written without escapes between
markers, a value that holds the markers themselves cannot be told from the end of the value: that is the format's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

from actune.core.errors import DataError
from actune.core.types import ToolCall, ToolSpec

# Longer names are no names; bounds every look for the end of one.
NAME_LIMIT = 256
_DECODER = json.JSONDecoder()
_FAULTS = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the end of a call: `more` up to the next call (None: calls stand alone), `end` of all calls."""

    more: str | None
    end: str


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call as it was read, where its name and its arguments stand in the text (start, end), and where it is closed."""

    call: ToolCall
    name: tuple[int, int]
    arguments: tuple[int, int]
    end: int


class Form(Protocol):
    """One way to write calls."""

    def begin(self, tools: Sequence[ToolSpec]) -> str | None:
        """Return a pattern of how a call begins, None when only a marker before it tells."""
        ...

    def read(self, text: str, start: int, tools: Sequence[ToolSpec]) -> tuple[list[ReadCall], int]:
        """Return the calls that start there, and where their block ends."""
        ...


def unreadable(text: str, why: str, at: int = 0) -> DataError:
    """Return the error for an output that begins a call and is none; the message shows the text around `at`."""
    start, end = max(0, at - 60), at + 140
    shown = ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
    return DataError(
        f"the output begins a call that cannot be read: {why}: {shown!r}",
        code="call-unreadable",
        fix="train on this call format, or raise max_tokens if the output was cut off",
    )


@lru_cache(maxsize=1024)
def compile_literal(literal: str) -> re.Pattern[str]:
    """Return the pattern of a literal: blanks inside may differ, blanks at its edges may be shorter.

    Edges are as many blanks as the literal has, at most: further ones belong to the text beside it.
    """
    core = literal.strip()
    if not core:
        return re.compile("|".join(re.escape(literal[:size]) for size in range(len(literal), -1, -1)))
    lead = literal[: len(literal) - len(literal.lstrip())]
    trail = literal[len(literal.rstrip()) :]
    before = "|".join(re.escape(lead[at:]) for at in range(len(lead) + 1))
    after = "|".join(re.escape(trail[:size]) for size in range(len(trail), -1, -1))
    return re.compile(f"(?:{before})" + r"\s*".join(map(re.escape, core.split())) + f"(?:{after})")


def join_names(tools: Sequence[ToolSpec]) -> str:
    """Return the alternatives of a pattern for the names of tools, longer ones first."""
    return "|".join(sorted((re.escape(tool.name) for tool in tools if tool.name), key=len, reverse=True))


def skip_blanks(text: str, at: int) -> int:
    """Return the first place at or after `at` that is no blank."""
    found = _NOT_BLANK.search(text, at)
    return len(text) if found is None else found.start()


_NOT_BLANK = re.compile(r"\S")


def decode_json(text: str, at: int) -> tuple[Any, int] | None:
    """Return the JSON value that begins at `at` and its end, None when there is none."""
    try:
        return _DECODER.raw_decode(text, at)
    except _FAULTS:
        return None


def match_tail(text: str, at: int, tail: Tail, *, starts: str = "") -> tuple[bool, int]:
    """Return whether another call follows and where it or the rest begins; the longer literal is tried first.

    `starts` are the characters a call can begin with, needed where nothing stands between calls.

    Raises:
        DataError: neither follows.
    """
    options = [(tail.end, False)] if tail.more is None else [(tail.more, True), (tail.end, False)]
    place = skip_blanks(text, at)
    for literal, more in sorted(options, key=lambda option: -len(option[0].strip())):
        if not literal.strip():
            if more and not (place < len(text) and text[place] in starts):
                continue
            return more, place if more else at
        found = compile_literal(literal).match(text, at) or compile_literal(literal).match(text, place)
        if found is not None:
            return more, found.end()
    raise unreadable(text, "its end is missing", at)


def find_close(text: str, at: int, after: int, tail: Tail, *, more: bool) -> int:
    """Return where a call is closed that ends at `at`, when what follows was matched up to `after`.

    Of what leads to another call, that closes this one which would close the last one too.
    """
    if not more:
        return after
    same = 0
    while same < min(len(tail.end), after - at) and tail.end[same] == text[at + same]:
        same += 1
    shared = _CUT_MARKER.sub("", text[at : at + same])  # two markers may begin with the same letters
    return at + len(shared)


_CUT_MARKER = re.compile(r"[<\[][^<>\[\]\s]*$")


# --- a JSON value that holds name and arguments ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A JSON object, or a list of such, with name, arguments and perhaps id under fixed keys.

    An empty `name` path: the name is the only key, the arguments its value.
    """

    listed: bool
    name: tuple[str, ...]
    arguments: tuple[str, ...]
    id: tuple[str, ...] | None
    first_key: str | None
    tail: Tail

    def begin(self, tools: Sequence[ToolSpec]) -> str | None:
        """Return how the JSON begins, up to its first key."""
        key = '"' if self.first_key is None else re.escape(json.dumps(self.first_key, ensure_ascii=False)) + r"\s*:"
        return (r"\[\s*" if self.listed else "") + r"\{\s*" + key

    def read(self, text: str, start: int, tools: Sequence[ToolSpec]) -> tuple[list[ReadCall], int]:
        """Return the calls of one JSON value, or of several in a row."""
        calls: list[ReadCall] = []
        at, more = start, True
        while more:
            at = skip_blanks(text, at)
            decoded = decode_json(text, at)
            if decoded is None:
                raise unreadable(text, "it is no complete JSON", start)
            value, end = decoded
            if self.listed and isinstance(value, list) and value:
                calls += [self._read_one(text, *item) for item in _items(text, at)]
            elif not self.listed and isinstance(value, dict):
                calls.append(self._read_one(text, at, end))
            else:
                raise unreadable(text, "it is no JSON list of calls" if self.listed else "it is no JSON object", start)
            more, at = match_tail(text, end, self.tail, starts="{")
            calls[-1] = replace(calls[-1], end=find_close(text, end, at, self.tail, more=more))
        return calls, at

    def _read_one(self, text: str, at: int, end_of_object: int) -> ReadCall:
        if not self.name:
            members = _members(text, at)
            if members is None or len(members) != 1:
                raise unreadable(text, "it is no object with the name as its only key", at)
            (name, (begin, end)), *_ = members.items()
            key = skip_blanks(text, at + 1)
            name_span = (key + 1, _DECODER.raw_decode(text, key)[1] - 1)
        else:
            quoted, arguments = _follow(text, at, self.name), _follow(text, at, self.arguments)
            if quoted is None or arguments is None:
                lacking = self.name if quoted is None else self.arguments
                raise unreadable(text, f"{'.'.join(lacking)!r} is missing or there twice", at)
            name, (begin, end) = json.loads(text[slice(*quoted)]), arguments
            name_span = (quoted[0] + 1, quoted[1] - 1)
        if not isinstance(name, str) or not name:
            raise unreadable(text, "the name is no text", at)
        if not isinstance(json.loads(text[begin:end]), dict):
            raise unreadable(text, "the arguments are no JSON object", at)
        number = None
        if self.id is not None and (span := _follow(text, at, self.id)) is not None:
            number = json.loads(text[slice(*span)])
        call = ToolCall(name=name, arguments=text[begin:end], id=number if isinstance(number, str) else None)
        return ReadCall(call, name_span, (begin, end), end_of_object)


def _items(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each item of a valid JSON list."""
    at = skip_blanks(text, at + 1)
    while text[at] != "]":
        end = _DECODER.raw_decode(text, at)[1]
        yield at, end
        at = skip_blanks(text, end)
        if text[at] == ",":
            at = skip_blanks(text, at + 1)


def _members(text: str, at: int) -> dict[str, tuple[int, int]] | None:
    """Return (start, end) of each value of a valid JSON object; None when it is none or a key is there twice."""
    if text[at : at + 1] != "{":
        return None
    found: dict[str, tuple[int, int]] = {}
    at = skip_blanks(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = skip_blanks(text, skip_blanks(text, at) + 1)
        end = _DECODER.raw_decode(text, at)[1]
        if key in found:
            return None
        found[key] = (at, end)
        at = skip_blanks(text, end)
        if text[at] == ",":
            at = skip_blanks(text, at + 1)
    return found


def _follow(text: str, at: int, path: Sequence[str]) -> tuple[int, int] | None:
    """Return (start, end) of the value under a path of keys, None when it is not there."""
    span = (at, at)
    for key in path:
        members = _members(text, span[0])
        if members is None or key not in members:
            return None
        span = members[key]
    return span


# --- a name beside JSON arguments ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Name, JSON arguments and perhaps an id in fixed order; `between` are the literals from one to the next."""

    slots: tuple[Literal["name", "arguments", "id"], ...]
    between: tuple[str, ...]
    tail: Tail

    def begin(self, tools: Sequence[ToolSpec]) -> str | None:
        """Return the name of a tool and what follows it; None where the name does not come first."""
        if not tools or self.slots[0] != "name":
            return None
        after = compile_literal(self.between[0]).pattern
        return f"(?:{join_names(tools)})(?:{after})" + (r"\s*\{" if self.slots[1] == "arguments" else "")

    def read(self, text: str, start: int, tools: Sequence[ToolSpec]) -> tuple[list[ReadCall], int]:
        """Return the calls one after the other."""
        calls: list[ReadCall] = []
        at, more = start, True
        while more:
            found: dict[str, tuple[int, int]] = {}
            begin = at
            for number, slot in enumerate(self.slots):
                following = self.slots[number + 1] if number + 1 < len(self.slots) else None
                if slot == "arguments":
                    at = skip_blanks(text, at)
                    decoded = decode_json(text, at)
                    if decoded is None or not isinstance(decoded[0], dict):
                        raise unreadable(text, "the arguments are no complete JSON object", begin)
                    found[slot], at = (at, decoded[1]), decoded[1]
                    if following is not None:
                        at = self._match_between(text, begin, at, number)
                else:
                    found[slot], at = self._read_word(text, begin, at, number, following)
            said = {slot: text[slice(*span)] for slot, span in found.items()}
            call = ToolCall(name=said["name"], arguments=said["arguments"], id=said.get("id"))
            end = at
            more, at = match_tail(text, end, self.tail, starts="{")
            closed = find_close(text, end, at, self.tail, more=more)
            calls.append(ReadCall(call, found["name"], found["arguments"], closed))
        return calls, at

    def _match_between(self, text: str, begin: int, at: int, number: int) -> int:
        literal = compile_literal(self.between[number])
        match = literal.match(text, at) or literal.match(text, skip_blanks(text, at))
        if match is None:
            raise unreadable(text, "something else follows the arguments", begin)
        return match.end()

    def _read_word(
        self, text: str, begin: int, at: int, number: int, following: str | None
    ) -> tuple[tuple[int, int], int]:
        """Return where a name or id stands, up to the next literal, and where the next slot begins."""
        window = text[at : at + 2 * NAME_LIMIT]
        if following is None:
            ends = [m.start() for one in (self.tail.more, self.tail.end) if one and (m := _find(window, one))]
            size, skip = (min(ends), min(ends)) if ends else (len(window), len(window))
        elif following == "arguments" and not self.between[number].strip():
            size = skip = window.find("{")
        else:
            match = _find(window, self.between[number])
            size, skip = (match.start(), match.end()) if match is not None else (-1, -1)
        word = window[: max(size, 0)].strip()
        if size < 0 or not word or len(word) > NAME_LIMIT or "\n" in word:
            raise unreadable(text, "a name and what follows it are missing", begin)
        start = at + window.index(word)
        return (start, start + len(word)), at + skip


def _find(text: str, literal: str) -> re.Match[str] | None:
    return compile_literal(literal).search(text) if literal.strip() else None
