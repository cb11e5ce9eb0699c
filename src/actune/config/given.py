"""What was given for a setting and where, and what is wrong with it."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from actune.config.fields import Leaf

Value = str | int | float | bool | datetime.date | tuple[str, ...] | None

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_NUMBER = re.compile(r"[+-]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a recipe or a command line.

    `place` is `file:line`, a flag, or empty; `line` counts from 1, 0 where there is none. `about` names the settings whose value is unknown because of it: nothing
    more is said about those.
    """

    place: str
    path: str = ""
    message: str
    about: tuple[str, ...] = ()
    line: int = 0

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.path, self.message) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value for a setting, converted to its type, and where it was written; `line` is 0 for a flag."""

    leaf: Leaf
    value: Value
    place: str
    line: int = 0


def read_value(leaf: Leaf, texts: Sequence[str]) -> Value:
    """Convert what was written to the type of the setting; ranges are checked later.

    Args:
        leaf: The setting; `texts` holds any number of values where it takes several, exactly one for the others.
        texts: The words as written, without quotes.

    Raises:
        ValueError: With a message for people.
    """
    if leaf.several:
        return tuple(texts)
    (text,) = texts
    if leaf.nullable and text in ("null", "~", ""):
        return None
    match leaf.kind:
        case "text":
            return text
        case "whole":
            return _read_whole(text)
        case "number":
            return _read_number(text)
        case "switch":
            return _read_switch(text)
        case "choice":
            return _read_choice(text, leaf.choices)
        case "date":
            return _read_date(text)


def _read_whole(text: str) -> int:
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and ("e" in text.lower() or "." in text):
        value = float(text)
        if math.isfinite(value) and value.is_integer():
            return int(value)
    raise ValueError(f"must be a whole number, not {text!r}")


def _read_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"must be a number, not {text!r}")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"is too large for a number: {text!r}")
    return value


def _read_switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise ValueError(f"must be true or false, not {text!r}") from None


def _read_choice(text: str, choices: Sequence[str]) -> str:
    if text in choices:
        return text
    same = [choice for choice in choices if choice.lower() == text.lower()]
    if len(same) == 1:
        return same[0]
    *most, last = choices
    known = f"{', '.join(most)} or {last}" if most else last
    raise ValueError(f"must be {known}, not {text!r}")


def _read_date(text: str) -> datetime.date:
    if _DATE.fullmatch(text):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"is no date: {text!r} ({error})") from None
    raise ValueError(f"must be a date as YYYY-MM-DD, not {text!r}")
