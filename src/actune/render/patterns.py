r"""A pre-tokenizer's pattern, written for the standard library so that both find the same words.

Which characters a class such as `\p{L}` holds depends on a library's Unicode version. So the classes are asked of the
tokenizer's own library, over the characters listed by `plain_characters`, and written out one range after the other:
in a text of such characters there is nothing left in which the two could differ. Constructs whose meaning is not
certain are refused.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

# Ideographs and syllables, all of them plain; the other blocks are looked through.
_KNOWN = (range(0x4E00, 0x9FA6), range(0xAC00, 0xD7A4))
_SCANNED = (range(0x3400), range(0xA000, 0xAC00), range(0xF900, 0xFFFE), range(0x1F000, 0x1FB00))
_NEVER = ("Cn", "Co", "Cs")
# Joined to a syllable of Hangul before them; folded to an ASCII letter (long s, Kelvin sign).
_JOINED = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3), 0x17F, 0x212A)
# Of what is folded to several ASCII letters ("ß" to "ss"): these letters must not stand together in a literal.
_FOLDED = ("ss", "ff", "fi", "fl", "st")
_QUANTIFIER = re.compile(r"[?*+]\+?|\{\d+(?:,\d*)?\}")
_ATOM = re.compile(r"\\[pP]\{\^?\w+\}|\\[sSdDwW]")
_CONTROL = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}


class UnsupportedPatternError(Exception):
    """A pattern holds a construct that is not known to mean the same in both libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A pattern of the standard library and what is known about its matches.

    Sets of characters are integers: bit i stands for `plain_characters()[i]`. A match is certain where a character of
    `covered` stands and no match before it holds it. A match begins with one of `first`. `after_newline` are the
    characters that can follow a newline inside a match; `ahead` are the sets that a look-ahead asks about, each for one
    character.
    """

    source: str
    first: int
    covered: int
    after_newline: int
    ahead: tuple[int, ...]


@functools.cache
def plain_characters() -> str:
    """Return, in order, the characters that a text may hold to be split by a written-out pattern.

    They are assigned, no normal form changes, moves or joins them, and none is folded to an ASCII letter, whatever
    version of Unicode later than Python's a library follows. Rare ones may be missing.
    """
    return "".join(chr(code) for block in _blocks() for code in block)


@functools.cache
def _blocks() -> tuple[range, ...]:
    """Return the codes of the plain characters, one range for each run without a gap."""
    plain: list[int] = []
    joined = set(_JOINED)
    for code in itertools.chain(*_SCANNED):
        character = chr(code)
        parts = unicodedata.decomposition(character)
        if parts and parts[0] != "<":
            joined.update(int(part, 16) for part in parts.split()[1:])
            if not unicodedata.is_normalized("NFC", character):
                continue
        if unicodedata.category(character) not in _NEVER and not unicodedata.combining(character):
            plain.append(code)
    blocks, start, before = list(_KNOWN), -1, -2
    for code in [*(code for code in plain if code not in joined), -2]:
        if code != before + 1:
            if start >= 0:
                blocks.append(range(start, before + 1))
            start = code
        before = code
    return tuple(sorted(blocks, key=lambda block: block.start))


def everything() -> int:
    """Return the set of all plain characters."""
    return (1 << len(plain_characters())) - 1


def set_of(characters: str) -> int:
    """Return the set of some characters.

    Raises:
        UnsupportedPatternError: when one is not plain.
    """
    found = 0
    for character in characters:
        place = plain_characters().find(character)
        if place < 0:
            raise UnsupportedPatternError(f"U+{ord(character):04X}")
        found |= 1 << place
    return found


@functools.lru_cache(maxsize=256)
def members_of(atom: str) -> int:
    """Return the plain characters that a class of the tokenizer's library holds, as that library says.

    Raises:
        UnsupportedPatternError: when the library does not know it.
    """
    if atom[1].isupper():
        return everything() ^ members_of(atom[0] + atom[1].lower() + atom[2:])
    try:
        splitter = pre_tokenizers.Split(Regex(f"{atom}+"), "removed")
        outside = splitter.pre_tokenize_str(plain_characters())
    except Exception as error:
        raise UnsupportedPatternError(atom) from error
    found = everything()
    for _, (start, end) in outside:
        found ^= ((1 << (end - start)) - 1) << start
    return found


@functools.lru_cache(maxsize=256)
def write_class(members: int) -> str:
    """Return a set as a class of the standard library, short; it is right for plain characters only."""
    if not members:
        return "(?!)"
    outside = everything() ^ members
    inside, without = _write_ranges(_runs(members)), _write_ranges(_runs(outside))
    return f"[{inside}]" if len(inside) <= len(without) or not outside else f"[^{without}]"


@functools.lru_cache(maxsize=32)
def write_exact_class(members: int, *, inverted: bool = False) -> str:
    """Return a set, or all characters outside of it, as a class of the standard library, right for any character."""
    if not members:
        return r"[\s\S]" if inverted else "(?!)"
    exact = []
    for start, end in _runs(members):
        inner = _gaps()[bisect_right(_gaps(), start) : bisect_left(_gaps(), end)]
        exact += list(itertools.pairwise([start, *inner, end]))
    return f"[{'^' if inverted else ''}{_write_ranges(exact)}]"


def _runs(members: int) -> list[tuple[int, int]]:
    return [run.span() for run in re.finditer("1+", bin(members)[:1:-1])]


def _write_ranges(runs: list[tuple[int, int]]) -> str:
    characters = plain_characters()
    return "".join(f"{re.escape(characters[start])}-{re.escape(characters[end - 1])}" for start, end in runs)


@functools.cache
def _gaps() -> list[int]:
    """Return the places of plain characters before which some other character is left out."""
    return list(itertools.accumulate(len(block) for block in _blocks()))[:-1]


@functools.lru_cache(maxsize=64)
def read_pattern(pattern: str, *, literal: bool = False) -> Split:
    """Return what a pattern of the tokenizer's library is in the standard library's.

    Raises:
        UnsupportedPatternError: for a construct whose meaning there is not certain.
    """
    reader = _Reader(re.sub(r"(\W)", r"\\\1", pattern) if literal else pattern)
    part = reader.read_choice()
    if reader.rest or part.nullable:
        raise UnsupportedPatternError(pattern)
    return Split(
        source=part.source,
        first=part.first,
        covered=part.covered,
        after_newline=reader.after_newline,
        ahead=tuple(reader.ahead),
    )


@functools.cache
def digit_split(*, individual: bool) -> Split:
    """Return what the splitter named Digits does, its digits being those that it says."""
    joined = "a".join(plain_characters())
    digits = 0
    for piece, (start, _) in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(joined):
        if len(piece) == 1 and start % 2 == 0:
            digits |= 1 << (start // 2)
    source = write_class(digits) + ("" if individual else "+")
    return Split(source=source, first=digits, covered=digits, after_newline=0, ahead=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part of a pattern: the characters it may begin with, whether it may end in a newline, may be empty."""

    source: str
    first: int = 0
    newline_last: bool = False
    nullable: bool = False
    covered: int = 0
    looks: bool = False
    keeps: bool = False  # gives nothing back once matched


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.rest = pattern
        self.after_newline = 0
        self.ahead: list[int] = []
        self._newline = set_of("\n")

    def read_choice(self, *, fold: bool = False) -> _Part:
        """Read alternatives up to a closing parenthesis or the end."""
        parts = [self._read_sequence(fold=fold)]
        while self._take("|"):
            parts.append(self._read_sequence(fold=fold))
        first = covered = 0
        for part in parts:
            first, covered = first | part.first, covered | part.covered
        return _Part(
            source="(?:" + "|".join(part.source for part in parts) + ")",
            first=first,
            newline_last=any(part.newline_last for part in parts),
            nullable=any(part.nullable for part in parts),
            covered=covered,
            looks=any(part.looks for part in parts),
        )

    def _read_sequence(self, *, fold: bool) -> _Part:
        if fold and any(pair in self.rest.split(")", 1)[0].lower() for pair in _FOLDED):
            raise UnsupportedPatternError(self.rest)
        parts = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeat(self._read_atom(fold=fold)))
        first, last, nullable = 0, False, True
        for part in parts:
            if last:
                self.after_newline |= part.first
            if nullable:
                first |= part.first
            last = part.newline_last or (last and part.nullable)
            nullable = nullable and part.nullable
        return _Part(
            source="".join(part.source for part in parts),
            first=first,
            newline_last=last,
            nullable=nullable,
            covered=_covered(parts),
            looks=any(part.looks for part in parts),
        )

    def _read_atom(self, *, fold: bool) -> _Part:
        if self._take("(?i:"):
            return self._read_group(fold=True)
        if self._take("(?:"):
            return self._read_group(fold=fold)
        if self._take("(?!"):
            return self._read_ahead("(?!", fold=fold)
        if self._take("(?="):
            return self._read_ahead("(?=", fold=fold)
        members = self._read_class() if self.rest[0] == "[" else self._read_one()
        if fold:
            members = _fold(members)
        return _Part(
            source=write_class(members),
            first=members,
            newline_last=bool(members & self._newline),
            covered=members,
        )

    def _read_group(self, *, fold: bool) -> _Part:
        part = self.read_choice(fold=fold)
        if not self._take(")"):
            raise UnsupportedPatternError(self.rest)
        return part

    def _read_ahead(self, opening: str, *, fold: bool) -> _Part:
        if fold:
            raise UnsupportedPatternError(self.rest)
        members = self._read_class() if self.rest[:1] == "[" else self._read_one()
        if not self._take(")"):
            raise UnsupportedPatternError(self.rest)
        self.ahead.append(members)
        return _Part(source=f"{opening}{write_class(members)})", nullable=True, looks=True)

    def _repeat(self, part: _Part) -> _Part:
        match = _QUANTIFIER.match(self.rest)
        if match is None:
            return part
        mark = match.group()
        self.rest = self.rest[match.end() :]
        # What a further mark means differs (`{1,3}+`), and lazy repeats are not looked into.
        if part.looks or self.rest[:1] in ("?", "+", "*", "{"):
            raise UnsupportedPatternError(mark)
        low, high = _bounds(mark)
        if (high is None or high > 1) and part.newline_last:
            self.after_newline |= part.first
        return _Part(
            source=part.source + mark,
            first=part.first,
            newline_last=part.newline_last,
            nullable=part.nullable or low == 0,
            covered=part.covered if low == 1 else 0,
            keeps=mark.endswith("+") and len(mark) > 1,
        )

    def _read_one(self) -> int:
        """Read one character, escape or named class."""
        atom = _ATOM.match(self.rest)
        if atom is not None:
            self.rest = self.rest[atom.end() :]
            return members_of(atom.group())
        character, escaped = self._read_character()
        if not escaped and character in "[]()?*+{}^$.|\\":
            raise UnsupportedPatternError(character)
        return set_of(character)

    def _read_character(self) -> tuple[str, bool]:
        if self.rest[:1] != "\\":
            character, self.rest = self.rest[:1], self.rest[1:]
            return character, False
        character, self.rest = self.rest[1:2], self.rest[2:]
        if character in _CONTROL:
            return _CONTROL[character], True
        if not character or character.isalnum():  # escapes that are not known here
            raise UnsupportedPatternError(character)
        return character, True

    def _read_class(self) -> int:
        self.rest = self.rest[1:]
        inverted = self._take("^")
        members, empty = 0, True
        while not self._take("]"):
            if not self.rest or self.rest[0] == "[" or self.rest.startswith("&&") or (empty and self.rest[0] == "]"):
                raise UnsupportedPatternError("a class within a class")
            empty = False
            atom = _ATOM.match(self.rest)
            if atom is not None:
                self.rest = self.rest[atom.end() :]
                members |= members_of(atom.group())
                continue
            start, _ = self._read_character()
            if self.rest[:1] == "-" and self.rest[1:2] not in ("]", ""):
                self.rest = self.rest[1:]
                if _ATOM.match(self.rest):
                    raise UnsupportedPatternError(self.rest)
                end, _ = self._read_character()
                low, high = bisect_left(plain_characters(), start), bisect_right(plain_characters(), end)
                members |= ((1 << max(0, high - low)) - 1) << low
            else:
                members |= set_of(start)
        return everything() ^ members if inverted else members

    def _take(self, text: str) -> bool:
        if self.rest.startswith(text):
            self.rest = self.rest[len(text) :]
            return True
        return False


def _covered(parts: list[_Part]) -> int:
    """Return the characters at which a sequence surely matches, whatever follows: it needs no more than one of them."""
    needed = [index for index, part in enumerate(parts) if not part.nullable]
    if len(needed) != 1 or any(part.looks for part in parts) or any(part.keeps for part in parts[: needed[0]]):
        return 0
    return parts[needed[0]].covered


def _bounds(mark: str) -> tuple[int, int | None]:
    if mark[0] != "{":
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[mark[0]]
    low, comma, high = mark[1:-1].partition(",")
    return int(low), int(low) if not comma else int(high) if high else None


def _fold(members: int) -> int:
    """Return an ASCII letter in both cases, and what has no case as it is."""
    both = 0
    for character in _characters(members):
        if not character.isascii():
            raise UnsupportedPatternError(character)
        both |= set_of(character.lower()) | set_of(character.upper())
    return both


def _characters(members: int) -> Iterator[str]:
    if members.bit_count() > 256:
        raise UnsupportedPatternError("a large class whose case is ignored")
    for index, bit in enumerate(bin(members)[:1:-1]):
        if bit == "1":
            yield plain_characters()[index]
