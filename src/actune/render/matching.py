"""Finding values in rendered text, however a template writes them: as they are, as JSON, or as Python prints them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from actune.core.types import ToolCall
from actune.render.readback import allows_null

# Texts up to this length might stand inside another word by chance, so they must stand alone.
_SHORT = 16
_ESCAPED = frozenset("\"'\\")


def find_text(text: str, part: str, start: int = 0) -> int | None:
    """Return the end of the first place of `part` at or after `start`, as it is or as JSON writes it."""
    if len(part) <= _SHORT:
        return find_word(text, part, start)
    place = text.find(part, start)
    end = None if place < 0 else place + len(part)
    for form in _forms(part)[1:]:
        at = text.find(form, start, end)
        if at >= 0:
            end = at + len(form)
    return end


def find_plain(text: str, content: str, start: int = 0) -> int | None:
    """As `find_text`, the part without blanks around it and as it is."""
    part = content.strip()
    if len(part) <= _SHORT:
        return find_word(text, part, start)
    place = text.find(part, start)
    return None if place < 0 else place + len(part)


def find_word(text: str, part: str, start: int = 0) -> int | None:
    """As `find_text`, not inside a longer word or number."""
    ends = [end for form in _forms(part) if (end := _find_alone(text, form, start)) is not None]
    return min(ends, default=None)


def find_value(text: str, content: str, start: int = 0) -> int | None:
    """As `find_text`; blanks around may be trimmed, and JSON may be in another layout (some templates dump it again)."""
    end = find_text(text, content, start)
    if end is None:
        end = find_text(text, content.strip(), start)
    if end is not None:
        return end
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    end = _find_leaves(text, list(_leaves(value, ordered=True)), start)
    return end if end is not None else _find_leaves(text, list(_leaves(value, ordered=False)), start)


def find_call(text: str, call: ToolCall, start: int, schema: Mapping[str, Any]) -> int | None:
    """Return where a call ends at or after `start`: its name, and every key followed by its value.

    Keys may be sorted, the name may follow the arguments, and a null may be left out where the schema allows null.

    Raises:
        DataError: when the arguments are no JSON object.
    """
    arguments = call.parse_arguments()
    lean = {key: value for key, value in arguments.items() if value is not None or not allows_null(schema, key)}
    name_end = find_word(text, call.name, start)
    if name_end is None:
        return None
    ends = []
    for values in (arguments, lean) if lean != arguments else (arguments,):
        for ordered in (True, False):
            leaves = list(_leaves(values, ordered=ordered))
            end = _find_leaves(text, leaves, name_end)
            if end is None:
                before = _find_leaves(text, leaves, start)
                end = None if before is None else find_word(text, call.name, before)
            if end is not None:
                ends.append(end)
        if ends:  # keys in the wrong order may be found across two calls, further on
            return min(ends)
    return None


def _leaves(value: Any, *, ordered: bool) -> Iterator[Any]:  # noqa: ANN401 - any JSON value
    """Yield keys and leaf values in the order of the text; with `ordered` False, keys sorted."""
    if isinstance(value, Mapping):
        keys = value if ordered else sorted(value, key=str)
        for key in keys:
            yield str(key)
            yield from _leaves(value[key], ordered=ordered)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item, ordered=ordered)
    elif value != "":
        yield value


def _find_leaves(text: str, leaves: Sequence[Any], start: int) -> int | None:
    """Return the end of the last leaf when all stand in the text one after the other; the earliest places do."""
    place = start
    for leaf in leaves:
        end = find_word(text, leaf, place) if isinstance(leaf, str) else _find_literal(text, leaf, place)
        if end is None:
            return None
        place = end
    return place


def _find_literal(text: str, leaf: Any, start: int) -> int | None:  # noqa: ANN401 - number, bool or None
    forms = dict.fromkeys([json.dumps(leaf), repr(leaf)])
    ends = [end for form in forms if (end := _find_alone(text, form, start)) is not None]
    return min(ends, default=None)


def _find_alone(text: str, part: str, start: int) -> int | None:
    at = text.find(part, start)
    while at >= 0:
        end = at + len(part)
        joined = _joined(text[at - 1 : at], part[:1]) or _joined(part[-1:], text[end : end + 1])
        if not joined and not (_is_number(part) and _continues(text, at, end)):
            return end
        at = text.find(part, at + 1)
    return None


def _joined(left: str, right: str) -> bool:
    """Whether two characters belong to one word; only ASCII letters count: other scripts write without blanks."""
    return _is_word(left) and _is_word(right)


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def _is_number(part: str) -> bool:
    return part[-1:].isdigit() and part.lstrip("-")[:1].isdigit()


def _continues(text: str, at: int, end: int) -> bool:
    """Whether a number goes on to the left (-1, 0.1) or to the right (1.5)."""
    left, right = text[max(at - 2, 0) : at], text[end : end + 2]
    return left[-1:] == "-" or (left[-1:] == "." and left[:1].isdigit()) or (right[:1] == "." and right[1:].isdigit())


@lru_cache(maxsize=4096)
def _forms(part: str) -> tuple[str, ...]:
    """Return the ways to write a text, the plain one first."""
    if part.isascii() and part.isprintable() and not _ESCAPED.intersection(part):
        return (part,)
    readable, escaped = json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]
    return tuple(dict.fromkeys([part, readable, escaped, repr(part)[1:-1]]))
