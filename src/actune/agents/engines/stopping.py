"""Where an output ends, found in its text while it grows, and what of it is certain already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from actune.render.dialects import Stops


class TextStops:
    """Finds stop words and stop texts in a text that comes in pieces; the way it is cut makes no difference.

    A word counts where it opens a line and is part of the text; a text counts anywhere and is not. The stop that is
    complete first ends the output; of two that end at the same character, the one that starts first.
    """

    def __init__(self, stops: Stops) -> None:
        """Look for the words and texts of `stops`; its tokens are not this class's business."""
        self._words = tuple("\n" + word for word in stops.words if word)
        self._texts = tuple(text for text in stops.texts if text)
        self._reach = max(map(len, self._words), default=1)
        # The start of an output is the start of a line.
        self._seen = "\n"
        self._held = ""
        self.reason: Literal["word", "text"] | None = None

    def feed(self, piece: str) -> str:
        """Take the next piece in; return the text that has become certain. After a stop nothing does."""
        if self.reason is not None:
            return ""
        looked, self._held = len(self._held), self._held + piece
        cut = self._find(looked)
        if cut is None:
            cut = len(self._held) - self._count_open()
        certain, rest = self._held[:cut], self._held[cut:]
        self._held = "" if self.reason is not None else rest
        self._seen = (self._seen + certain)[-self._reach :]
        return certain

    def finish(self) -> str:
        """Return what was held back for a stop that did not come."""
        held, self._held = self._held, ""
        return held

    def _find(self, looked: int) -> int | None:
        """Return where in the held text the output ends; the first `looked` characters ended no stop."""
        hits: list[tuple[int, int, int, Literal["word", "text"]]] = []
        region, shift = self._seen + self._held, len(self._seen)
        for word in self._words:
            start = region.find(word, max(0, shift + looked - len(word) + 1))
            if start >= 0:
                end = start + len(word) - shift
                hits.append((end, start - shift, end, "word"))
        for text in self._texts:
            start = self._held.find(text, max(0, looked - len(text) + 1))
            if start >= 0:
                hits.append((start + len(text), start, start, "text"))
        if not hits:
            return None
        *_, cut, self.reason = min(hits)
        return cut

    def _count_open(self) -> int:
        """Return the length of the longest end of the held text that a stop text starts with."""
        longest = min(max(map(len, self._texts), default=1) - 1, len(self._held))
        for size in range(longest, 0, -1):
            tail = self._held[-size:]
            if any(text.startswith(tail) for text in self._texts):
                return size
        return 0


class Decoder(Protocol):
    """Text from ids that come one by one; `actune.render.tokenizer.TextStream` is one."""

    def push(self, token: int) -> str:
        """Return the text that this id makes certain."""
        ...

    def finish(self) -> str:
        """Return the rest of the text."""
        ...


class Output:
    """One output on its way from ids to text: decoded, stopped, and told to a listener piece by piece."""

    def __init__(self, decoder: Decoder, stops: Stops, *, on_text: Callable[[str], None] | None = None) -> None:
        """Start empty; `decoder` knows the text before the output."""
        self._decoder = decoder
        self._tokens = stops.tokens
        self._stops = TextStops(stops)
        self._on_text = on_text
        self._pieces: list[str] = []
        self.count = 0
        self.reason: Literal["token", "word", "text"] | None = None

    def push(self, token: int) -> bool:
        """Take one sampled id in; return whether the output has ended with it."""
        self.count += 1
        if token in self._tokens:
            self.reason = "token"
            return True
        self._add(self._stops.feed(self._decoder.push(token)))
        self.reason = self._stops.reason
        return self.reason is not None

    def finish(self) -> str:
        """Close the output and return its text; a stop in the last characters to be decoded counts."""
        if self._stops.reason is None:
            self._add(self._stops.feed(self._decoder.finish()))
            self._add(self._stops.finish())
            self.reason = self._stops.reason or self.reason
        return "".join(self._pieces)

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if self._on_text is not None:
                self._on_text(piece)
