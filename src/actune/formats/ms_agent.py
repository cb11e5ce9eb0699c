"""`ms-agent`: `conversations` of from/value; ReAct text with the Observation inside the assistant value.

The system value holds the API list. Written back, an accepted row is byte-identical to its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from actune.core import api_list, react
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, read_flags, read_items, read_role, read_text, speakers

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: `conversations` of two speakers and a system, no tool list beside it."""
    found = speakers(row, "conversations", "from")
    return bool(found) and found <= _ROLES.keys() and not row.get("tools")


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; with an API list in its system text, style "react", else plain chat.

    Raises:
        DataError: what is wrong; `tools-missing` for ReAct text without an API list, `unknown-tool` for a call to a
            tool that is not in the list, and the codes of the grammar (`action-without-input` ...).
    """
    placed: list[Placed] = []
    for index, item in enumerate(read_items(row, "conversations")):
        place = f"conversations[{index}]"
        role = read_role(item, "from", place, _ROLES)
        text = read_text(item.get("value"), f"{place}.value")
        train, weight = read_flags(item, place, assistant=role == "assistant")
        if role == "assistant" and placed and placed[-1].message.role == "assistant":
            raise DataError(
                f"{place} is a second assistant turn in a row",
                code="assistant-twice",
                field=place,
                fix="join the two values, or put the user's turn between them",
            )
        message = Message(role=role, content=text, train=train, weight=weight)  # pyrefly: ignore[bad-argument-type]
        placed.append(Placed(message, place))
    return assemble(placed, row, source, exact=True)


def write(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a row `{id?, conversations}`; tools and calls become ReAct text in the normal layout.

    Raises:
        DataError: code `tools-missing`, `react-parallel-calls`, `react-two-thoughts`, `react-reasoning` or
            `react-marker-in-text` when this format cannot hold the conversation.
    """
    messages = list(conversation.messages)
    own = messages.pop(0).content if messages and messages[0].role == "system" else None
    items: list[dict[str, Any]] = []
    if conversation.tools:
        text = conversation.system_source
        if text is None:
            language = "zh" if conversation.style == "react_zh" else "en"
            text = api_list.write_system(own or "", conversation.tools, language)
        items.append({"from": "system", "value": text})
    elif own is not None:
        items.append({"from": "system", "value": own})
    for turn in _turns(messages):
        if turn[0].role == "user":
            items.append({"from": "user", "value": turn[0].content})
            continue
        item: dict[str, Any] = {"from": "assistant", "value": _write_turn(turn, conversation)}
        flags = {(message.train, message.weight) for message in turn if message.role == "assistant"}
        if len(flags) > 1:
            raise DataError(
                "the steps of one turn have different training weights, which this format cannot hold",
                code="react-weights",
                fix="write the conversation as openai",
            )
        train, weight = flags.pop()
        items.append(item | ({} if train else {"loss": False}) | ({} if weight == 1 else {"weight": weight}))
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    return row | {"conversations": items}


def _turns(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield each user message alone, and the assistant and tool messages between two of them together."""
    turn: list[Message] = []
    for message in messages:
        if message.role == "user":
            if turn:
                yield turn
            yield [message]
            turn = []
        else:
            turn.append(message)
    if turn:
        yield turn


def _write_turn(turn: list[Message], conversation: Conversation) -> str:
    if not conversation.tools:
        return _write_plain(turn)
    text = react.write_turn(turn)
    if conversation.style == "react":
        return text
    # Text of another format may hold lines that read as markers: what is written has to be read back as it was.
    try:
        same = [_meaning(message) for message in react.read_turn(text)] == [_meaning(message) for message in turn]
    except DataError:
        same = False
    if not same:
        raise DataError(
            "written as ReAct text, a turn would be read back as something else (a marker such as 'Thought:' at the "
            "beginning of a line of its texts, or two answers in a row)",
            code="react-marker-in-text",
            fix="use --dialect chat for this row, or change the text",
        )
    return text


def _write_plain(turn: list[Message]) -> str:
    message = turn[0]
    if len(turn) > 1 or message.tool_calls:
        raise DataError(
            "the conversation calls tools but lists none, or answers twice in a row; ReAct text needs the tool list",
            code="tools-missing",
            fix="add the tools to the row",
        )
    if message.reasoning:
        raise DataError(
            "reasoning in a conversation without tools, which this format cannot hold",
            code="react-reasoning",
            fix="write the conversation as openai",
        )
    return message.content


def _meaning(message: Message) -> tuple[object, ...]:
    calls = tuple((call.name, call.arguments.strip()) for call in message.tool_calls)
    if message.role == "tool":
        return (message.role, message.content)
    thought = message.reasoning or (message.content if calls else "")
    return (message.role, "" if calls else message.content.strip(), thought.strip(), calls)
