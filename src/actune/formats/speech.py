"""Rows that write calls as messages of their own (`function_call`, `tool_call`): one answer of the model each run.

Such rows have no place for reasoning; it is kept under `reasoning_content` beside the text or call, which readers
that do not know the key leave alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actune.core.conversion import json_arguments
from actune.core.errors import DataError
from actune.core.types import Message
from actune.formats.fields import Placed, cannot_hold, read_flags, read_optional_text
from actune.formats.tools import read_calls

REASONING = "reasoning_content"


def append_calls(placed: list[Placed], item: Mapping[str, Any], key: str, place: str, repairs: list[str]) -> None:
    """Append the calls in `item[key]`: to the assistant message straight before, else as a message of their own.

    Calls in a row, and a text followed by a call, are one answer of the model, so they are one message.

    Raises:
        DataError: see `read_calls`; code `train-flag` when parts of one answer differ in training weight.
    """
    train, weight = read_flags(item, place, assistant=True)
    calls = read_calls(item.get(key), f"{place}.{key}", repairs)
    reasoning = read_optional_text(item, REASONING, f"{place}.{REASONING}")
    last = placed[-1].message if placed else None
    if last is None or last.role != "assistant":
        message = Message(role="assistant", reasoning=reasoning, tool_calls=calls, train=train, weight=weight)
        placed.append(Placed(message, place))
        return
    if (last.train, last.weight) != (train, weight):
        raise DataError(
            f"{place} and the message before it are one answer, but differ in train, loss or weight",
            code="train-flag",
            field=place,
            fix="give both the same values",
        )
    if reasoning and last.reasoning:
        raise DataError(
            f"{place} and the message before it are one answer, and both have reasoning",
            code="reasoning-twice",
            field=f"{place}.{REASONING}",
            fix="keep it beside the first of them",
        )
    joined = replace(last, reasoning=last.reasoning or reasoning, tool_calls=last.tool_calls + calls)
    placed[-1] = Placed(joined, placed[-1].place)


def write_call_texts(messages: Sequence[Message], index: int) -> list[str]:
    """Return each call of `messages[index]` as the JSON text `{"name", "arguments"}`; calls and results pair by order.

    Raises:
        DataError: code `arguments-unreadable`; `format-cannot-hold` for results in another order than their calls, and
            for calls after an answer without the user's turn between them, which would be read as one message.
    """
    message = messages[index]
    place = f"messages[{index}]"
    if message.tool_calls and not message.content and index and messages[index - 1].role == "assistant":
        raise cannot_hold("calls straight after an answer", place, "join the two messages, or write the row as openai")
    wanted = [call.id for call in message.tool_calls]
    for number, call_id in enumerate(wanted):
        after = index + 1 + number
        if after >= len(messages) or messages[after].role != "tool":
            break
        given = messages[after].tool_call_id
        if given is not None and call_id is not None and given != call_id:
            raise cannot_hold(
                "results in another order than their calls",
                f"messages[{after}].tool_call_id",
                "put the results in the order of the calls, or write the row as openai",
            )
    texts = []
    for number, call in enumerate(message.tool_calls):
        arguments = json_arguments(call, f"{place}.tool_calls[{number}].arguments")
        texts.append(f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {arguments}}}')
    return texts
