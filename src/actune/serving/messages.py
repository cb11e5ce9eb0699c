"""Messages and tools of a request as a conversation: read as the rows of training are, and as strictly.

What a row may leave out for training only (weights, repairs) is refused here, and what a client of OpenAI's API sends
back of an answer is accepted: nulls, empty lists, calls of tools that do not exist, arguments that are no JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actune.core.errors import DataError
from actune.core.types import Message, ToolCall, ToolSpec
from actune.formats.assemble import check
from actune.formats.fields import Placed
from actune.formats.openai import read_message
from actune.formats.tools import read_tools
from actune.serving.errors import ApiError, bad_value, from_actune, unsupported

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_COMMON = {"role", "content", "name"}
_ASSISTANT = {"tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "thinking"}
# What OpenAI's answers hold besides, empty where the model only writes text.
_EMPTY = {"audio", "annotations", "images", "prefix"}
_NAME_LIMIT = 256


def read_messages(value: object) -> tuple[Message, ...]:
    """Return the messages of a request, ready for an answer.

    Raises:
        ApiError: 400, with the message and key at fault.
    """
    if not isinstance(value, list) or not value:
        raise bad_value("messages", "has to be a list of at least one message", code="invalid_type")
    placed: list[Placed] = []
    for index, item in enumerate(value):
        place = f"messages[{index}]"
        try:
            placed.append(Placed(_read_one(item, place), place))
        except DataError as error:
            raise from_actune(error, param=place) from None
    if placed[-1].message.role == "assistant":
        what = "is the assistant's: an answer is given to a user or tool message, and none is gone on with"
        raise bad_value(placed[-1].place, what)
    try:
        # The answer that is asked for closes the conversation; a call without its result would come before it.
        closing = Placed(Message(role="assistant", content="-"), f"the answer after {placed[-1].place}")
        check([*map(_fill_empty, placed), closing], ())
    except DataError as error:
        raise from_actune(error) from None
    return tuple(item.message for item in placed)


def _fill_empty(item: Placed) -> Placed:
    """Return a message for the check: a model can give an answer of nothing, which no row of training would have."""
    message = item.message
    if message.role == "assistant" and not (message.content.strip() or message.reasoning or message.tool_calls):
        return Placed(replace(message, content="-"), item.place)
    return item


def _read_one(item: object, place: str) -> Message:
    if not isinstance(item, Mapping):
        raise bad_value(place, "has to be an object", code="invalid_type")
    role = item.get("role")
    if role not in _ROLES:
        raise bad_value(f"{place}.role", f"is {str(role)[:40]!r}; known: {', '.join(_ROLES)}")
    _check_keys(item, place, role)
    given = {key: entry for key, entry in item.items() if entry is not None and key not in _EMPTY}
    given.setdefault("content", None)
    if role != "assistant":
        return read_message(given, place, [])
    calls, arguments = _take_arguments(given.get("tool_calls"))
    if not calls:
        given.pop("tool_calls", None)
        return read_message(given, place, [])
    message = read_message({**given, "tool_calls": calls}, place, [])
    restored = [
        call if text is None else ToolCall(name=call.name, arguments=text, id=call.id)
        for call, text in zip(message.tool_calls, arguments, strict=True)
    ]
    return replace(message, tool_calls=tuple(restored))


def _check_keys(item: Mapping[str, Any], place: str, role: object) -> None:
    known = set(_COMMON)
    if role == "assistant":
        known |= _ASSISTANT
    elif role == "tool":
        known.add("tool_call_id")
    for key, entry in item.items():
        if key in known or entry is None or (key in _EMPTY and not entry):
            continue
        raise unsupported(f"{place}.{key}", "no prompt can show it")
    name = item.get("name")
    if name is not None and not isinstance(name, str):
        raise bad_value(f"{place}.name", "has to be a string", code="invalid_type")
    if role == "tool" and item.get("tool_call_id") is not None and not isinstance(item["tool_call_id"], str):
        raise bad_value(f"{place}.tool_call_id", "has to be a string", code="invalid_type")


def _take_arguments(value: object) -> tuple[Any, list[str | None]]:
    """Return calls that can be read, and of each the text of arguments that are no JSON object, None for the others.

    A model can write such arguments, and a client gives them back as it got them.
    """
    if not isinstance(value, list):
        return value, []
    calls: list[Any] = []
    texts: list[str | None] = []
    for item in value:
        function = item.get("function") if isinstance(item, Mapping) else None
        text = function.get("arguments") if isinstance(function, Mapping) else None
        broken = isinstance(text, str) and not _is_object(text)
        texts.append(text if broken else None)
        calls.append({**item, "function": {**function, "arguments": "{}"}} if broken else item)  # type: ignore[dict-item]
    return calls, texts


def _is_object(text: str) -> bool:
    try:
        ToolCall(name="", arguments=text).parse_arguments()
    except DataError:
        return False
    return True


def read_request_tools(value: object) -> tuple[ToolSpec, ...]:
    """Return the tools of a request.

    Raises:
        ApiError: 400, with the tool at fault.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_value("tools", "has to be a list", code="invalid_type")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or not isinstance(item.get("function"), Mapping):
            raise bad_value(f"tools[{index}]", 'has to be {"type": "function", "function": {...}}')
        if item.get("type") != "function":
            raise unsupported(f"tools[{index}].type", "tools are functions that the client runs")
    try:
        tools = read_tools(value, "tools", [])
    except DataError as error:
        raise from_actune(error, param="tools") from None
    for index, tool in enumerate(tools):
        if (
            len(tool.name) > _NAME_LIMIT
            or any(ord(letter) < 32 for letter in tool.name)
            or tool.name != tool.name.strip()
        ):
            raise bad_value(
                f"tools[{index}].function.name", f"is no name of at most {_NAME_LIMIT} characters in a line"
            )
    return tools


def select_tools(tools: Sequence[ToolSpec], names: Sequence[str]) -> tuple[ToolSpec, ...]:
    """Return the tools of these names, in the order of the tools.

    Raises:
        ApiError: 400, for a name that is none of theirs.
    """
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise ApiError(
                400,
                f"tool_choice names {name[:80]!r}, which is not in tools",
                param="tool_choice",
                code="invalid_value",
            )
    return tuple(tool for tool in tools if tool.name in names)
