"""The last step of every reader: placed messages to a checked Conversation, ReAct text split into steps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from actune.core import api_list, react
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.formats.fields import Placed, read_id

CALL_LINE = re.compile(r"^Action:", re.MULTILINE)
_OBSERVATION_LINE = re.compile(r"^Observation:", re.MULTILINE)


def assemble(
    placed: Sequence[Placed],
    row: Mapping[str, Any],
    source: Source,
    *,
    tools: tuple[ToolSpec, ...] = (),
    repairs: Sequence[str] = (),
    exact: bool = False,
) -> Conversation:
    """Return the conversation of a row, checked.

    A row without a tool list of its own whose system text has an API block is ReAct text: the block becomes the tools
    and each assistant text is split into steps. `exact` is for formats that can be written back byte for byte: they
    refuse what would not come back as it was.

    Raises:
        DataError: what is wrong, with a stable code and the place in the row.
    """
    system = placed[0] if placed and placed[0].message.role == "system" else None
    block = None
    if not tools and system is not None:
        try:
            block = _read_block(system.message.content)
        except DataError as error:
            raise _at(error, system.place) from None
    if block is None:
        if tools or exact:
            for item in placed:
                _refuse_text_calls(item, strict=exact)
        else:
            placed = _part_observations(placed)
        check(placed, tools)
        return Conversation(
            messages=tuple(item.message for item in placed),
            tools=tools,
            source=source,
            id=read_id(row),
            repairs=tuple(repairs),
        )
    steps = _split_turns(placed, exact=exact)
    if system is not None:
        steps[0] = Placed(replace(system.message, content=block.api.system), system.place)
    check(steps, block.api.tools)
    messages = [item.message for item in steps]
    if not block.api.system:
        del messages[0]
    return Conversation(
        messages=tuple(messages),
        tools=block.api.tools,
        style="react" if block.api.language == "en" else "react_zh",
        source=source,
        id=read_id(row),
        system_source=block.source,
        repairs=(*repairs, *block.repairs),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    api: api_list.ApiBlock
    source: str | None
    repairs: tuple[str, ...]


@lru_cache(maxsize=256)  # data sets repeat a few system texts in all their rows
def _read_block(text: str) -> _Block | None:
    api = api_list.read_system(text)
    if api is None:
        return None
    source = None if api_list.write_system(api.system, api.tools, api.language) == text else text
    repairs = tuple(f"tool {name}: parameter list with unescaped quotes" for name in api.repaired)
    return _Block(api, source, repairs)


def _split_turns(placed: Sequence[Placed], *, exact: bool) -> list[Placed]:
    steps: list[Placed] = []
    for item in placed:
        message = item.message
        open_call = bool(steps) and bool(steps[-1].message.tool_calls)
        if message.role == "assistant" and not message.tool_calls:
            steps.extend(_split_turn(item))
        elif message.role == "user" and open_call and message.content.startswith(react.STOP_WORD):
            if exact:
                raise DataError(
                    f"{item.place} is an Observation in a turn of the user",
                    code="observation-in-user-turn",
                    field=item.place,
                    fix="move 'Observation: ...' into the assistant value, straight after its Action Input",
                )
            content = message.content.removeprefix(react.STOP_WORD).removeprefix(" ")
            steps.append(Placed(Message(role="tool", content=content), item.place))
        else:
            steps.append(item)
    return steps


def _split_turn(item: Placed) -> list[Placed]:
    message = item.message
    try:
        parts = react.read_turn(message.content)
    except DataError as error:
        raise _at(error, item.place) from None
    if message.reasoning:
        if parts[0].reasoning or len(parts) > 1:
            raise DataError(
                f"{item.place} has reasoning beside ReAct text",
                code="reasoning-twice",
                field=item.place,
                fix="keep the reasoning either in its own key or as a Thought",
            )
        parts[0] = replace(parts[0], reasoning=message.reasoning, source_text=None)
    if not message.train or message.weight != 1:
        parts = [
            replace(part, train=message.train, weight=message.weight) if part.role == "assistant" else part
            for part in parts
        ]
    return [Placed(part, item.place) for part in parts]


# --- ReAct text without an API list -----------------------------------------------------------------------------------


def _refuse_text_calls(item: Placed, *, strict: bool) -> None:
    """Refuse ReAct text where calls belong elsewhere: read as plain chat, its observations would be trained."""
    message = item.message
    call = CALL_LINE.search(message.content) if message.role == "assistant" else None
    if call is not None and (strict or _OBSERVATION_LINE.search(message.content, call.end()) is not None):
        raise _tools_missing(item)


def _part_observations(placed: Sequence[Placed]) -> list[Placed]:
    """Return messages with the observations of text like FireAct's as turns of the user, so that none is trained.

    `Action: search[...]` holds name and input in one line and needs no list of tools to be read as plain text. Text with
    `Action Input:` does: its tools would be missing.

    Raises:
        DataError: code `tools-missing`, `observation-without-action` or `observation-as-answer`.
    """
    spoken = [item.message.content for item in placed if item.message.role == "assistant"]
    if not any("Action:" in text and CALL_LINE.search(text) for text in spoken):
        return list(placed)
    parted: list[Placed] = []
    for item in placed:
        if item.message.role != "assistant":
            parted.append(item)
        elif _OBSERVATION_LINE.match(item.message.content):
            raise DataError(
                f"{item.place} is an Observation, which comes from outside, as an answer of the assistant",
                code="observation-as-answer",
                field=item.place,
                fix="give it the role of the user, or remove the row",
            )
        else:
            parted += _part(item)
    return parted


def _part(item: Placed) -> list[Placed]:
    """Return the steps of one answer, each followed by its observation as a turn of the user."""
    message = item.message
    try:
        parts = react.part_steps(message.content)
    except DataError as error:
        raise _tools_missing(item) if error.code == "tools-missing" else _at(error, item.place) from None
    if len(parts) == 1:
        return [item]
    steps: list[Placed] = []
    for number, text in enumerate(parts):
        if number % 2:
            steps.append(Placed(Message(role="user", content=text), item.place))
        else:
            reasoning = message.reasoning if number == 0 else ""
            steps.append(Placed(replace(message, content=text, reasoning=reasoning), item.place))
    return steps


def _tools_missing(item: Placed) -> DataError:
    return DataError(
        f"{item.place} calls a tool in its text ('Action:' at a line start), but no API list stands in the system text",
        code="tools-missing",
        field=item.place,
        fix="put the API list into the system text (docs/formats.md shows it), or remove the row",
    )


def _at(error: DataError, place: str) -> DataError:
    return DataError(f"{place}: {error.message}", code=error.code, field=place, fix=error.fix)


# --- rules that hold for every format ---------------------------------------------------------------------------------


def check(placed: Sequence[Placed], tools: Sequence[ToolSpec]) -> None:
    """Check the order of roles, and that calls and results belong together.

    A last message that is not the assistant's is allowed: it simply has no target after it.

    Raises:
        DataError: code `system-twice`, `system-late`, `call-without-result`, `result-without-call`, `tool-call-id`,
            `unknown-tool`, `answer-empty` or `no-assistant`.
    """
    names = [tool.name for tool in tools]
    open_calls: list[ToolCall] = []
    results = 0  # since the last call
    for index, item in enumerate(placed):
        message = item.message
        if message.role == "tool":
            open_calls = _close_call(item, open_calls)
            results += 1
            continue
        # Without ids, one message may hold the results of several parallel calls.
        if open_calls and (results == 0 or open_calls[0].id is not None):
            raise DataError(
                f"{item.place}: the call of {open_calls[0].name!r} before it has no result",
                code="call-without-result",
                field=item.place,
                fix="put the tool's result straight after the call",
            )
        if message.role == "system" and index > 0:
            twice = placed[0].message.role == "system"
            raise DataError(
                f"{item.place} is a {'second ' if twice else ''}system message; it may only stand first",
                code="system-twice" if twice else "system-late",
                field=item.place,
                fix="keep one system message, at the beginning",
            )
        if message.role == "assistant":
            _check_assistant(item, names)
        open_calls, results = list(message.tool_calls), 0
    if not any(item.message.role == "assistant" for item in placed):
        raise DataError(
            "the row has no assistant message, so there is nothing to train",
            code="no-assistant",
            fix="add the answer, or remove the row",
        )


def _close_call(item: Placed, open_calls: list[ToolCall]) -> list[ToolCall]:
    if not open_calls:
        raise DataError(
            f"{item.place} is a tool result without a call before it",
            code="result-without-call",
            field=item.place,
            fix="put the call before its result, or remove the result",
        )
    wanted = item.message.tool_call_id
    ids = [call.id for call in open_calls]
    if wanted is None or None in ids:
        return open_calls[1:]
    if wanted not in ids:
        raise DataError(
            f"{item.place}.tool_call_id is {wanted!r}; open calls: {', '.join(map(repr, ids))}",
            code="tool-call-id",
            field=f"{item.place}.tool_call_id",
            fix="use the id of the call that the result belongs to",
        )
    place = ids.index(wanted)
    return open_calls[:place] + open_calls[place + 1 :]


def _check_assistant(item: Placed, names: list[str]) -> None:
    message = item.message
    if not (message.content.strip() or message.reasoning or message.tool_calls):
        raise DataError(
            f"{item.place} is an empty answer",
            code="answer-empty",
            field=item.place,
            fix="fill it in or remove the row",
        )
    for call in message.tool_calls:
        if names and call.name not in names:
            near = difflib.get_close_matches(call.name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise DataError(
                f"{item.place} calls {call.name!r}, which is not among the tools of the row ({shown})",
                code="unknown-tool",
                field=item.place,
                fix=f"{hint}correct the name, or add the tool to the list",
            )
