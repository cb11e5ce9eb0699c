"""Conversations from ReAct text to native calls and back: what both can hold comes back equal, the rest is an error.

Chat -> ReAct is defined by the text: every turn is written, read back, and has to say the same. ReAct -> chat leaves
the layout of the text behind and keeps everything that it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actune.core import api_list, react
from actune.core.differences import SCHEMA_NOTES, same_schema, schema_essence
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Style, ToolCall, ToolSpec


def convert_style(conversation: Conversation, style: Style) -> Conversation:
    """Return a conversation in another style; rows without tools are plain chat in every style.

    Raises:
        DataError: see `to_chat` and `to_react`; code `tools-missing` for calls that would need a tool list.
    """
    if not conversation.tools and style != "chat":
        _check_plain(conversation.messages)
    if not conversation.tools or conversation.style == style:
        return conversation
    if style == "chat":
        return to_chat(conversation)
    if conversation.style == "chat":
        return to_react(conversation, style)
    return replace(conversation, style=style, system_source=None)  # the same steps under other instructions


# --- ReAct -> chat ----------------------------------------------------------------------------------------------------


def to_chat(conversation: Conversation) -> Conversation:
    """Return a ReAct conversation with native calls: thoughts are reasoning, calls have ids, results name them.

    Arguments that are Python literals become JSON text; JSON stays byte for byte.

    Raises:
        DataError: code `arguments-unreadable` for arguments that are no JSON object; they are never guessed.
    """
    messages: list[Message] = []
    open_ids: list[str] = []
    count = 0
    for index, message in enumerate(conversation.messages):
        if message.role == "tool":
            messages.append(replace(message, source_text=None, tool_call_id=open_ids.pop(0) if open_ids else None))
            continue
        calls = []
        for number, call in enumerate(message.tool_calls):
            place = f"messages[{index}].tool_calls[{number}].arguments"
            calls.append(ToolCall(name=call.name, arguments=json_arguments(call, place), id=new_call_id(count)))
            count += 1
        if message.role == "assistant":
            open_ids = [str(call.id) for call in calls]
        messages.append(replace(message, source_text=None, tool_calls=tuple(calls)))
    return replace(conversation, messages=tuple(messages), style="chat", system_source=None)


def new_call_id(number: int) -> str:
    """Return the id of call `number` of a row: nine letters and digits, which some templates insist on."""
    return f"call{number:05}"


def json_arguments(call: ToolCall, place: str) -> str:
    """Return the arguments of a call as the text of one JSON object, the source text where it is one already.

    Raises:
        DataError: code `arguments-unreadable`; `place` is its field.
    """
    try:
        value = json.loads(call.arguments, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins)
        if isinstance(value, dict):
            return call.arguments
    except _NotHeld as error:
        raise _unreadable(call, place, f"{error}: {_shorten(call.arguments)}") from None
    except (ValueError, RecursionError):
        pass
    try:
        return json.dumps(call.parse_arguments(), ensure_ascii=False)
    except DataError as error:
        raise DataError(error.message, code=error.code, field=place, fix=error.fix) from None


class _NotHeld(Exception):
    """A value that Python reads and JSON does not have, or has in one form only."""


def _refuse_constant(name: str) -> object:
    raise _NotHeld(f"{name} is no JSON")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _NotHeld(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return value


def _unreadable(call: ToolCall, place: str, why: str) -> DataError:
    return DataError(
        f"the arguments of {call.name!r} are no JSON object: {why}",
        code="arguments-unreadable",
        field=place,
        fix='write the arguments as one JSON object, for example {"city": "Hangzhou"}',
    )


# --- chat -> ReAct ----------------------------------------------------------------------------------------------------


def to_react(conversation: Conversation, style: Style) -> Conversation:
    """Return a conversation with native calls as the ReAct text that it is written as, read back.

    Text beside a call becomes its Thought. Ids are left out: a step has one call, and its result follows it.

    Raises:
        DataError: code `react-parallel-calls`, `react-two-thoughts`, `react-two-answers`, `react-speaker`,
            `react-api-list`, `react-tool-schema` or `react-marker-in-text` for what ReAct text cannot hold.
    """
    tools = tuple(_listed(tool, f"tools[{number}]") for number, tool in enumerate(conversation.tools))
    head = [m for m in conversation.messages[:1] if m.role == "system"]
    own = head[0].content if head else ""
    _check_system(own, tools, "zh" if style == "react_zh" else "en")
    messages = head if own else []
    for start, turn in split_turns(conversation.messages[len(head) :], len(head)):
        messages += turn if turn[0].role == "user" else _read_back(turn, start)
    for index, message in enumerate(conversation.messages):
        _check_name(conversation.messages, index, message)
    return replace(conversation, messages=tuple(messages), tools=tools, style=style, system_source=None)


def split_turns(messages: Sequence[Message], first: int = 0) -> Iterator[tuple[int, list[Message]]]:
    """Yield each user message alone, and what stands between two of them together, each with its index.

    `first` is the index of `messages[0]`.
    """
    turn: list[Message] = []
    for index, message in enumerate(messages, first):
        if message.role == "user":
            if turn:
                yield index - len(turn), turn
            yield index, [message]
            turn = []
        else:
            turn.append(message)
    if turn:
        yield first + len(messages) - len(turn), turn


def _read_back(turn: list[Message], start: int) -> list[Message]:
    """Return the messages of a turn as its ReAct text is read, with the training flags of the source."""
    parts = []
    for place, message in enumerate(turn):
        if place + 1 < len(turn) and message.role == "assistant" and not message.tool_calls:
            raise DataError(
                f"messages[{start + place}] is an answer, and messages[{start + place + 1}] goes on without the user; "
                "a ReAct turn ends with its answer",
                code="react-two-answers",
                field=f"messages[{start + place + 1}]",
                fix="join the two messages, or put the user's turn between them",
            )
        try:
            parts.append(react.write_step(message) if message.role == "assistant" else "")
        except DataError as error:
            field = ".".join(part for part in (f"messages[{start + place}]", error.field) if part)
            raise DataError(error.message, code=error.code, field=field, fix=error.fix) from None
    try:
        read = react.read_turn(react.write_turn(turn))
    except DataError:
        read = []
    for place, message in enumerate(turn):
        if place >= len(read) or say(read[place]) != say(message):
            raise _marker_inside(turn, start, place)
    if len(read) > len(turn):
        raise _marker_inside(turn, start, len(turn) - 1)
    return [
        replace(again, train=message.train, weight=message.weight) for again, message in zip(read, turn, strict=True)
    ]


def say(message: Message) -> tuple[object, ...]:
    """Return what a message says in ReAct text, where blanks around a thought, a call or an answer are layout."""
    if message.role == "tool":
        return (message.role, message.content)
    calls = tuple((call.name, call.arguments.strip()) for call in message.tool_calls)
    thought = message.reasoning or (message.content if calls else "")
    return (message.role, "" if calls else message.content.strip(), thought.strip(), calls)


def _marker_inside(turn: list[Message], start: int, place: int) -> DataError:
    # A marker in one message may spoil how those after it are read; the first message with one is to blame.
    blamed = next((i for i, message in enumerate(turn) if any(map(react.MARKER.search, _texts(message)))), place)
    return DataError(
        f"written as ReAct text, messages[{start + blamed}] would be read back as something else (a marker such as "
        f"'Thought:' at the beginning of a line of its texts, say): {_shorten(_texts(turn[blamed])[0])}",
        code="react-marker-in-text",
        field=f"messages[{start + blamed}]",
        fix="use --dialect chat for this row, or change the text",
    )


def _texts(message: Message) -> list[str]:
    texts = [message.reasoning, message.content, *(call.arguments for call in message.tool_calls)]
    return [text for text in texts if text] or [""]


def _check_name(messages: Sequence[Message], index: int, message: Message) -> None:
    """Refuse a name that is lost: of a speaker, or of a result that is not the called tool's."""
    if message.name is None:
        return
    if message.role == "tool":
        before = next(m for m in reversed(messages[:index]) if m.role == "assistant")
        if message.name in [call.name for call in before.tool_calls]:
            return
    raise DataError(
        f"the {message.role} message is named {message.name!r}, which ReAct text cannot hold",
        code="react-speaker",
        field=f"messages[{index}].name",
        fix="remove the name, or use --dialect chat for this row",
    )


# --- tools ------------------------------------------------------------------------------------------------------------


def _listed(tool: ToolSpec, place: str) -> ToolSpec:
    """Return a tool with a parameter list from which its schema is read again."""
    listed = tool.parameter_list if tool.parameter_list is not None else api_list.list_parameters(tool.parameters)
    if same_schema(api_list.schema_of_list(listed), tool.parameters):
        return tool
    raise DataError(
        f"the parameters of tool {tool.name!r} say more than an API list can hold: {_lost_of(tool.parameters)}",
        code="react-tool-schema",
        field=f"{place}.parameters",
        fix="write them under 'properties', with 'required' beside it, or use --dialect chat for this row",
    )


def _lost_of(schema: Mapping[str, Any]) -> str:
    more = [repr(key) for key in schema if key not in SCHEMA_NOTES | {"type", "properties", "required"}]
    if more:
        return ", ".join(more)
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    absent = [name for name in schema.get("required") or () if name not in known]
    return f"'required' names {absent[0]!r}, which is no property" if absent else "an entry that is no plain schema"


def _check_system(own: str, tools: Sequence[ToolSpec], language: api_list.Language) -> None:
    """Refuse a system text or tools that the API block cannot be read back from."""
    try:
        block = api_list.read_system(api_list.write_system(own, tools, language))
    except DataError as error:
        block, why = None, error.message
    else:
        why = "the tools or the system text would be read back as something else"
    if block is not None and block.system == own and not block.repaired:
        read = [(tool.name, tool.description, schema_essence(tool.parameters)) for tool in block.tools]
        if read == [(tool.name, tool.description, schema_essence(tool.parameters)) for tool in tools]:
            return
    raise DataError(
        f"the system text and the tools cannot be written as an API list: {why}",
        code="react-api-list",
        field="messages[0].content" if _has_api_list(own) else "tools",
        fix="use --dialect chat for this row; names are one line without ':', and the system text holds no API list",
    )


def _has_api_list(text: str) -> bool:
    try:
        return api_list.read_system(text) is not None
    except DataError:
        return True


# --- ReAct as plain text messages -------------------------------------------------------------------------------------


def flatten(conversation: Conversation) -> Conversation:
    """Return a ReAct conversation as the plain messages of its text: API list in the system text, a turn one answer.

    What has no tools is returned as it is.

    Raises:
        DataError: code `react-weights` when steps of one turn differ in training weight; `tools-missing` for calls
            without tools; `react-marker-in-text` when a turn would be read back as something else.
    """
    messages = list(conversation.messages)
    own = messages.pop(0).content if messages and messages[0].role == "system" else ""
    first = len(conversation.messages) - len(messages)
    if not conversation.tools:
        _check_plain(conversation.messages)
        return conversation
    text = conversation.system_source
    if text is None:
        text = api_list.write_system(own, conversation.tools, "zh" if conversation.style == "react_zh" else "en")
    plain = [Message(role="system", content=text)]
    for start, turn in split_turns(messages, first):
        if turn[0].role == "user":
            plain += turn
            continue
        flags = {(message.train, message.weight) for message in turn if message.role == "assistant"}
        if len(flags) > 1:
            raise DataError(
                "the steps of one turn have different training weights, which ReAct text cannot hold",
                code="react-weights",
                field=f"messages[{start}]",
                fix="write the conversation as openai",
            )
        _read_back(turn, start)
        train, weight = flags.pop()
        plain.append(Message(role="assistant", content=react.write_turn(turn), train=train, weight=weight))
    return replace(conversation, messages=tuple(plain), tools=(), style="chat", system_source=None)


def _check_plain(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        if message.role == "tool" or message.tool_calls:
            raise DataError(
                "the conversation calls tools but lists none; ReAct text needs the tool list",
                code="tools-missing",
                field=f"messages[{index}]",
                fix="add the tools to the row",
            )


def _shorten(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
