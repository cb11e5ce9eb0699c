"""Repairs that cannot change what a row says: another writing of the same arguments, ids that the order gives already.

What is not certain is left as it is and stays a finding: a key that stands twice, a value of another type, a name that is
nearly right.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actune.core import react
from actune.core.conversion import new_call_id
from actune.core.errors import DataError
from actune.core.json_text import DuplicateKeyError, read_json, write_json
from actune.core.types import Conversation, Message, ToolCall
from actune.data.checks.calls import Violation, find_violations, read_arguments
from actune.data.checks.tools import Offer, has_no_parameters, read_offer, write_path
from actune.data.checks.turns import list_results, miss_ids

_LAYERS = 3
"""Texts within texts that are undone at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One repair: the code of what it mends, its place, and the text before and after.

    `before` is None for what was not there, `after` for what is there no more.
    """

    code: str
    field: str
    before: str | None
    after: str | None


def repair_row(conversation: Conversation) -> tuple[Conversation, tuple[Repair, ...]]:
    """Return a row with all safe repairs, and the list of them; the same row and none where there is nothing to do."""
    offer = read_offer(conversation.tools)
    messages = list(conversation.messages)
    done: list[Repair] = []
    for index, message in enumerate(messages):
        if message.tool_calls:
            messages[index] = _repair_calls(message, f"messages[{index}]", offer, done)
    if conversation.style == "chat":
        for index, message in enumerate(messages):
            if message.tool_calls:
                _fill_ids(messages, index, done)
    return (replace(conversation, messages=tuple(messages)), tuple(done)) if done else (conversation, ())


# --- arguments --------------------------------------------------------------------------------------------------------


def _repair_calls(message: Message, place: str, offer: Offer, done: list[Repair]) -> Message:
    calls: list[ToolCall] = []
    found: list[Repair] = []
    for number, call in enumerate(message.tool_calls):
        text, repairs = _repair_arguments(call, f"{place}.tool_calls[{number}].arguments", offer)
        calls.append(replace(call, arguments=text) if repairs else call)
        found += repairs
    if not found:
        return message
    repaired = replace(message, tool_calls=tuple(calls))
    if message.source_text is not None:
        rewritten = _rewrite_source(message, repaired)
        if rewritten is None:
            return message
        repaired = rewritten
    done += found
    return repaired


def _rewrite_source(message: Message, repaired: Message) -> Message | None:
    """Return a step of ReAct text with other arguments in the source's own layout, None where that is not possible."""
    before, after = message.tool_calls[0].arguments, repaired.tool_calls[0].arguments
    head, found, tail = str(message.source_text).rpartition(before)
    if not found or len(message.tool_calls) != 1:
        return None
    try:
        again = react.read_message(react.parse_step(head + after + tail))
    except DataError:
        return None
    again = replace(again, train=message.train, weight=message.weight)
    return again if replace(again, source_text=None) == replace(repaired, source_text=None) else None


def _repair_arguments(call: ToolCall, field: str, offer: Offer) -> tuple[str, list[Repair]]:
    text, repairs = call.arguments, []
    try:
        value, code = _read_layers(text)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            return text, []
        if code is not None:
            repairs.append(Repair(code=code, field=field, before=text, after=write_json(value)))
        value, mended = _fit_schema(call, value, field, offer)
        repairs += mended
        return (write_json(value), repairs) if repairs else (text, [])
    except (ValueError, RecursionError):  # NaN, which is no JSON
        return text, []


def _read_layers(text: str) -> tuple[Any, str | None]:
    """Return the value of arguments, and the code of what is wrong with their text.

    Raises:
        ValueError: a key stands twice, or a number is none that JSON has; there is no telling what was meant.
    """
    code = None
    for _ in range(_LAYERS):
        value, as_json, twins = read_arguments(text)
        if twins:
            raise DuplicateKeyError(twins[0])
        if as_json:
            value = read_json(text)  # numbers with all their digits
        elif code is None:
            code = "arguments-python-literal"
        if not isinstance(value, str):
            break
        text, code = value, "arguments-encoded-twice"
    return value, code


def _fit_schema(call: ToolCall, value: dict[str, Any], field: str, offer: Offer) -> tuple[dict[str, Any], list[Repair]]:
    """Return arguments without nulls that pad them, and with values in place of their JSON text."""
    if call.name not in offer.tools or has_no_parameters(offer.tools[call.name]):
        return value, []
    parameters = offer.parameters[call.name]
    done: list[Repair] = []
    for code in ("argument-null", "argument-encoded"):
        before = find_violations(parameters, value)
        wanted = [one for one in before if one.code == code and (one.optional or code != "argument-null")]
        mended = copy.deepcopy(value)
        repairs = [_apply(violation, mended, field) for violation in wanted]
        # Only what leaves fewer faults and no other ones was understood.
        rest = {(one.code, one.path) for one in before} - {(one.code, one.path) for one in wanted}
        if {(one.code, one.path) for one in find_violations(parameters, mended)} <= rest:
            value = mended
            done += repairs
    return value, done


def _apply(violation: Violation, value: Any, field: str) -> Repair:  # noqa: ANN401 - any JSON
    *way, last = violation.path
    for part in way:
        value = value[part]
    place = f"{field}{write_path(violation.path)}"
    before = write_json(value[last])
    if violation.code == "argument-null":
        del value[last]
        return Repair(code=violation.code, field=place, before=before, after=None)
    value[last] = violation.value
    return Repair(code=violation.code, field=place, before=before, after=write_json(violation.value))


# --- ids --------------------------------------------------------------------------------------------------------------


def _fill_ids(messages: list[Message], index: int, done: list[Repair]) -> None:
    """Give calls and results of one message the ids that their order says, where some have ids and others none."""
    calls, results = list(messages[index].tool_calls), list_results(messages, index)
    if len(calls) != len(results) or not miss_ids([c.id for c in calls], [r.tool_call_id for r in results]):
        return
    taken = {one for message in messages for one in (message.tool_call_id, *(call.id for call in message.tool_calls))}
    fresh = (one for one in map(new_call_id, range(1 << 20)) if one not in taken)
    pairs = list(_pair(calls, results))
    ids = [calls[number].id or result.tool_call_id or next(fresh) for number, result in pairs]
    agreeing = all(result.tool_call_id in (None, one) for (_, result), one in zip(pairs, ids, strict=True))
    if not agreeing or len(set(ids)) < len(ids):
        return
    for place, ((number, result), one) in enumerate(zip(pairs, ids, strict=True)):
        if calls[number].id is None:
            calls[number] = replace(calls[number], id=one)
            done.append(_given(f"messages[{index}].tool_calls[{number}].id", one))
        if result.tool_call_id is None:
            at = index + 1 + place
            messages[at] = replace(result, tool_call_id=one)
            done.append(_given(f"messages[{at}].tool_call_id", one))
    messages[index] = replace(messages[index], tool_calls=tuple(calls))


def _pair(calls: Sequence[ToolCall], results: Sequence[Message]) -> Iterator[tuple[int, Message]]:
    """Yield each result with the number of its call, as readers pair them: by id, in order where one is missing."""
    open_calls = list(range(len(calls)))
    by_order = any(call.id is None for call in calls)
    for result in results:
        named = [number for number in open_calls if calls[number].id == result.tool_call_id]
        number = open_calls[0] if by_order or result.tool_call_id is None or not named else named[0]
        open_calls.remove(number)
        yield number, result


def _given(field: str, text: str) -> Repair:
    return Repair(code="call-id-missing", field=field, before=None, after=text)
