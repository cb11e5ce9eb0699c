"""JSON text read strictly and written back as it was: no key twice, no NaN, numbers with all their digits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

_MINUS_ZERO = re.compile(r"-0(?![.0-9eE])")


class Written(float):
    """A number whose text is not what Python writes for its value (`1.10`, `1e5`, `-0`, more than 17 digits).

    It is a float in every respect; `write_json` writes `text`.
    """

    __slots__ = ("text",)
    text: str
    made = False
    """Whether this process ever had one: rows without any, which is most, need not be searched for them."""

    def __new__(cls, value: float) -> Written:
        """Return the number without its text, as unpickling and copying make it too."""
        Written.made = True
        return super().__new__(cls, value)


class DuplicateKeyError(ValueError):
    """An object has a key twice; of the two values a reader keeps one, and no reader says which."""

    def __init__(self, key: str) -> None:
        """Store the key that stands twice."""
        super().__init__(f"the key {key!r} stands twice in one object")
        self.key = key


class NotJsonError(ValueError):
    """A number that Python reads and JSON does not have: NaN, Infinity, or one beyond the largest double."""


def read_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text.

    Raises:
        json.JSONDecodeError: it is no JSON.
        DuplicateKeyError, NotJsonError: see there.
        ValueError: an integer of more digits than Python reads (4,300).
        RecursionError: it is nested too deeply.
    """
    return (_DECODER if _MINUS_ZERO.search(text) is None else _EXACT).decode(text)


def make_reader(text: str) -> Callable[[str, int], tuple[Any, int]]:
    """Return what reads values out of a text: given the text and where one begins, the value and where it ends.

    It raises as `read_json`.
    """
    return (_DECODER if _MINUS_ZERO.search(text) is None else _EXACT).raw_decode


def find_end(text: str, place: int) -> int:
    """Return where the JSON value at `place` ends, also of one that `read_json` refuses for a key or number.

    Raises:
        json.JSONDecodeError, RecursionError: there is no JSON value.
    """
    return _LENIENT.raw_decode(text, place)[1]


def write_json(value: object) -> str:
    """Return a value as JSON text, every character as itself, numbers that were read as they were written.

    Raises:
        TypeError: a value that JSON does not have (a date, bytes).
        ValueError: NaN or an infinite number.
        RecursionError: it is nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _write(value) if Written.made and _has_written(value) else text


def _has_written(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_has_written(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_written(item) for item in value)
    return isinstance(value, Written)


def _write(value: object) -> str:
    if isinstance(value, Mapping):
        entries = (f"{json.dumps(key, ensure_ascii=False)}: {_write(item)}" for key, item in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_write(item) for item in value) + "]"
    return value.text if isinstance(value, Written) else json.dumps(value, ensure_ascii=False)


# --- decoders ---------------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return value


def _float(text: str) -> float:
    value = float(text)
    if repr(value) == text:
        return value
    if math.isinf(value):
        raise NotJsonError(f"the number {text[:40]} is beyond what can be computed with")
    written = Written(value)
    written.text = text
    return written


def _int(text: str) -> int | float:
    return _float(text) if text == "-0" else int(text)


def _constant(name: str) -> object:
    raise NotJsonError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_EXACT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant)
_LENIENT = json.JSONDecoder()
