"""Token ids of whole texts: cut at control tokens, each segment encoded once, a text that grows from where it grew.

What stands between control tokens is encoded word by word where that is certain to give what the tokenizer gives
(`actune.render.words`), else by the tokenizer.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from actune.render.fast import WORTH, load_fast
from actune.render.words import NEXT, PROBE, RecentTexts, build_word_encoder

ID_SIZE = array("i").itemsize


class SegmentEncoder:
    """Ids of whole texts as bytes of int32, equal to what the tokenizer gives without special tokens."""

    def __init__(self, tokenizer: Tokenizer, path: Path | None = None) -> None:
        """Encode with a tokenizer that neither truncates nor pads; `path` is the file that it was read from."""
        self._tokenizer = tokenizer
        self._path = path
        self._fast: Callable[[str], bytes] | None = None
        self._asked = False  # whether the faster library was tried
        self._added = dict(tokenizer.get_added_tokens_decoder())
        self._cut, self._uncut, self._inside = self._cut_patterns()
        self._anchors = {token.content: pack([number]) for number, token in self._added.items()}
        self._longest = max(map(len, self._anchors), default=1)
        self._segments = RecentTexts()
        self._heads: tuple[tuple[str, int, bytes], ...] = ()
        self._words = build_word_encoder(tokenizer) if self._finds_tokens_in_text() else None
        if self._words is not None and not self._agrees():
            self._words = None
            self._segments = RecentTexts()

    def encode(self, text: str) -> bytes:
        """Return the ids of a whole text."""
        return b"".join(self._encode_segment(text[start:end]) for start, _, end in self._cut_text(text, 0))

    def encode_growing(self, text: str) -> bytes:
        """Return the ids of a whole text that may go on from one of the last two, as the next may from this one."""
        known = next((head for head in self._heads if text.startswith(head[0])), ("", 0, b""))
        *inner, (start, behind, end) = self._cut_text(text, known[1])
        done = known[2] + b"".join([self._encode_segment(text[first:last]) for first, _, last in inner])
        # Whether a text may be cut somewhere shows in what follows, as far as an added token can reach back.
        limit = end - self._longest
        if self._words is not None and self._inside is None and behind < limit:
            place = behind + self._words.last_break(text[behind:end], limit - behind)
            if place > behind:
                done += self._encode_segment(text[start:behind]) + self._encode_lines(text[behind:place])
                start = place
        if known[1] < start <= limit:
            self._heads = ((text[: start + self._longest], start, done), *self._heads[:1])
        return done + self._encode_segment(text[start:end])

    def _finds_tokens_in_text(self) -> bool:
        """Whether every added token is looked for in the text as it is, not in what a normalizer makes of it."""
        return self._tokenizer.normalizer is None or not any(token.normalized for token in self._added.values())

    def _cut_patterns(self) -> tuple[re.Pattern[str] | None, frozenset[str], re.Pattern[str] | None]:
        """Return what a text is cut at, which matches of that are no cut, and tokens that may stand in a segment.

        Text on the two sides of a plain token never influences the other side's ids, so it may be encoded apart.
        """
        tokens = list(self._added.values())
        first = [token for token in tokens if not token.normalized]
        if not first and self._tokenizer.normalizer is None:  # then it makes no difference
            first = tokens
        other = [token.content for token in first if token.lstrip or token.rstrip or token.single_word]
        plain = [token.content for token in first if token.content not in other]
        within = [token.content for token in tokens if token not in first] + other
        cut = bool(plain) and not any(token.single_word for token in tokens)  # such a token sees its neighbours
        return (
            any_of(plain + other) if cut else None,
            frozenset(other),
            any_of(within if cut else within + plain) if within or not cut else None,
        )

    def _agrees(self) -> bool:
        """Whether encoding by words gives what the tokenizer gives, for a text that holds all kinds of characters."""
        lines = PROBE.split("\n")
        mixed = "".join(f"{token}{lines[n % len(lines)]}\n" for n, token in enumerate(list(self._anchors)[:50]))
        return all(
            unpack(self.encode(text)) == self._tokenizer.encode(text, add_special_tokens=False).ids
            for text in (PROBE, mixed)
        )

    def _cut_text(self, text: str, start: int) -> Iterator[tuple[int, int, int]]:
        """Give for each segment where it begins, where its text begins behind its control token, and where it ends."""
        behind = start
        for match in self._cut.finditer(text, start) if self._cut is not None else ():
            if match.group() in self._uncut:
                continue
            if match.start() > start:
                yield start, behind, match.start()
            start, behind = match.span()
        yield start, behind, len(text)

    def _encode_segment(self, segment: str) -> bytes:
        """Return the ids of a control token, if it begins with one, and the text behind it."""
        ids = self._segments.get(segment)
        if ids is None:
            ids = self._encode_new(segment)
            self._segments.put(segment, ids)
        return ids

    def _encode_lines(self, text: str) -> bytes:
        """Return the ids of a text up to a place where it may be cut."""
        assert self._words is not None
        if self._fast is None:
            return self._words.encode_lines(text)
        ids = self._fast(text + NEXT)
        return ids[: len(ids) - self._words.size_of_next]

    def _encode_text(self, text: str) -> bytes:
        """Return the ids of a text that holds no added token."""
        assert self._words is not None
        if self._fast is not None:
            return self._fast(text)
        ids = self._words.encode(text)
        if self._words.misses > WORTH:
            self.expect_much()
        return ids

    def expect_much(self) -> None:
        """Load the faster library now: there is so much text to come that it pays."""
        if not self._asked and self._words is not None and self._path is not None:
            self._asked = True
            self._fast = load_fast(self._path, self._tokenizer)

    def _encode_new(self, segment: str) -> bytes:
        match = self._cut.match(segment) if self._cut is not None else None
        anchor = match.group() if match is not None and match.group() not in self._uncut else ""
        text = segment[len(anchor) :]
        if self._words is not None and (self._inside is None or self._inside.search(text) is None):
            ids = self._encode_text(text)
            return self._anchors[anchor] + ids if anchor else ids
        # The batch call leaves out character offsets, which nobody reads here: a third less time, the same ids.
        (encoding,) = self._tokenizer.encode_batch_fast([segment], add_special_tokens=False)
        return pack(encoding.ids)


def pack(ids: Sequence[int]) -> bytes:
    """Return ids as bytes of int32."""
    return array("i", ids).tobytes()


def unpack(ids: bytes) -> list[int]:
    """Return bytes of int32 as ids."""
    return memoryview(ids).cast("i").tolist()


def any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern of some texts, the longest first; of none it matches nowhere."""
    longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
