"""JSON of many rows in little room: texts that occur more than once are stored once, token ids have few characters.

A page of 2,000 rows holds the same tools, system texts and lines over and over; so they are pooled, and a row refers to
them by number. All is plain JSON, so the page needs nothing to unpack it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

_LEAST = 60
"""Shorter texts and lines (characters) are not worth a number."""
DIGITS = "".join(chr(code) for code in range(32, 127) if chr(code) not in '"\\<>&')
"""What token numbers are written with: each takes one character in a script element."""

Run = str | list[str | int]


@dataclass(frozen=True, slots=True)
class Text:
    """A text as runs (see `Visible.runs`). In JSON: a string, a number of the pool, or a list of these and of marked runs."""

    runs: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens as numbers of the vocabulary. In JSON one string, each number with `Pool.width` digits, the first the highest."""

    numbers: Sequence[int]


class Pool:
    """Texts that rows share, and the vocabulary of the tokens that occur in them.

    All texts are given to `text` first, then the values that hold them are written with `write`; `texts` and `vocabulary` are
    complete after that.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._tokens: dict[int, int] = {}
        self._token_texts: list[Text] = []

    @property
    def width(self) -> int:
        """Digits of a token's number."""
        return 2 if len(self._tokens) <= len(DIGITS) ** 2 else 3

    def text(self, runs: Sequence[Run]) -> Text:
        """Return a text, counted."""
        for run in runs:
            if isinstance(run, str) and len(run) >= _LEAST:
                self._counts[run] += 1
                self._counts.update(line for line in _lines(run) if len(line) >= _LEAST and line != run)
        return Text(runs)

    def token(self, token: int, text: Text) -> tuple[int, bool]:
        """Return the number of a token id, and whether it has this text in the vocabulary; its first text is the one."""
        number = self._tokens.setdefault(token, len(self._tokens))
        if number == len(self._token_texts):
            self._token_texts.append(text)
        return number, self._token_texts[number] == text

    def vocabulary(self) -> dict[str, Any]:
        """Return ids and texts of all tokens by number, and how numbers are written."""
        return {"digits": DIGITS, "width": self.width, "ids": list(self._tokens), "texts": self._token_texts}

    def write(self, value: object) -> Markup:
        """Return a value as JSON for a script element; see `as_json`."""
        return as_json(value, self._encode)

    def _encode(self, value: object) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, Tokens):
            return "".join(map(self._digits, value.numbers))
        if not isinstance(value, Text):
            raise TypeError(f"{type(value)} is no JSON value")
        parts: list[Any] = []
        for run in value.runs:
            parts += self._share(run) if isinstance(run, str) else [run]
        if not parts:
            return ""
        return parts[0] if len(parts) == 1 and not isinstance(parts[0], list) else parts

    def _share(self, text: str) -> list[str | int]:
        """Return a text in parts: numbers of the pool for what occurs more than once, strings for the rest."""
        if self._counts[text] > 1:
            return [self._number(text)]
        parts: list[str | int] = []
        own: list[str] = []
        for line in _lines(text):
            if self._counts[line] > 1:
                parts += ["".join(own), self._number(line)] if own else [self._number(line)]
                own = []
            else:
                own.append(line)
        return [*parts, "".join(own)] if own else parts

    def _number(self, text: str) -> int:
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def _digits(self, number: int) -> str:
        digits = ""
        for _ in range(self.width):
            number, digit = divmod(number, len(DIGITS))
            digits = DIGITS[digit] + digits
        return digits


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text, each with its line feed."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def as_json(value: object, default: Any = None) -> Markup:  # noqa: ANN401 - as json.dumps
    """Return a value as JSON that may stand in a script element: nothing in it opens or ends a tag or a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
