"""What ends an answer under a template: found from rendered probes, never from a template's name."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

# What templates use as turn markers when the tokenizer has no token for them: <...> or [...], one or several in a row.
_MARKERS = re.compile(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an answer ends: `text` is all that follows it up to and including `stop`; `added`: the template has none."""

    text: str
    stop: str
    added: bool


def find_ending(tail: str, follow: str | None, *, special: re.Pattern[str], eos: str | None) -> Ending | None:
    """Return how an answer ends; None when neither the template nor `eos` gives a stop.

    `tail` is what follows the answer at the end of a chat, `follow` what stands between it and the next question
    (None when the template refuses one), `special` matches the tokenizer's special tokens.
    """
    token = _first_token(tail, special, eos)
    if token is not None:
        return Ending(text=tail[: token.end()], stop=token.group(), added=False)
    text = _turn_marker(tail, follow)
    if text is not None:
        return Ending(text=text, stop=text.strip(), added=False)
    return None if eos is None else Ending(text=eos, stop=eos, added=True)


def _first_token(tail: str, special: re.Pattern[str], eos: str | None) -> re.Match[str] | None:
    """Return the first special token; where eos follows it at once (end of answer, end of turn), that one."""
    first = special.search(tail)
    if first is None:
        return None
    token: re.Match[str] | None = first
    while token is not None and token.group() != eos:
        token = special.match(tail, token.end())
    return token or first


def _turn_marker(tail: str, follow: str | None) -> str | None:
    """Return the text of a tail up to the end of its first word, if that is a marker of the turn's end."""
    words = tail.split(maxsplit=1)
    if not words:
        return None
    word = words[0]
    if follow is None or not follow.lstrip().startswith(word):
        # The tail may go on with the header of the next answer: keep the markers that every continuation shares.
        pairs = zip(word, (follow or "").lstrip(), strict=False)
        shared = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        marker = _MARKERS.match(shared) or _MARKERS.fullmatch(word)
        if marker is None:
            return None
        word = marker.group()
    return tail[: tail.index(word) + len(word)]


def find_call_stop(tail: str, ending: Ending, special: re.Pattern[str]) -> str | None:
    """Return the stop of a tool call from what follows its arguments; None when it is that of an answer.

    Where an answer's stop is not in `tail`, some templates end a call with a token of its own.
    """
    if ending.added or ending.stop in tail:
        return None
    tokens = special.findall(tail)
    if tokens:
        return tokens[-1]
    marker = re.search(r"<\|?[^<>\s/]+\|?>$", tail.rstrip())
    return marker.group() if marker is not None else None
