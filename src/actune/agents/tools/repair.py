"""Arguments that are no JSON, mended where nothing of them is lost: kind to the model, and never silent.

What comes out is only used for the call; the conversation keeps the model's own text, and metrics read that one.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

from actune.core.values import read_value

LONGEST = 32_768
# Lines of its own code that json_repair may run, one to three seconds. Broken text of 32 KB takes up to three million; on
# hostile text of that length its work grows with the square.
_WORK = 4_000_000
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_BLANK = re.compile(r"\\[nrtbf]")
# What a repair may add or leave out: the marks of JSON, quotes of any kind, blanks.
_MARKS = re.compile(r"[\s{}\[\],:;\"'“”‘’`\\]+")
_MARKER = re.compile(r"</|<\||\[/")
_LITERALS = {"None": "null", "True": "true", "False": "false"}
_LITERAL = re.compile(r"\b(?:None|True|False)\b")


def repair_arguments(text: str) -> dict[str, Any] | None:
    """Return the object that a text was meant to be, None where that is not certain.

    Missing or misplaced brackets, commas and quotes are mended, text around the one object (a code fence, say) is left
    out, and an object written as the text of a text is read. Every letter and digit of the object must be in the
    result, in the same order: json_repair alone would drop what it does not understand (`{"a": 5 km}`, a key that
    stands twice). A text longer than `LONGEST` characters is not tried.
    """
    if len(text) > LONGEST:
        return None
    inner = read_value(text)
    if isinstance(inner, str):
        value = read_value(inner)
        return value if _is_object(value) else None
    if inner is not None:
        return None  # it is JSON, only no object
    value = _mend(text)
    if not _is_object(value):
        return None
    leaves = list(_write_leaves(value))
    if leaves.count("") > text.count('""') + text.count("''") or not (value or "}" in text):
        return None  # json_repair puts an empty text where a value is missing
    kept = _MARKS.sub("", "".join(leaves))
    start, end = text.find("{"), text.rfind("}")
    bodies = [text[start:], text[start : end + 1]] if end > start else [text[start:]]
    return value if start >= 0 and kept in [_strip(body) for body in bodies] else None


def repair_calls(text: str) -> tuple[str, tuple[int, ...]] | None:
    """Return an output with the objects in it mended, and which of them (from 0) were; None where none needs it.

    For the calls of chat templates that are objects between markers. An object begins at a brace and ends before the next
    marker (`</`, `<|`, `[/`) or at the end of the output; each is mended as arguments are, or stays as it is.
    """
    if len(text) > LONGEST:
        return None
    parts: list[str] = []
    mended: list[int] = []
    at = number = 0
    while (start := text.find("{", at)) >= 0:
        marker = _MARKER.search(text, start)
        end = marker.start() if marker is not None else len(text)
        body = text[start:end]
        value = None if isinstance(_read_json(body), dict) else _read_or_repair(body)
        if value is not None:
            body = json.dumps(value, ensure_ascii=False) + "\n"
            mended.append(number)
        parts += [text[at:start], body]
        at, number = end, number + 1
    return ("".join(parts) + text[at:], tuple(mended)) if mended else None


def _read_or_repair(body: str) -> dict[str, Any] | None:
    value = read_value(body)
    return value if _is_object(value) else repair_arguments(body)


def _read_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of a text, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mend(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return what json_repair makes of a text, None where it fails or needs more than `_WORK` calls."""
    from json_repair import repair_json

    left = _WORK

    def count(*_: object) -> Any:  # noqa: ANN401 - it gives itself, as trace functions do
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooMuchError
        return count

    before = sys.gettrace()
    sys.settrace(
        count
    )  # of this thread; json_repair has no budget of its own, and a clock decides differently each time
    try:
        return repair_json(text, return_objects=True, skip_json_loads=True)
    except (_TooMuchError, ValueError, RecursionError, TypeError, IndexError, AttributeError):
        return None
    finally:
        sys.settrace(before)


class _TooMuchError(Exception):
    """A text takes more work than it is worth."""


def _strip(text: str) -> str:
    """Return what a text says beside the marks of JSON, escapes resolved."""
    text = _BLANK.sub("", text.replace("\\\\", "\\ "))
    text = _UNICODE.sub(lambda match: chr(int(match.group(1), 16)), text)
    return _MARKS.sub("", _LITERAL.sub(lambda match: _LITERALS[match.group()], text))


def _write_leaves(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        for key, item in value.items():
            yield _LITERAL.sub(lambda match: _LITERALS[match.group()], key)
            yield from _write_leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _write_leaves(item)
    elif isinstance(value, str):
        yield _LITERAL.sub(lambda match: _LITERALS[match.group()], value)
    else:
        yield json.dumps(value)


def _is_object(value: Any) -> bool:  # noqa: ANN401 - any value
    """Whether it is an object that JSON can hold and UTF-8 can write."""
    if not isinstance(value, dict):
        return False
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            stack += [*part, *part.values()]
        elif isinstance(part, list):
            stack += part
        elif not _can_be_written(part):
            return False
    return True


def _can_be_written(value: Any) -> bool:  # noqa: ANN401 - a number, text or literal
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)
