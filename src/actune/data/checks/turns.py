"""What is wrong with the order of messages: who speaks after whom, which result answers which call, loops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from actune.core.types import Conversation, Message, ToolCall
from actune.data.checks.findings import Finding
from actune.formats.text import is_plain_text

_FINISH = re.compile(r"^Action:[ ]?finish\[", re.IGNORECASE | re.MULTILINE)
_LOOP = 3
"""Equal calls in a row from which it does not matter any more whether their results differ."""


def check_turns(conversation: Conversation) -> Iterator[Finding]:
    """Yield what is wrong with the order of a row's messages."""
    messages = conversation.messages
    if not any(m.role == "assistant" and m.train and m.weight > 0 for m in messages):
        yield Finding(
            level="error",
            code="nothing-trained",
            field="messages",
            message="a plain text is for measuring (nll tasks of eval), not for training"
            if is_plain_text(conversation)
            else "no token of this row is trained: it has no assistant message with a weight above 0",
            fix="remove the row, or give an assistant message a weight",
        )
    yield from _check_order(messages)
    calling = [index for index, message in enumerate(messages) if message.tool_calls]
    if not calling:
        return
    for index in calling:
        yield from _check_results(messages, index)
    yield from _check_ids(messages, calling)
    yield from _check_loops(messages, calling)


# --- roles ------------------------------------------------------------------------------------------------------------


def _check_order(messages: Sequence[Message]) -> Iterator[Finding]:
    before: Message | None = None
    for index, message in enumerate(messages):
        if message.role == "user" and not message.content.strip():
            yield _fault(
                f"messages[{index}]", "user-empty", "the user says nothing", "write the question, or remove the row"
            )
        if before is None or before.role == "system":
            # A text alone, to be continued, has no user at all.
            if message.role == "assistant" and any(other.role == "user" for other in messages[index:]):
                yield _fault(
                    f"messages[{index}]",
                    "assistant-first",
                    "the row begins with the assistant, which some templates refuse",
                    "begin with the user's text, or move this one into the system text",
                )
        elif message.role == before.role == "user":
            yield _fault(
                f"messages[{index}]",
                "user-twice",
                "two user messages in a row, which some templates refuse",
                "join them, or put the answer between them",
            )
        elif message.role == before.role == "assistant" and not before.tool_calls:
            yield _fault(
                f"messages[{index}]",
                "answer-twice",
                "two answers in a row, which some templates refuse",
                "join them, or put the user's text between them",
            )
        before = message
    yield from _check_end(messages)


def _check_end(messages: Sequence[Message]) -> Iterator[Finding]:
    if len(messages) < 2 or messages[-1].role == "assistant":
        return
    before, last = messages[-2:]
    # FireAct's episodes end with an action of their own, to which the environment answers.
    if last.content.startswith("Observation:") and before.role == "assistant" and _FINISH.search(before.content):
        return
    who = "result of a tool" if last.role == "tool" else "user"
    yield _fault(
        f"messages[{len(messages) - 1}]",
        "ends-without-answer",
        f"the row ends with the {who}; what is answered to it is not there to be trained",
        "add the answer, or remove the last messages",
    )


# --- results ----------------------------------------------------------------------------------------------------------


def list_results(messages: Sequence[Message], index: int) -> list[Message]:
    """Return the results that follow the calls of a message."""
    found: list[Message] = []
    for message in messages[index + 1 :]:
        if message.role != "tool":
            break
        found.append(message)
    return found


def _check_results(messages: Sequence[Message], index: int) -> Iterator[Finding]:
    calls, results = messages[index].tool_calls, list_results(messages, index)
    field = f"messages[{index}].tool_calls"
    # At the end of a row, or before a user's next text, no result is needed.
    if not results and index + 1 < len(messages) and messages[index + 1].role != "user":
        yield Finding(
            level="error",
            code="observation-missing",
            field=field,
            message="a call is followed by another answer without its result",
            fix="put the tool's result after the call",
        )
    if not results:
        return
    ids = [call.id for call in calls]
    given = [result.tool_call_id for result in results]
    if len(results) == len(calls) and miss_ids(ids, given):
        yield _fault(
            field,
            "call-id-missing",
            "some of the calls and results have an id, others have none; they are taken in order",
            "give each call an id and each result its tool_call_id",
        )
    elif None not in ids and None not in given and given != [one for one in ids if one in given]:
        yield _fault(
            field,
            "results-out-of-order",
            "the results stand in another order than their calls, and templates without ids show them so",
            "put the results in the order of the calls",
        )
    by_id = {call.id: call for call in calls if call.id is not None}
    for number, result in enumerate(results):
        call = (
            by_id.get(result.tool_call_id)
            if result.tool_call_id in by_id
            else calls[number]
            if len(results) == len(calls)
            else None
        )
        if call is not None and result.name is not None and result.name != call.name:
            yield _fault(
                f"messages[{index + 1 + number}].name",
                "result-name",
                f"the result of {call.name!r} says that it is of {result.name!r}",
                "correct the name, or the tool_call_id",
            )


def miss_ids(ids: Sequence[str | None], given: Sequence[str | None]) -> bool:
    """Whether some of the ids of calls and results are there and others are not."""
    both = [*ids, *given]
    return None in both and any(one is not None for one in both)


def _check_ids(messages: Sequence[Message], calling: Sequence[int]) -> Iterator[Finding]:
    for index in calling:
        counts = Counter(call.id for call in messages[index].tool_calls if call.id is not None)
        twice = [one for one, count in counts.items() if count > 1]
        if twice:
            yield _fault(
                f"messages[{index}].tool_calls",
                "call-id-twice",
                f"several calls have the id {twice[0]!r}, so which result is whose is not said",
                "give each call an id of its own",
            )


# --- loops ------------------------------------------------------------------------------------------------------------


def _check_loops(messages: Sequence[Message], calling: Sequence[int]) -> Iterator[Finding]:
    """A user's text in between makes the same call a new one."""
    before: tuple[tuple[str, str], ...] = ()
    answer: tuple[str, ...] = ()
    end = -1  # where the messages of the call before are over
    run = 1
    for index in calling:
        calls = tuple((call.name, call.arguments) for call in messages[index].tool_calls)
        results = tuple(result.content for result in list_results(messages, index))
        field = f"messages[{index}].tool_calls"
        if len(set(calls)) < len(calls):
            yield _fault(
                field,
                "call-repeated",
                f"{_first_twice(messages[index].tool_calls)!r} is called twice at once with the same arguments",
                "keep one of the calls",
            )
        run = run + 1 if index == end and calls == before else 1
        if run >= _LOOP:
            yield _fault(
                field,
                "call-loop",
                f"the same call of {calls[0][0]!r}, {run} times in a row",
                "cut the loop out of the row, or remove the row",
            )
        elif run > 1 and results and results == answer:
            yield _fault(
                field,
                "call-repeated",
                f"{calls[0][0]!r} is called again with the same arguments, and gives the same",
                "cut the second call out",
            )
        before, answer, end = calls, results, index + 1 + len(results)


def _first_twice(calls: Sequence[ToolCall]) -> str:
    counts = Counter((call.name, call.arguments) for call in calls)
    return next(name for (name, _), count in counts.items() if count > 1)


def _fault(field: str, code: str, message: str, fix: str) -> Finding:
    return Finding(level="warning", code=code, field=field, message=message, fix=fix)
