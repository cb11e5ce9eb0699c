"""What a metric reads: the output of a model and the gold of an item, from their stored JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from actune.core.errors import DataError
from actune.core.types import ToolCall

MALFORMED = "output-malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A generated output: `calls` is empty and `error` set when it was neither a call nor an answer.

    `answer` is None where the output calls a tool; of an output that was cut it is what there is.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCall:
    """A call that should be made."""

    name: str
    arguments: Mapping[str, Any]


def read_output(stored: object) -> Output:
    """Return a stored output; whatever is not of its form is an output with an error, never an exception."""
    if not isinstance(stored, Mapping):
        return Output(text="", error=MALFORMED)
    text, answer, error = stored.get("text"), stored.get("answer"), stored.get("error")
    listed = stored.get("calls") or []
    calls: list[ToolCall] = []
    broken = not isinstance(listed, (list, tuple))
    for call in [] if broken else listed:
        name = call.get("name") if isinstance(call, Mapping) else None
        arguments = call.get("arguments") if isinstance(call, Mapping) else None
        if isinstance(name, str) and isinstance(arguments, str):
            calls.append(ToolCall(name=name, arguments=arguments))
        else:
            broken = True
    if broken or not isinstance(text, str):
        error = error or MALFORMED
    return Output(
        text=text if isinstance(text, str) else "",
        calls=() if error else tuple(calls),
        answer=answer if isinstance(answer, str) else None,
        error=str(error) if error else None,
    )


def read_arguments(call: ToolCall) -> dict[str, Any] | None:
    """Return the arguments a model wrote (JSON, else a Python literal), None when they are unreadable."""
    try:
        return call.parse_arguments()
    except DataError:
        return None


def gold_calls(gold: object) -> tuple[GoldCall, ...]:
    """Return the gold calls, none where the gold is an answer.

    Raises:
        DataError: code `gold-unreadable`.
    """
    kept = gold_mapping(gold)
    if "calls" not in kept:
        gold_text(kept, "answer")
        return ()
    listed = kept["calls"]
    if not isinstance(listed, (list, tuple)) or not listed or "answer" in kept:
        refuse("it holds either calls or an answer", "calls")
    calls = []
    for number, call in enumerate(listed):
        where = f"calls[{number}]"
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            refuse("a call has no name", where)
        arguments = call.get("arguments")
        if not isinstance(arguments, Mapping) or not is_json(arguments):
            refuse("the arguments are no JSON object of finite values", f"{where}.arguments")
        calls.append(GoldCall(name=call["name"], arguments=arguments))
    return tuple(calls)


def gold_mapping(gold: object) -> Mapping[str, Any]:
    """Return a gold as an object.

    Raises:
        DataError: code `gold-unreadable`.
    """
    if not isinstance(gold, Mapping):
        refuse("it is no object", "")
    return gold


def gold_text(gold: object, key: str) -> str:
    """Return a text of a gold.

    Raises:
        DataError: code `gold-unreadable`.
    """
    value = gold_mapping(gold).get(key)
    if not isinstance(value, str):
        refuse(f"no text under {key!r}", key)
    return value


def gold_texts(gold: object, key: str) -> tuple[str, ...]:
    """Return a list of texts of a gold; empty when the key is absent.

    Raises:
        DataError: code `gold-unreadable`.
    """
    value = gold_mapping(gold).get(key, ())
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        refuse(f"no list of texts under {key!r}", key)
    return tuple(value)


def gold_schemas(gold: object) -> Mapping[str, Any]:
    """Return the JSON schemas of the offered tools by name.

    Raises:
        DataError: code `gold-unreadable`.
    """
    tools = gold_mapping(gold).get("tools")
    if not isinstance(tools, Mapping) or not all(isinstance(schema, Mapping) for schema in tools.values()):
        refuse("no object of tool names and their JSON schemas under 'tools'", "tools")
    return tools


def gold_tool_names(gold: object) -> frozenset[str]:
    """Return the names of the offered tools: a list, or the keys of the schemas.

    Raises:
        DataError: code `gold-unreadable`.
    """
    tools = gold_mapping(gold).get("tools")
    if not isinstance(tools, (list, tuple, Mapping)) or not all(isinstance(name, str) for name in tools):
        refuse("no names of tools under 'tools'", "tools")
    return frozenset(tools)


def refuse(what: str, field: str) -> NoReturn:
    """Raise the error of a gold that cannot be read; it is never left out of a score."""
    raise DataError(
        f"the gold of an item cannot be read: {what}",
        code="gold-unreadable",
        field=field or None,
        fix="correct the row that the item was made from, or take it out of the task's data",
    )


def is_json(value: object) -> bool:
    """Whether a value can be written as JSON: finite numbers, texts, lists, objects with text keys."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, float):
            if not math.isfinite(part):
                return False
        elif isinstance(part, Mapping):
            if not all(isinstance(key, str) for key in part):
                return False
            stack.extend(part.values())
        elif isinstance(part, Sequence) and not isinstance(part, (str, bytes)):
            stack.extend(part)
        elif part is not None and not isinstance(part, (str, int)):
            return False
    return True
