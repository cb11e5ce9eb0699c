"""`anthropic`: `messages` of typed blocks (text, thinking, tool_use, tool_result), `system` and `tools` beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.errors import DataError
from actune.core.json_text import read_json
from actune.core.types import Conversation, Message, Source
from actune.formats import openai
from actune.formats.assemble import assemble
from actune.formats.blocks import block_fault, block_text, is_anthropic, read_content, read_type
from actune.formats.fields import Placed, cannot_hold, kind, read_flags, read_items, read_role, speakers, write_flags
from actune.formats.tools import read_tools

_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
_OTHER = ("tool_calls", "function_call", "reasoning_content")
# What says how a request is sent, not what a tool is.
_REQUEST = {"cache_control", "type", "defer_loading", "allowed_callers", "eager_input_streaming"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row can be read here: `messages` of user and assistant, without calls in the OpenAI form."""
    roles = speakers(row, "messages", "role")
    if not roles or not roles <= _ROLES.keys():
        return False
    return is_anthropic(row) or not any(item.get(key) is not None for item in row["messages"] for key in _OTHER)


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; thinking is reasoning, each `tool_result` a message of its own.

    Raises:
        DataError: what is wrong, with the place in the row (`messages[1].content[0].input`); `content-block` for images,
            documents and thinking that cannot be read.
    """
    repairs: list[str] = []
    tools = read_tools(_openai_tools(row.get("tools")), "tools", repairs)
    system = read_content(row.get("system"), "system", repairs)
    if system.reasoning or system.calls:
        raise block_fault("system holds more than text", "system")
    placed = [Placed(Message(role="system", content=system.text), "system")] if system.text else []
    for index, item in enumerate(read_items(row, "messages")):
        place = f"messages[{index}]"
        role = read_role(item, "role", place, _ROLES)
        train, weight = read_flags(item, place, assistant=role == "assistant")
        if role == "user":
            placed += _read_user(item.get("content"), place, repairs)
            continue
        if item.get("content") is None:
            raise _missing(place)
        content = read_content(item["content"], f"{place}.content", repairs, anthropic=True)
        if role == "system" and (content.reasoning or content.calls):
            raise block_fault(f"{place} holds more than text", place)
        message = Message(
            role=role,  # pyrefly: ignore[bad-argument-type]
            content=content.text,
            reasoning=content.reasoning,
            tool_calls=tuple(content.calls),
            train=train,
            weight=weight,
        )
        placed.append(Placed(message, place))
    return assemble(placed, row, source, tools=tools, repairs=repairs)


def _read_user(value: object, place: str, repairs: list[str]) -> list[Placed]:
    """Return the messages in the content of the user: results of calls, and texts."""
    if value is None:
        raise _missing(place)
    if isinstance(value, str):
        return [Placed(Message(role="user", content=value), place)]
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{place}.content is {kind(value)}; a string or a list of blocks is needed",
            code="content-type",
            field=f"{place}.content",
            fix="write it as a string",
        )
    placed: list[Placed] = []
    for index, block in enumerate(value):
        spot = f"{place}.content[{index}]"
        found = read_type(block, spot)
        if found == "tool_result":
            placed.append(Placed(_read_result(block, spot, repairs), spot))
            continue
        text = read_content([block], f"{place}.content", repairs)
        if text.reasoning or text.calls:
            raise block_fault(f"{spot} is a block of type {found!r} in a message of the user", spot)
        last = placed[-1].message if placed else None
        if last is not None and last.role == "user":
            placed[-1] = Placed(Message(role="user", content=last.content + text.text), placed[-1].place)
        else:
            placed.append(Placed(Message(role="user", content=text.text), place if index == 0 else spot))
    if not placed:
        raise _missing(place)
    return placed


def _read_result(block: Mapping[str, Any], place: str, repairs: list[str]) -> Message:
    content = block.get("content")
    text = "" if content is None else block_text(block, ("content",), place)
    if block.get("is_error"):
        repairs.append(f"{place}: is_error is not kept; only the text of the result is")
    call_id = block.get("tool_use_id")
    return Message(role="tool", content=text, tool_call_id=None if call_id is None else str(call_id))


def _openai_tools(value: object) -> object:
    """Return a tool list with each schema where the OpenAI form has it; what is no such list stays as it is."""
    if isinstance(value, str) and value.strip():
        try:
            value = read_json(value)
        except (ValueError, RecursionError):
            return value
    if not isinstance(value, (list, tuple)):
        return value
    return [_openai_tool(tool, f"tools[{index}]") for index, tool in enumerate(value)]


def _openai_tool(tool: object, place: str) -> object:
    if not isinstance(tool, Mapping) or "function" in tool:
        return tool
    if "input_schema" not in tool and tool.get("type") not in (None, "custom"):
        raise DataError(
            f"{place} is a tool of type {tool['type']!r}, which the server runs itself; its parameters are not known",
            code="tool-parameters",
            field=place,
            fix="remove it from the row, or give it an input_schema",
        )
    kept = {key: value for key, value in tool.items() if key not in _REQUEST and key != "input_schema"}
    order = {key: kept.pop(key) for key in ("name", "description") if key in kept}
    return order | {"parameters": tool.get("input_schema")} | kept


def _missing(place: str) -> DataError:
    return DataError(f"{place} has no content", code="content-missing", field=f"{place}.content", fix="fill it in")


# --- writing ----------------------------------------------------------------------------------------------------------


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, system?, messages, tools?}`; results that follow each other are one message.

    Raises:
        DataError: code `format-cannot-hold` for names of speakers and an empty system text; `arguments-unreadable` for
            arguments that are no JSON object.
    """
    row = openai.write(conversation)
    written: dict[str, Any] = {"id": row["id"]} if "id" in row else {}
    items: list[dict[str, Any]] = []
    called: list[str] = []
    for index, (item, message) in enumerate(zip(row["messages"], conversation.messages, strict=True)):
        place = f"messages[{index}]"
        if message.name is not None and not (message.role == "tool" and message.name in called):
            raise cannot_hold("a speaker's name", f"{place}.name", "remove it, or write the row as openai")
        if message.role == "system":
            if not message.content:
                raise cannot_hold("an empty system message", f"{place}.content", "remove it")
            written["system"] = message.content
        elif message.role == "tool":
            block = {"type": "tool_result", "content": message.content}
            block |= {"tool_use_id": item["tool_call_id"]} if "tool_call_id" in item else {}
            if conversation.messages[index - 1].role == "tool":
                items[-1]["content"].append(block)
            else:
                items.append({"role": "user", "content": [block]})
        elif message.role == "user":
            items.append({"role": "user", "content": message.content})
        else:
            called = [call.name for call in message.tool_calls]
            items.append(_write_assistant(item, message, place))
    written["messages"] = items
    if conversation.tools:
        written["tools"] = [_write_tool(tool["function"]) for tool in row["tools"]]
    return written


def _write_assistant(item: Mapping[str, Any], message: Message, place: str) -> dict[str, Any]:
    flags = write_flags(message)
    if not message.reasoning and not message.tool_calls:
        return {"role": "assistant", "content": message.content} | flags
    blocks: list[dict[str, Any]] = []
    if message.reasoning:
        blocks.append({"type": "thinking", "thinking": message.reasoning})
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for number, call in enumerate(item.get("tool_calls", ())):
        function = call["function"]
        try:
            arguments = read_json(function["arguments"])
        except ValueError as error:
            spot = f"{place}.tool_calls[{number}].arguments"
            raise cannot_hold(f"arguments that are no plain JSON ({error})", spot, "write the row as openai") from None
        named = {"id": call["id"]} if "id" in call else {}
        blocks.append({"type": "tool_use"} | named | {"name": function["name"], "input": arguments})
    return {"role": "assistant", "content": blocks} | flags


def _write_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in function.items() if key != "parameters"}
    return rest | {"input_schema": function.get("parameters") or {"type": "object", "properties": {}}}
