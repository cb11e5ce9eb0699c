"""Calls written as a name with keys and values between markers: tags per parameter, or arguments as in Python.

Values without escapes end at the first place where what follows reads on as a call: another key, another call, or the
end. A text that holds such a place itself cannot be told from it; that is the format's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from actune.core.schema import find_properties, find_types
from actune.core.types import ToolCall, ToolSpec
from actune.core.values import read_value
from actune.render.native_calls import (
    NAME_LIMIT,
    ReadCall,
    Tail,
    compile_literal,
    find_close,
    join_names,
    unreadable,
)

Next = Literal["key", "call", "end"]
# Ends of one value that are tried until what stands before is readable.
_ENDS = 32
_PLAIN = re.compile(r"[^\s\"'<>(){}\[\]=,:]{1,256}")
_UNREAD = object()
_NEXT: dict[str, Next] = {"key": "key", "call": "call", "end": "end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """How values of one kind are written: `opens` between key and value, `key` up to the next key, `tail` after them.

    `key` is None where no probe showed two arguments.
    """

    opens: str
    key: str | None
    tail: Tail

    def options(self) -> list[tuple[str, Next]]:
        """Return what may follow a value, the longest literal first."""
        options: list[tuple[str | None, Next]] = [(self.key, "key"), (self.tail.more, "call"), (self.tail.end, "end")]
        found: list[tuple[str, Next]] = [(literal, kind) for literal, kind in options if literal is not None]
        return sorted(found, key=lambda option: -len(option[0].strip()))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A name, then keys and values; a call without arguments has `empty` behind the name instead of `lead` and a key.

    `text` are strings as they are (None: they are JSON or Python literals as other values), `other` the rest. Where
    both open alike, the schema of the tool tells them apart. `quote` surrounds strings inside lists and objects where
    these are no JSON. `final`: nothing follows the calls.
    """

    lead: str
    text: Value | None
    other: Value
    empty: Tail | None
    quote: str | None = None
    final: bool = True

    def begin(self, tools: Sequence[ToolSpec]) -> str | None:
        """Return the name of a tool and what may follow it."""
        after = re.sub(r"\?P<\w+>", "?:", self.after_name.pattern)
        return f"(?:{join_names(tools)})(?:{after})" if tools else None

    def read(self, text: str, start: int, tools: Sequence[ToolSpec]) -> tuple[list[ReadCall], int]:
        """Return the calls one after the other; the arguments stand from the first key to the last value."""
        reader = _Reader(self, text, tools)
        calls: list[ReadCall] = []
        at, following = start, "call"
        while following == "call":
            begin = at
            named = reader.find_name(at)
            if named is None:
                raise unreadable(text, "a name and what follows it are missing", begin)
            name, following, at = named
            place = text.index(name, begin)
            first, last = (at, at) if following == "key" else (place + len(name),) * 2
            tail = self.empty
            arguments: dict[str, Any] = {}
            while following == "key":
                opened = reader.find_key(at, name)
                if opened is None:
                    raise unreadable(text, "a key and what follows it are missing", at)
                key, kind, at = opened
                if key in arguments:
                    raise unreadable(text, f"the key {key!r} is there twice", begin)
                arguments[key], last, following, at = reader.read_value(at, name, key, kind)
                tail = self.other.tail if kind == "other" or self.text is None else self.text.tail
            call = ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))
            closed = last if tail is None else find_close(text, last, at, tail, more=following == "call")
            calls.append(ReadCall(call, (place, place + len(name)), (first, last), closed))
        return calls, at

    @cached_property
    def after_name(self) -> re.Pattern[str]:
        """What may follow a name; the group says what comes next."""
        options: list[tuple[str, str]] = [(self.lead, "key")]
        if self.empty is not None:
            options += [(self.empty.end, "end")] + ([(self.empty.more, "call")] if self.empty.more else [])
        return _join(options)

    @cached_property
    def after_key(self) -> re.Pattern[str]:
        """What may follow a key; the group says the kind of the value."""
        options = [(self.other.opens, "other")]
        if self.text is not None:
            options.append((self.text.opens, "any" if self.text.opens == self.other.opens else "text"))
        return _join(list({literal: (literal, kind) for literal, kind in options}.values()))

    @cached_property
    def ends(self) -> dict[str, tuple[list[tuple[str, Next]], re.Pattern[str]]]:
        """What may follow a value, by kind."""
        other = self.other.options()
        text = self.text.options() if self.text is not None else other
        return {kind: (options, _join(options)) for kind, options in (("text", text), ("other", other), ("any", text))}


def _join(options: Sequence[tuple[str, str]]) -> re.Pattern[str]:
    """Return a pattern of several literals, longest first, each in a group with its name."""
    ordered = sorted(options, key=lambda option: -len(option[0].strip()))
    parts = [
        f"(?P<{name}>{compile_literal(literal).pattern if literal.strip() else r'(?!)'})" for literal, name in ordered
    ]
    return re.compile("|".join(parts))


class _Reader:
    """Reads one text; looks for ends are bounded or go on from where they were."""

    def __init__(self, form: Pairs, text: str, tools: Sequence[ToolSpec]) -> None:
        self._form = form
        self._text = text
        self._length = len(text.rstrip())
        self._schemas = {tool.name: find_properties(tool.parameters) for tool in tools}

    def find_name(self, at: int) -> tuple[str, Next, int] | None:
        """Return the name at a place, what comes next and where."""
        window = self._text[at : at + 2 * NAME_LIMIT]
        found = self._form.after_name.search(window)
        if found is None:
            return None
        name = window[: found.start()].strip()
        if name not in self._schemas and _PLAIN.fullmatch(name) is None:
            return None
        return name, _NEXT[str(found.lastgroup)], at + found.end()

    def find_key(self, at: int, name: str) -> tuple[str, str, int] | None:
        """Return the key at a place, the kind of its value and where that begins."""
        window = self._text[at : at + 2 * NAME_LIMIT]
        found = self._form.after_key.search(window)
        if found is None:
            return None
        key = window[: found.start()]
        if key not in self._properties(name):
            key = key.strip()
            if key not in self._properties(name) and _PLAIN.fullmatch(key) is None:
                return None
        return key, str(found.lastgroup), at + found.end()

    def read_value(self, at: int, name: str, key: str, kind: str) -> tuple[Any, int, Next, int]:
        """Return the value at a place, where it ends, what comes next and where.

        Raises:
            DataError: it has no end, or is no value where strings are quoted.
        """
        types = find_types(self._properties(name).get(key))
        first: tuple[str, int, Next, int] | None = None
        for count, (end, following, after) in enumerate(self._find_ends(at, name, kind)):
            raw = self._text[at:end]
            if kind == "text" or (kind == "any" and "string" in types):
                null = kind == "any" and "null" in types and raw.strip() in ("null", "None")
                return (None if null else raw), end, following, after
            value = self._read_literal(raw)
            if value is not _UNREAD:
                return value, end, following, after
            first = first or (raw, end, following, after)
            if count + 1 >= _ENDS:
                break
        if first is None:
            raise unreadable(self._text, f"the value of {key!r} does not end", at)
        if kind == "other":  # strings are marked as such, so this is none
            raise unreadable(self._text, f"the value of {key!r} is no literal", at)
        return first

    def _find_ends(self, at: int, name: str, kind: str) -> Iterator[tuple[int, Next, int]]:
        """Yield the places where a value may end: (end, what comes next, where)."""
        options, pattern = self._form.ends[kind]
        for found in pattern.finditer(self._text, at):
            for literal, following in options:
                match = compile_literal(literal).match(self._text, found.start()) if literal.strip() else None
                if match is not None and self._reads_on(match.end(), name, following):
                    yield found.start(), following, match.end()
                    break
        if any(following == "end" and not literal.strip() for literal, following in options):
            yield self._length, "end", len(self._text)

    def _reads_on(self, at: int, name: str, following: Next) -> bool:
        if following == "key":
            return self.find_key(at, name) is not None
        if following == "call":
            return self.find_name(at) is not None
        return not self._form.final or at >= self._length

    def _properties(self, name: str) -> Mapping[str, Any]:
        return self._schemas.get(name, {})

    def _read_literal(self, raw: str) -> Any:  # noqa: ANN401 - any JSON value
        text = raw.strip()
        value = read_value(text) if self._form.quote is None else read_quoted(text, self._form.quote)
        return _UNREAD if value is None and text not in ("null", "None") else value


_WORDS = {"None": "null", "True": "true", "False": "false"}


def read_quoted(text: str, quote: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value whose strings stand in `quote` and whose keys stand bare; None when it is none."""
    mark = re.escape(quote)
    token = re.compile(
        rf"{mark}(?P<string>(?:(?!{mark}).)*){mark}|(?P<sign>[{{}}\[\],:])|(?P<word>(?:(?!{mark})[^{{}}\[\],:])+)",
        re.DOTALL,
    )
    pieces: list[str] = []
    at = 0
    while at < len(text):
        found = token.match(text, at)
        if found is None:
            return None
        at = found.end()
        string, word = found.group("string"), found.group("word")
        if string is not None:
            pieces.append(json.dumps(string))
        elif word is not None and text[at : at + 1] == ":":
            pieces.append(json.dumps(word.lstrip()))
        elif word is not None:
            pieces.append(_WORDS.get(word.strip(), word.strip()))
        else:
            pieces.append(found.group())
    try:
        return json.loads("".join(pieces))
    except (ValueError, RecursionError):
        return None
