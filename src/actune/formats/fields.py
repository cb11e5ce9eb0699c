"""What the formats have in common: reading typed values out of a raw row, with errors that name the place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actune.core.errors import DataError
from actune.core.types import Message


@dataclass(frozen=True, slots=True)
class Placed:
    """A message and its place in the raw row (`messages[2]`), so that errors found later can name it."""

    message: Message
    place: str


def kind(value: object) -> str:
    """Return the JSON name of a value's type, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else type(value).__name__


def shorten(text: str, limit: int = 80) -> str:
    """Return `text` quoted, cut to `limit` characters, for messages."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def read_text(value: object, place: str) -> str:
    """Return a value that has to be a string.

    Raises:
        DataError: code `content-type`.
    """
    if isinstance(value, str):
        return value
    raise DataError(
        f"{place} is {kind(value)}, not a string", code="content-type", field=place, fix=f"make {place} a string"
    )


def read_optional_text(row: Mapping[str, Any], key: str, place: str | None = None) -> str:
    """Return `row[key]`, or "" where the key is absent or null."""
    value = row.get(key)
    return "" if value is None else read_text(value, place or key)


def read_system_key(row: Mapping[str, Any]) -> list[Placed]:
    """Return the system message that stands in a key of its own, as a list of one or none."""
    text = read_optional_text(row, "system")
    return [Placed(Message(role="system", content=text), "system")] if text else []


def read_items(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the messages of a row: `row[key]`, a list of at least one object.

    Raises:
        DataError: code `messages-missing`, `messages-empty` or `message-not-object`.
    """
    value = row.get(key)
    if not isinstance(value, (list, tuple)):
        what = (
            f"is {kind(value)}" if key in row else f"is missing (the row has {', '.join(map(repr, row)) or 'no keys'})"
        )
        raise DataError(
            f"{key!r} {what}; a list of messages is needed",
            code="messages-missing",
            field=key,
            fix=f"give each row a list {key!r}, or name the right format with --format",
        )
    if not value:
        raise DataError(
            f"{key!r} is empty", code="messages-empty", field=key, fix="remove the row, or give it messages"
        )
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise DataError(
                f"{key}[{index}] is {kind(item)}, not an object",
                code="message-not-object",
                field=f"{key}[{index}]",
                fix="make each message an object with a role and a content",
            )
    return list(value)


def speakers(row: Mapping[str, Any], key: str, role_key: str) -> frozenset[str]:
    """Return the roles that occur in `row[key]`; empty where that is no list of messages with roles."""
    items = row.get(key)
    if not isinstance(items, (list, tuple)):
        return frozenset()
    roles = [item.get(role_key) if isinstance(item, Mapping) else None for item in items]
    found = frozenset(role for role in roles if isinstance(role, str))
    return found if all(isinstance(role, str) for role in roles) else frozenset()


def read_role(item: Mapping[str, Any], key: str, place: str, roles: Mapping[str, str]) -> str:
    """Return the role of a message, translated by `roles`.

    Raises:
        DataError: code `role-unknown`.
    """
    value = item.get(key)
    role = roles.get(value) if isinstance(value, str) else None
    if role is None:
        shown = f"is {value!r}" if key in item else "is missing"
        raise DataError(
            f"{place}.{key} {shown}; known here: {', '.join(roles)}",
            code="role-unknown",
            field=f"{place}.{key}",
            fix="correct it, or name the right format with --format",
        )
    return role


def read_flags(item: Mapping[str, Any], place: str, *, assistant: bool) -> tuple[bool, float]:
    """Return (train, weight) of a message: keys `train` and `loss` (booleans) and `weight` (a number >= 0).

    Raises:
        DataError: code `train-flag` for a wrong type or value, `train-on-input` when a message that the model does
            not write is marked for training.
    """
    train, weight = True, 1.0
    marked = False
    for key in ("train", "loss", "weight"):
        value = item.get(key)
        if value is None:
            continue
        if key == "weight":
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            good = good and math.isfinite(value) and value >= 0
            weight = float(value) if good else 1.0
        else:
            good = isinstance(value, bool)
            train = train and bool(value)
        if not good:
            needed = "a number >= 0" if key == "weight" else "true or false"
            raise DataError(
                f"{place}.{key} is {value!r}; {needed} is needed",
                code="train-flag",
                field=f"{place}.{key}",
                fix=f"make it {needed}, or remove it",
            )
        marked = marked or bool(value)
    if assistant:
        return train, weight
    if marked:
        raise DataError(
            f"{place} is marked for training, but the model does not write it",
            code="train-on-input",
            field=place,
            fix="remove train, loss and weight from messages that are not the assistant's",
        )
    return True, 1.0


def write_flags(message: Message) -> dict[str, Any]:
    """Return the keys that `read_flags` reads; none for a message that is trained as usual."""
    return ({} if message.train else {"loss": False}) | ({} if message.weight == 1 else {"weight": message.weight})


def cannot_hold(what: str, field: str, fix: str) -> DataError:
    """Return the error of a writer whose format has no place for something of a conversation."""
    return DataError(f"{what}, which this format cannot hold", code="format-cannot-hold", field=field, fix=fix)


def read_id(row: Mapping[str, Any]) -> str | None:
    """Return the row's id as text; None where it has none."""
    value = row.get("id")
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
