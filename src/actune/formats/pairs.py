"""Rows of one question and one answer, with earlier pairs in `history`: what query-response and alpaca share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.conversion import flatten
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, cannot_hold, kind, read_flags, read_system_key, read_text, write_flags
from actune.formats.tools import read_tools

_OPENAI = "write the row as openai"


def read_pairs(
    row: Mapping[str, Any], source: Source, *, question: str, question_key: str, answer_key: str
) -> Conversation:
    """Return a row `{system?, history?, tools?, <question>, <answer>}` as a conversation.

    Raises:
        DataError: code `question-empty`, `answer-empty`, `history-unreadable`, `content-type` and those of `assemble`.
    """
    repairs: list[str] = []
    placed = read_system_key(row)
    placed += _read_history(row.get("history"))
    if not question:
        raise DataError(
            f"{question_key!r} is empty", code="question-empty", field=question_key, fix="fill it in or remove the row"
        )
    placed.append(Placed(Message(role="user", content=question), question_key))
    train, weight = read_flags(row, "row", assistant=True)
    answer = read_text(row.get(answer_key), answer_key)
    placed.append(Placed(Message(role="assistant", content=answer, train=train, weight=weight), answer_key))
    tools = read_tools(row.get("tools"), "tools", repairs)
    return assemble(placed, row, source, tools=tools, repairs=repairs)


def write_pairs(conversation: Conversation, *, question_key: str, answer_key: str) -> dict[str, Any]:
    """Return a conversation as a row `{id?, system?, history?, <question>, <answer>}`; ReAct steps as their text.

    Raises:
        DataError: code `format-cannot-hold` for native calls, reasoning, names, a weight of an earlier answer, and
            whatever is no row of questions and answers.
    """
    if conversation.tools and conversation.style != "chat":
        conversation = flatten(conversation)
    if conversation.tools:
        raise cannot_hold("a tool list beside the messages", "tools", "use --dialect react, or write the row as openai")
    messages = list(conversation.messages)
    first = int(messages[0].role == "system")
    roles = [message.role for message in messages[first:]]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        place = next((i for i, role in enumerate(roles) if role != ("user", "assistant")[i % 2]), len(roles) - 1)
        raise cannot_hold("anything but questions and answers in turn", f"messages[{first + place}]", _OPENAI)
    for index, message in enumerate(messages):
        if message.reasoning or message.name is not None:
            what = "reasoning" if message.reasoning else "a speaker's name"
            raise cannot_hold(what, f"messages[{index}]", _OPENAI)
        if message.role == "assistant" and index < len(messages) - 1 and write_flags(message):
            raise cannot_hold("the training weight of an earlier answer", f"messages[{index}]", _OPENAI)
    row: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    if first:
        if not messages[0].content:
            raise cannot_hold("an empty system message", "messages[0].content", "remove it")
        row["system"] = messages[0].content
    texts = [message.content for message in messages[first:]]
    if not texts[-2]:
        raise cannot_hold("an empty question", f"messages[{len(messages) - 2}].content", _OPENAI)
    if len(texts) > 2:
        row["history"] = [[texts[i], texts[i + 1]] for i in range(0, len(texts) - 2, 2)]
    return row | {question_key: texts[-2], answer_key: texts[-1]} | write_flags(messages[-1])


def _read_history(value: object) -> list[Placed]:
    if value is None or value == "":
        return []
    if not isinstance(value, (list, tuple)):
        raise _fault(f"'history' is {kind(value)}", "history")
    placed: list[Placed] = []
    for index, pair in enumerate(value):
        place = f"history[{index}]"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise _fault(f"{place} is no pair of question and answer", place)
        placed.append(Placed(Message(role="user", content=read_text(pair[0], f"{place}[0]")), f"{place}[0]"))
        placed.append(Placed(Message(role="assistant", content=read_text(pair[1], f"{place}[1]")), f"{place}[1]"))
    return placed


def _fault(what: str, place: str) -> DataError:
    return DataError(
        what, code="history-unreadable", field=place, fix='write it as [["question", "answer"], ...], oldest first'
    )
