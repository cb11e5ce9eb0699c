"""`openai`: `messages` with tool_calls and results, `tools`; content as a string, null or typed blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actune.core.conversion import new_call_id
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall
from actune.formats.assemble import assemble
from actune.formats.blocks import is_anthropic, read_content
from actune.formats.fields import (
    Placed,
    read_flags,
    read_items,
    read_optional_text,
    read_role,
    read_system_key,
    read_text,
    speakers,
)
from actune.formats.tools import read_calls, read_tools

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `messages` whose roles are all known here."""
    roles = speakers(row, "messages", "role")
    return bool(roles) and roles <= _ROLES.keys() and not is_anthropic(row)


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DataError: what is wrong, with the place in the row (`messages[2].tool_calls[0].function.arguments`).
    """
    repairs: list[str] = []
    key = "tools" if row.get("tools") is not None else "functions"
    tools = read_tools(row.get(key), key, repairs)
    placed = [] if row.get("system") is None else read_system_key(row)
    placed += [
        Placed(read_message(item, f"messages[{index}]", repairs), f"messages[{index}]")
        for index, item in enumerate(read_items(row, "messages"))
    ]
    return assemble(placed, row, source, tools=tools, repairs=repairs)


def read_message(item: Mapping[str, Any], place: str, repairs: list[str]) -> Message:
    """Return one raw message; `place` names it in errors, `repairs` collects what was mended."""
    role = read_role(item, "role", place, _ROLES)
    train, weight = read_flags(item, place, assistant=role == "assistant")
    content = read_content(item.get("content"), f"{place}.content", repairs, results=role == "tool")
    if role != "assistant":
        if content.reasoning or content.calls or item.get("tool_calls"):
            raise DataError(
                f"{place} has calls or reasoning, but its role is {item.get('role')!r}",
                code="role-content",
                field=place,
                fix="only an assistant message may have them",
            )
        if item.get("content") is None:
            raise _missing(place)
        name, call_id = item.get("name"), item.get("tool_call_id")
        return Message(
            role=role,  # pyrefly: ignore[bad-argument-type]
            content=content.text,
            tool_call_id=str(call_id) if role == "tool" and call_id is not None else None,
            name=name if isinstance(name, str) and name else None,
        )
    calls = [*content.calls]
    if item.get("tool_calls"):
        calls += read_calls(item["tool_calls"], f"{place}.tool_calls", repairs)
    if item.get("function_call"):
        calls += read_calls(item["function_call"], f"{place}.function_call", repairs)
    reasoning = _read_reasoning(item, content.reasoning, place)
    text = content.text if item.get("refusal") is None else _with_refusal(item, content.text, place)
    if item.get("content") is None and not text and not calls and not reasoning:
        raise _missing(place)
    return Message(
        role="assistant",
        content=text,
        reasoning=reasoning,
        tool_calls=tuple(calls),
        train=train,
        weight=weight,
    )


def _read_reasoning(item: Mapping[str, Any], from_blocks: str, place: str) -> str:
    found = {key: read_text(item[key], f"{place}.{key}") for key in _REASONING_KEYS if item.get(key) is not None}
    texts = {text for text in (*found.values(), from_blocks) if text}
    if len(texts) > 1:
        raise DataError(
            f"{place} has several different texts of reasoning ({', '.join(found) or 'content'})",
            code="reasoning-twice",
            field=place,
            fix="keep one of them",
        )
    return texts.pop() if texts else ""


def _with_refusal(item: Mapping[str, Any], text: str, place: str) -> str:
    """Return the text of an answer, which may stand under `refusal`: what the model said in either case."""
    refusal = read_optional_text(item, "refusal", f"{place}.refusal")
    if text and refusal and text != refusal:
        raise DataError(
            f"{place} has content and a refusal", code="content-block", field=f"{place}.refusal", fix="keep one of them"
        )
    return text or refusal


def _missing(place: str) -> DataError:
    return DataError(f"{place} has no content", code="content-missing", field=f"{place}.content", fix="fill it in")


# --- writing ----------------------------------------------------------------------------------------------------------


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, messages, tools?}`; calls without an id get `call00000`, `call00001` ...

    Arguments that are no JSON text (Python literals of ReAct data) are written as JSON.

    Raises:
        DataError: code `arguments-unreadable` when a call's arguments are no object at all.
    """
    items: list[dict[str, Any]] = []
    open_ids: list[str] = []
    count = 0
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant":
            calls = list(message.tool_calls)
            if not _answered_jointly(conversation.messages, index):
                calls = [replace(call, id=call.id or new_call_id(count + place)) for place, call in enumerate(calls)]
            count += len(calls)
            open_ids = [call.id for call in calls if call.id is not None]
            items.append(_write_assistant(message, calls, f"messages[{index}]"))
            continue
        item: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.name is not None:
            item["name"] = message.name
        if message.role == "tool":
            given = message.tool_call_id or (open_ids[0] if open_ids else None)
            open_ids = [other for other in open_ids if other != given]
            item |= {} if given is None else {"tool_call_id": given}
        items.append(item)
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    row["messages"] = items
    if conversation.tools:
        row["tools"] = [tool.describe() for tool in conversation.tools]
    return row


def _answered_jointly(messages: Sequence[Message], index: int) -> bool:
    """Whether one result message answers several of the calls of `messages[index]`: ids would pair them wrongly."""
    results = 0
    while index + results + 1 < len(messages) and messages[index + results + 1].role == "tool":
        results += 1
    return 0 < results < len(messages[index].tool_calls) and index + results + 1 < len(messages)


def _write_assistant(message: Message, calls: list[ToolCall], place: str) -> dict[str, Any]:
    item: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.reasoning:
        item["reasoning_content"] = message.reasoning
    if calls:
        item["tool_calls"] = [
            ({} if call.id is None else {"id": call.id})
            | {
                "type": "function",
                "function": {"name": call.name, "arguments": _write_arguments(call, f"{place}.tool_calls[{number}]")},
            }
            for number, call in enumerate(calls)
        ]
    if not message.train:
        item["train"] = False
    if message.weight != 1:
        item["weight"] = message.weight
    return item


def _write_arguments(call: ToolCall, place: str) -> str:
    try:
        if isinstance(json.loads(call.arguments), dict):
            return call.arguments
    except (ValueError, RecursionError):
        pass
    try:
        return json.dumps(call.parse_arguments(), ensure_ascii=False)
    except DataError as error:
        raise DataError(error.message, code=error.code, field=place, fix=error.fix) from None
