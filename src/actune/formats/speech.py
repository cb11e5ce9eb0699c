"""Rows that write calls as messages of their own (`function_call`, `tool_call`): joined to one assistant message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from actune.core.errors import DataError
from actune.core.types import Message
from actune.formats.fields import Placed, read_flags
from actune.formats.tools import read_calls


def append_calls(placed: list[Placed], item: Mapping[str, Any], key: str, place: str, repairs: list[str]) -> None:
    """Append the calls in `item[key]`: to the assistant message straight before, else as a message of their own.

    Calls in a row, and a text followed by a call, are one answer of the model, so they are one message.

    Raises:
        DataError: see `read_calls`; code `train-flag` when parts of one answer differ in training weight.
    """
    train, weight = read_flags(item, place, assistant=True)
    calls = read_calls(item.get(key), f"{place}.{key}", repairs)
    last = placed[-1].message if placed else None
    if last is None or last.role != "assistant":
        placed.append(Placed(Message(role="assistant", tool_calls=calls, train=train, weight=weight), place))
        return
    if (last.train, last.weight) != (train, weight):
        raise DataError(
            f"{place} and the message before it are one answer, but differ in train, loss or weight",
            code="train-flag",
            field=place,
            fix="give both the same values",
        )
    placed[-1] = Placed(replace(last, tool_calls=last.tool_calls + calls), placed[-1].place)
