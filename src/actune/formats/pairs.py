"""Rows of one question and one answer, with earlier pairs in `history`: what query-response and alpaca share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, kind, read_flags, read_system_key, read_text
from actune.formats.tools import read_tools


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
