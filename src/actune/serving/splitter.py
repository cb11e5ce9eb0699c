"""A growing output taken apart: what of it is reasoning and what is content, as far as no later text can change that.

What a call is shows only when the output has ended, since all of it is text where its end is malformed; so calls are
never given out here. What is held back meanwhile: possible beginnings of a marker, blanks at an end, and everything in a
format whose calls have no marker of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from actune.core.react import MARKER
from actune.render.dialects import ChatDialect, Dialect
from actune.render.native import NativeFormat
from actune.render.native_calls import compile_literal
from actune.render.native_probe import Frame

Kind = Literal["reasoning", "content"]
Piece = tuple[Kind, str]
_OPENERS = re.compile(r"^(Action Input|Action|Observation|Final Answer):", re.MULTILINE)
_MARKERS = ("Action Input:", "Action:", "Observation:", "Final Answer:")
# A marker without letters that is shorter is one that ordinary text holds as well; see `render.native`.
_STRONG = 4


class Splitter(Protocol):
    """Takes an output apart while it grows; the way it is cut into pieces changes nothing of what the pieces join to."""

    reasoning: str
    content: str

    def push(self, piece: str) -> list[Piece]:
        """Take more of the output in; return what has become certain of reasoning and content."""
        ...

    def read_plain(self) -> tuple[str, str]:
        """Return (reasoning, content) of the whole output where it holds no call that can be read.

        They begin with what `push` gave out.
        """
        ...


def make_splitter(dialect: Dialect, *, tools: bool, answer_tail: str) -> Splitter:
    """Return the splitter of a dialect; `answer_tail` is what a template writes between an answer and its stop."""
    if isinstance(dialect, ChatDialect):
        return NativeSplitter(outline(dialect.format, tools=tools))
    return ReactSplitter(answer_tail)


class _Grower:
    """What both splitters share: the text so far, and what was given out of it."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.content = ""
        self._new: list[Piece] = []

    def push(self, piece: str) -> list[Piece]:
        """Take more of the output in; return what has become certain."""
        self.text += piece
        self._new = []
        if piece:
            self._look()
        return self._new

    def _look(self) -> None:
        raise NotImplementedError

    def _give(self, kind: Kind, start: int, end: int) -> None:
        """Give out the text of a slot that begins at `start` up to `end`, less what was given before."""
        given = len(self.reasoning if kind == "reasoning" else self.content)
        text = self.text[start + given : end]
        if not text:
            return
        if kind == "reasoning":
            self.reasoning += text
        else:
            self.content += text
        self._new.append((kind, text))


def _before_blanks(text: str, start: int, end: int) -> int:
    """Return the end of text[start:end] without the blanks it ends in."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def _before_partial(text: str, start: int, end: int, markers: Sequence[str]) -> int:
    """Return where the longest end of text[start:end] begins that one of the markers begins with, else `end`."""
    for size in range(min(max(map(len, markers), default=0), end - start), 0, -1):
        if any(marker.startswith(text[end - size : end]) for marker in markers):
            return end - size
    return end


# --- ReAct ------------------------------------------------------------------------------------------------------------


class ReactSplitter(_Grower):
    """Thought, then an answer: of text without a marker nothing is certain, since one may follow and make it a thought."""

    def __init__(self, tail: str) -> None:
        """Hold back `tail` at the end of an answer, which is no part of it."""
        super().__init__()
        self._tail = tail
        self._state: Literal["open", "thought", "answer", "other"] = "open"
        self._thought: int | None = None
        self._answer = 0
        self._other = 0
        self._scanned = 0

    def _look(self) -> None:
        if self._state in ("open", "thought"):
            self._look_for_end()
        if self._state == "answer":
            start = self._skip(self._answer)
            end = _before_partial(self.text, start, len(self.text), [self._tail] if self._tail else [])
            self._give("content", start, _before_blanks(self.text, start, end))

    def _skip(self, at: int) -> int:
        return len(self.text) - len(self.text[at:].lstrip())

    def _look_for_end(self) -> None:
        text = self.text
        if self._state == "open" and MARKER.search(text, self._scanned) is not None:
            self._state = "thought"
        opening = _OPENERS.search(text, self._scanned)
        end = len(text) if opening is None else opening.start()
        if self._state == "thought":
            start = self._start()
            if opening is None:
                line = text.rfind("\n") + 1
                tail = text[line:]
                end = line if any(marker.startswith(tail) for marker in _MARKERS) else end
            self._give("reasoning", start, _before_blanks(text, start, max(start, end)))
        if opening is None:
            self._scanned = text.rfind("\n") + 1
        elif opening.group(1) == "Final Answer":
            self._state, self._answer = "answer", opening.end()
        else:
            self._state, self._other = "other", opening.start()

    def _start(self) -> int:
        """Return where the thought begins: behind its marker and the blanks around it."""
        if self._thought is None:
            begin = self._skip(0)
            if self.text.startswith("Thought:", begin):
                begin = self._skip(begin + len("Thought:"))
            if begin < len(self.text):
                self._thought = begin
            return begin
        return self._thought

    def read_plain(self) -> tuple[str, str]:
        """Return the thought, and the answer or whatever follows the thought, as it stands."""
        if self._state == "open":
            return "", self.text
        if self._state == "answer":
            answer = self.text.removesuffix(self._tail) if self._tail else self.text
            return self._read_thought(self._answer), answer[self._answer :].strip()
        if self._state == "other":
            return self._read_thought(self._other), self.text[self._other :]
        return self.text[self._start() :].strip(), ""

    def _read_thought(self, end: int) -> str:
        opening = max((match.start() for match in _OPENERS.finditer(self.text, 0, end)), default=end)
        return self.text[min(self._start(), opening) : opening].strip()


# --- a template's own format ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What of a native format can be told from the beginning of an output.

    `opener` opens reasoning (None: there is none, blank: the prompt did), `closer` begins what ends it; `early` says
    that the reasoning is such also where it does not end. `after` stands between reasoning and content, `before` in front
    of content alone; None: not certain. Content ends at one of `markers`, or at an end that `ends` may belong to.
    """

    opener: str | None = None
    closer: str = ""
    early: bool = True
    after: str | None = None
    before: str | None = ""
    markers: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()


def outline(known: NativeFormat, *, tools: bool) -> Outline:
    """Return the outline of a format; without tools nothing is a call."""
    frames = [frame for frame in known.frames if tools or "calls" not in frame.slots]
    thinking = [frame for frame in frames if frame.slots[0] == "reasoning"]
    others = [frame for frame in frames if frame.slots[0] != "reasoning"]
    markers = _find_markers(frames)
    openers = {frame.literals[0] for frame in thinking}
    closers = [frame.literals[1].split()[0] for frame in thinking if frame.literals[1].split()]
    closer = _common_start(closers)
    told = len(openers) == 1 and len(closers) == len(thinking) and bool(closer)
    after, before = _only(thinking, 1), _only(others, 0) if others else ""
    if markers is None:
        after = before = None
    opener = next(iter(openers)) if told else None
    if thinking and not told:
        after = before = None
    blank = opener is not None and not opener.strip()
    return Outline(
        opener=opener,
        closer=closer,
        early=not (blank and any(not frame.literals[0].strip() for frame in others)),
        after=after,
        before=None if blank else before,
        markers=markers or (),
        ends=tuple({frame.literals[-1].strip() for frame in frames if frame.slots[-1] == "text"} - {""}),
    )


def _find_markers(frames: Sequence[Frame]) -> tuple[str, ...] | None:
    """Return what calls begin with, None where that may be ordinary text, or where a call is not what content ends at."""
    found: set[str] = set()
    for frame in frames:
        for number, slot in enumerate(frame.slots):
            previous = frame.slots[number - 1] if number else None
            if previous == "text" and slot != "calls":
                return None
            if slot != "calls" or previous == "reasoning":
                continue
            core = frame.literals[number].strip()
            if len(core) < _STRONG and not any(map(str.isalnum, core)):
                return None
            found.add(core.split()[0])
    return tuple(sorted(found))


def _only(frames: Sequence[Frame], place: int) -> str | None:
    """Return the literal before the text that stands at a place of frames, None where they differ."""
    found = {frame.literals[place] for frame in frames if frame.slots[place : place + 1] == ("text",)}
    return found.pop() if len(found) == 1 else None


def _common_start(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    size = 0
    while all(text[size : size + 1] == texts[0][size : size + 1] != "" for text in texts):
        size += 1
    return texts[0][:size]


class NativeSplitter(_Grower):
    """Reasoning in marks, then content up to the marker of a call."""

    def __init__(self, outline: Outline) -> None:
        """Follow an outline."""
        super().__init__()
        self._outline = outline
        self._state: Literal["start", "reasoning", "closed", "content", "held"] = "start"
        self._reasoning = 0
        self._closed = 0
        self._content = 0
        self._scanned = 0

    def _look(self) -> None:
        if self._state == "start":
            self._begin()
        if self._state == "reasoning":
            self._go_on()
        if self._state == "closed":
            self._find_content(self._outline.after, search=True)
        if self._state == "content":
            self._give_content()

    def _begin(self) -> None:
        opener = self._outline.opener
        if opener is None:
            self._find_content(self._outline.before, search=False)
            return
        match = compile_literal(opener).match(self.text)
        if match is not None:
            if self._settled(match.end(), opener):
                self._state, self._reasoning, self._scanned = "reasoning", match.end(), match.end()
        elif not _squeeze(opener).startswith(_squeeze(self.text)):
            self._find_content(self._outline.before, search=False)

    def _settled(self, end: int, literal: str) -> bool:
        """Whether no further blank can belong to a literal that ends there."""
        return literal == literal.rstrip() or bool(self.text[end:].strip())

    def _go_on(self) -> None:
        closer = self._outline.closer
        place = self.text.find(closer, self._scanned)
        if place >= 0:
            self._state, self._closed = "closed", place
            end = place
        else:
            end = _before_partial(self.text, self._reasoning, len(self.text), [closer])
            self._scanned = end
        if self._outline.early or place >= 0:
            self._give("reasoning", self._reasoning, _before_blanks(self.text, self._reasoning, end))

    def _find_content(self, literal: str | None, *, search: bool) -> None:
        if literal is None:
            self._state = "held" if not search else "closed"
            return
        pattern = compile_literal(literal)
        match = pattern.search(self.text, self._reasoning) if search else pattern.match(self.text)
        if match is not None and self._settled(match.end(), literal):
            if search:  # the blanks before what ends the reasoning are its own now
                self._give("reasoning", self._reasoning, match.start())
            self._state, self._content, self._scanned = "content", match.end(), match.end()
        elif match is None and not search and not _squeeze(literal).startswith(_squeeze(self.text)):
            self._state = "held"

    def _give_content(self) -> None:
        places = [place for marker in self._outline.markers if (place := self.text.find(marker, self._scanned)) >= 0]
        if places:
            end = min(places)
        else:
            end = _before_partial(self.text, self._content, len(self.text), self._outline.markers)
            self._scanned = end
            end = min(end, _before_partial(self.text, self._content, end, self._outline.ends))
        self._give("content", self._content, _before_blanks(self.text, self._content, end))

    def read_plain(self) -> tuple[str, str]:
        """Return reasoning up to its end, and all that follows as content."""
        if self._state == "reasoning":
            return self.text[self._reasoning :], ""
        if self._state == "closed":
            return self.text[self._reasoning : self._closed], self.text[self._closed :]
        if self._state == "content":
            return self.reasoning, self.text[self._content :]
        return "", self.text


def _squeeze(text: str) -> str:
    return "".join(text.split())
