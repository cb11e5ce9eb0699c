"""Token ids of text without added tokens, word by word: what a byte-level tokenizer does, without doing it twice.

Such a tokenizer splits a text into words by a pattern and encodes each by itself, so a word seen before needs no second
look. The pattern is run by the standard library (`actune.render.patterns`); a line with a character that is not plain
goes through the tokenizer's own normalizer and splitter. Words always get their ids from the tokenizer's model.

A text is cut behind a newline where the pattern can neither match across nor see what follows, so the lines of a text
are encoded apart, and a text that grows is encoded from its last lines on.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Token, Tokenizer, models

from actune.render.patterns import (
    Split,
    UnsupportedPatternError,
    digit_split,
    everything,
    read_pattern,
    set_of,
    write_exact_class,
)

# What ByteLevel splits by, and how it writes the bytes of a text as characters.
_BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
_BYTE_CHARACTERS = "".join(chr(byte if byte in _SHOWN else 256 + _HIDDEN.index(byte)) for byte in range(256))
# Stands for what follows a line; a word by itself behind a newline.
NEXT = "a"
_WORDS, _LONG_WORD, _CACHED_CHARACTERS = 100_000, 200, 4_000_000
# Scripts, digits, blanks, quotes, marks that combine, emoji, unassigned and private characters, line ends of all kinds.
PROBE = (
    "I'm HE'LL we've 'tis don't  can\u2019t 'S x'ſ 1 23 456 7890 3.14 ½ ² Ⅷ ١٢٣ १२ a1b2 snake_case camelCase HTTPServer"
    "\n\n  indented\n\tif (x == 1) { return [y]; } // end \n \n\n   \r\n\r\n\r mixed \t\t tabs \u00a0nb \u3000wide\u2028sep\x85nel\x1cfs\x00nul"
    '\n{"city": "杭州", "n": -1.5e-3, "u": "\\u4f60"}\n#!/usr/bin/env\n</a>\n/path/to\n-dash\n\'s\n1st\n你好，世界！今天天气怎么样？\n「日本語」のテキスト'
    " 한국어 텍스트 ไทย العربية हिन्दी עברית Ελληνικά Русский Ünïcödé ß İı ﬁ e\u0301 A\u030a \u0301x 가\u11a8 \u1100\u1161\n\u0301after"
    " 😀👍🏽👩‍👩‍👧 ❤️ \U0001fae8 \U00020000 \ue000 \uffff \u0378 \U000e0001 \U0010fffd <|im_start|> <tool_call> --- *** ... !!!\n?\n  \n end  "
)


class RecentTexts:
    """What was computed for texts: the most recent ones, bounded by the number of their characters."""

    def __init__(self, limit: int = _CACHED_CHARACTERS) -> None:
        """Keep between `limit` and twice as many characters of keys."""
        self._limit, self._size = limit, 0
        self._new: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}

    def get(self, text: str) -> bytes | None:
        """Return what was kept for a text, None when nothing is."""
        found = self._new.get(text)
        if found is None:
            found = self._old.pop(text, None)
            if found is not None:
                self.put(text, found)
        return found

    def put(self, text: str, value: bytes) -> None:
        """Keep a value; what was not asked for since long gives way."""
        self._size += len(text) + 1
        if self._size > self._limit:
            self._old, self._new, self._size = self._new, {}, len(text) + 1
        self._new[text] = value


class _Words(dict[str, bytes]):
    """The ids of words; one that is missing is encoded by the model."""

    def __init__(self, tokenize: Callable[[str], list[Token]], limit: int) -> None:
        super().__init__()
        self._tokenize, self._limit = tokenize, limit
        self._old: dict[str, bytes] = {}
        self.misses = 0

    def __missing__(self, word: str) -> bytes:
        ids = self._old.pop(word, None) if self._old else None
        if ids is None:
            self.misses += 1
            shown, _ = codecs.charmap_decode(word.encode(), "strict", _BYTE_CHARACTERS)  # pyrefly: ignore[bad-argument-type]
            ids = array("i", [token.id for token in self._tokenize(shown)]).tobytes()
        if len(word) <= _LONG_WORD:
            if len(self) >= self._limit:
                self._old = dict(self)
                self.clear()
            self[word] = ids
        return ids


class WordEncoder:
    """Ids of texts that hold no added token, as bytes of int32; equal to what the tokenizer gives them."""

    def __init__(self, tokenizer: Tokenizer, splits: Sequence[Split], plain: int, *, words: int = _WORDS) -> None:
        """Encode by the splits, one after the other, what consists of `plain` characters.

        At most twice `words` words are kept.
        """
        self._normalizer, self._splitter, self._model = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model
        self._words = _Words(self._model.tokenize, words)
        self._lines = RecentTexts()
        self._odd = re.compile(write_exact_class(plain, inverted=True))
        self._first, *self._others = [re.compile(_write_split(split, plain)) for split in splits]
        self._breaks = re.compile(f"\n(?={write_exact_class(_line_starts(splits, plain))})")
        self.size_of_next = len(self._words[NEXT])

    @property
    def misses(self) -> int:
        """How many words had to be encoded by the model."""
        return self._words.misses

    def encode(self, text: str) -> bytes:
        """Return the ids of a text that nothing follows."""
        place = self.last_break(text, len(text))
        ids = self._encode_words(text[place:])
        return self.encode_lines(text[:place]) + ids if place else ids

    def encode_lines(self, text: str) -> bytes:
        """Return the ids of a text up to a break, as they are whatever follows there."""
        start, parts = 0, []
        for match in self._breaks.finditer(text + NEXT):
            line, start = text[start : match.end()], match.end()
            ids = self._lines.get(line)
            if ids is None:
                ids = self._encode_words(line + NEXT)
                ids = ids[: len(ids) - self.size_of_next]
                self._lines.put(line, ids)
            parts.append(ids)
        return b"".join(parts)

    def last_break(self, text: str, limit: int) -> int:
        """Return the last place up to `limit` where a text may be cut, 0 when there is none."""
        place = limit
        while (place := text.rfind("\n", 0, place)) >= 0:
            if self._breaks.match(text, place):
                return place + 1
        return 0

    def _encode_words(self, text: str) -> bytes:
        if self._odd.search(text) is not None:
            return self._encode_odd(text)
        words = self._first.findall(text)
        for pattern in self._others:
            words = [part for word in words for part in pattern.findall(word)]
        return b"".join(map(self._words.__getitem__, words))

    def _encode_odd(self, text: str) -> bytes:
        # What follows a line is no part of what the normalizer may change: it is plain, and a newline stands between.
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        return b"".join(self._encode_word(word) for word, _ in self._splitter.pre_tokenize_str(text))

    def _encode_word(self, word: str) -> bytes:
        return array("i", [token.id for token in self._model.tokenize(word)]).tobytes()


def build_word_encoder(tokenizer: Tokenizer) -> WordEncoder | None:
    """Return the word encoder of a tokenizer, None when its words cannot be found or encoded by themselves."""
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.dropout:
        return None
    try:
        if any(step["type"] != "NFC" for step in _steps(tokenizer.normalizer, "normalizers")):
            return None
        splits, plain = _read_splits(_steps(tokenizer.pre_tokenizer, "pretokenizers"))
        return WordEncoder(tokenizer, splits, plain)
    except UnsupportedPatternError:
        return None


def _steps(component: Any, key: str) -> list[Mapping[str, Any]]:  # noqa: ANN401 - a normalizer or pre-tokenizer
    """Return the settings of a component's steps in order."""
    if component is None:
        return []
    try:
        waiting = [json.loads(component.__getstate__())]
    except Exception as error:  # written in Python by a user
        raise UnsupportedPatternError("a step without settings") from error
    steps = []
    while waiting:
        step = waiting.pop(0)
        if step["type"] == "Sequence":
            waiting = [*step[key], *waiting]
        else:
            steps.append(step)
    return steps


def _read_splits(steps: Sequence[Mapping[str, Any]]) -> tuple[list[Split], int]:
    """Return how text is split, and the characters for which that is certain.

    Raises:
        UnsupportedPatternError: for steps other than patterns and digits, bytes at the end.
    """
    *before, last = steps or [{"type": "none"}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise UnsupportedPatternError(last["type"])
    splits, plain = [], everything()
    for step in before:
        if step["type"] == "Digits":
            splits.append(digit_split(individual=step["individual_digits"]))
            continue
        ways = (step.get("behavior"), step.get("invert"))
        if step["type"] != "Split" or ways not in (("Isolated", False), ("Removed", True)):
            raise UnsupportedPatternError(step["type"])
        ((kind, pattern),) = step["pattern"].items()
        splits.append(read_pattern(pattern, literal=kind == "String"))
        if ways[0] == "Removed":  # what is no match would be left out
            plain &= splits[-1].covered
    if last["use_regex"]:
        splits.append(read_pattern(_BYTE_LEVEL))
    return splits or [read_pattern(r"[\s\S]+")], plain


def _write_split(split: Split, plain: int) -> str:
    """Return a pattern that finds matches and what lies between them."""
    if not plain & ~split.covered:
        return split.source
    return f"{split.source}|(?:(?!{split.source})[\\s\\S])+"


def _line_starts(splits: Sequence[Split], plain: int) -> int:
    """Return the characters before which a text may be cut behind a newline.

    There a word ends for certain, nothing before it sees more than that it is followed by something like `NEXT`, and
    nothing behind it sees what was before.
    """
    following, newline = set_of(NEXT), set_of("\n")
    starts = plain
    for split in splits:
        starts &= ~split.after_newline
        for asked in split.ahead:
            starts &= asked if asked & following else ~asked
        if split.covered & newline:
            return starts if starts & following else 0
        starts &= ~split.first  # it stays in one piece with the newline, to be split by what comes next
    return 0
