"""`openai`: `messages` with tool_calls and results, `tools`; content as a string, null or typed blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actune.core.conversion import new_call_id
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, kind, read_flags, read_items, read_role, read_text, speakers
from actune.formats.tools import read_calls, read_tools

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `messages` whose roles are all known here."""
    roles = speakers(row, "messages", "role")
    return bool(roles) and roles <= _ROLES.keys()


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DataError: what is wrong, with the place in the row (`messages[2].tool_calls[0].function.arguments`).
    """
    repairs: list[str] = []
    key = "tools" if row.get("tools") is not None else "functions"
    tools = read_tools(row.get(key), key, repairs)
    placed = [
        Placed(read_message(item, f"messages[{index}]", repairs), f"messages[{index}]")
        for index, item in enumerate(read_items(row, "messages"))
    ]
    return assemble(placed, row, source, tools=tools, repairs=repairs)


def read_message(item: Mapping[str, Any], place: str, repairs: list[str]) -> Message:
    """Return one raw message; `place` names it in errors, `repairs` collects what was mended."""
    role = read_role(item, "role", place, _ROLES)
    train, weight = read_flags(item, place, assistant=role == "assistant")
    content = _read_content(item.get("content"), f"{place}.content", repairs)
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
    if item.get("content") is None and not calls and not reasoning:
        raise _missing(place)
    return Message(
        role="assistant",
        content=content.text,
        reasoning=reasoning,
        tool_calls=tuple(calls),
        train=train,
        weight=weight,
    )


@dataclass(slots=True)
class _Content:
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


def _read_content(value: object, place: str, repairs: list[str]) -> _Content:
    if value is None:
        return _Content()
    if isinstance(value, str):
        return _Content(text=value)
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{place} is {kind(value)}; a string, null or a list of typed blocks is needed",
            code="content-type",
            field=place,
            fix=f"make {place} a string",
        )
    content = _Content()
    thoughts: list[str] = []
    for index, block in enumerate(value):
        spot = f"{place}[{index}]"
        found = block.get("type") if isinstance(block, Mapping) else None
        if not isinstance(block, Mapping) or not isinstance(found, str):
            raise _block_fault(f"{spot} is no typed block", spot)
        if found == "text":
            content.text += _block_text(block, ("text", "value"), spot)
        elif found in ("reasoning", "thinking"):
            thoughts.append(_block_text(block, ("value", "text", "thinking", "reasoning"), spot))
        elif found in ("tool_call", "tool_calls"):
            inner = next((block[key] for key in ("value", found) if block.get(key) is not None), block)
            content.calls += read_calls(inner, spot, repairs)
        else:
            raise _block_fault(f"{spot} is a block of type {found!r}, which cannot be trained on", spot)
    content.reasoning = "\n".join(thoughts)
    return content


def _block_text(block: Mapping[str, Any], keys: tuple[str, ...], place: str) -> str:
    key = next((key for key in keys if block.get(key) is not None), None)
    if key is None:
        raise _block_fault(f"{place} has no text", place)
    return read_text(block[key], f"{place}.{key}")


def _block_fault(what: str, place: str) -> DataError:
    return DataError(
        what, code="content-block", field=place, fix='known blocks: {"type": "text" | "reasoning" | "tool_call", ...}'
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
