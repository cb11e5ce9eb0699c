"""Literals of a chat template as patterns and closers of a `response_template`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actune.render.native_calls import Tail

Spec = dict[str, Any]

NAME = r"(?P<name>[^\n]{1,256}?)"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
# A JSON object or list as a whole, for the module `regex`: the first unnamed group of its pattern.
BALANCED = rf"([\[{{](?:[^\"\[\]{{}}]++|{_QUOTED}|(?1))*+[\]}}])"


class Unsayable(Exception):
    """The form of calls has no expression in the spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """What delimits a call where several may stand in one block.

    `opens` is a pattern of what stands before a call, first or later; `closes` the literals that end one; `rest` what
    ends the block.
    """

    opens: str
    closes: tuple[str, ...]
    rest: tuple[str, ...]


def find_edges(marker: str, tail: Tail, stops: Sequence[str], *, begin: str = "") -> Edges:
    """Return the edges of calls from the marker before the first and what follows one.

    Where nothing ends a call, the marker of the next or the stop does. `begin` is a pattern of how a call begins, for
    calls after the first that no marker stands before.

    Raises:
        Unsayable: nothing tells where one call ends and the next begins.
    """
    end, first = tail.end.strip(), flexible(marker)
    if tail.more is None:
        return Edges(opens=rf"\s*{first}\s*" if first else "", closes=(end,) if end else tuple(stops), rest=())
    more = tail.more.strip()
    if not more:
        raise Unsayable("nothing stands between two calls")
    if not end:
        other = "" if more == marker.strip() else f"{first}|"
        opens = rf"\s*(?:{other}{flexible(more)}|(?<={re.escape(more)}))\s*"
        return Edges(opens=opens, closes=(more, *stops), rest=())
    close = shared_start(tail.more, tail.end)
    following, rest = tail.more[len(close) :], tail.end[len(close) :]
    if close.strip() and not following.strip() and begin:
        opens = rf"\s*(?:{first}|(?<={re.escape(close.strip())})\s*(?={begin}))\s*"
        return Edges(opens=opens, closes=(close.strip(),), rest=unique([rest.strip()]))
    if not close.strip() or not following.strip():
        raise Unsayable("nothing marks both the end of a call and the beginning of the next")
    if marker.strip().endswith(following.strip()):
        lead = flexible(marker.strip().removesuffix(following.strip()))
        opens = (rf"\s*(?:{lead}\s*)?" if lead else r"\s*") + flexible(following) + r"\s*"
    else:
        opens = rf"\s*(?:{first}|{flexible(following)})\s*"
    return Edges(opens=opens, closes=(close.strip(),), rest=unique([rest.strip()]))


def shared_start(one: str, other: str) -> str:
    """Return what two texts both begin with, cut so that it does not end inside a marker."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    shared = one[:size]
    if size < len(one) and size < len(other):
        while shared and (shared[-1].isspace() or shared[-1] in "<[({"):
            shared = shared[:-1]
    return shared


def flexible(literal: str) -> str:
    """Return a pattern of a literal without its edges; blanks inside may differ, or be missing."""
    return r"\s*".join(map(re.escape, literal.split()))


def closers(literals: Sequence[str]) -> Spec:
    """Return the closer of a field: literals where they hold no blanks, else one pattern."""
    if any(len(text.split()) > 1 for text in literals):
        return {"close_pattern": rf"\s*(?:{any_of(literals)})"}
    return {"close": one_or_all(literals)}


def literal(key: str, text: str) -> Spec:
    """Return `open` or `close` of a field for a text without its edges."""
    core = text.strip()
    return {key: core} if len(core.split()) == 1 else {f"{key}_pattern": flexible(core)}


def any_of(literals: Iterable[str]) -> str:
    """Return the alternatives of a pattern, longer ones first."""
    return "|".join(flexible(text) for text in sorted(literals, key=len, reverse=True))


def none_of(words: Sequence[str], *, at_end: bool = True) -> str:
    r"""Return a pattern of a text that begins with none of some words, each of which begins with no blank.

    A parser that is fed in pieces has to wait as long as a word may still come. It does not for a negative lookahead, so
    this spells out the first character that differs. The parser asks whether a match would survive more text by adding
    a NUL, which therefore differs from nothing. `at_end` False: a text that ends within a word is no match, for parsers
    that do not ask.
    """
    if "" in words:
        return r"(?!)"
    firsts = sorted({word[0] for word in words})
    others = "".join(map(re.escape, firsts))
    longer = [
        f"{re.escape(first)}{none_of([w[1:] for w in words if w[0] == first], at_end=at_end)}" for first in firsts
    ]
    end = r"\Z|" if at_end else ""
    return rf"(?:{end}[^{others}\x00]|{'|'.join(longer)})" if firsts else ""


def swallow(junk: Sequence[str], stops: Sequence[str]) -> str:
    r"""Return what closes the content: stops, literals of no field, and blanks at the very end.

    Blanks before any of them count with it: a field that holds nothing but blanks would replace the content before.
    """
    return rf"\s*(?:{any_of([*junk, *stops])})|\s+\Z"


def function(name: str, arguments: str, *, number: str | None = None) -> Spec:
    """Return the transform to an OpenAI call."""
    inner = {"name": name, "arguments": arguments}
    return {"type": "function", **({} if number is None else {"id": number}), "function": inner}


def one_or_all(texts: Sequence[str]) -> str | list[str]:
    """Return a literal, or a list where there are several."""
    return texts[0] if len(texts) == 1 else list(texts)


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are not empty, each once, in order."""
    return tuple(dict.fromkeys(text for text in texts if text))
