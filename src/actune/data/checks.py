"""Findings about a conversation, before any template or model: what would teach the model something wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from actune.core.errors import DataError
from actune.core.types import Conversation, Message, ToolCall, ToolSpec

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding; `code` is stable, `field` says where in the row, `fix` what to do."""

    level: Level
    code: str
    field: str
    message: str
    fix: str


def find_problems(conversation: Conversation) -> list[Finding]:
    """Return the findings of one conversation, in order of messages."""
    findings = [
        Finding(
            level="warning",
            code="source-repaired",
            field="system",
            message=f"the row was read after a repair: {repair}",
            fix="correct the row; the text trained on is the source's own",
        )
        for repair in conversation.repairs
    ]
    if not any(m.role == "assistant" and m.train and m.weight > 0 for m in conversation.messages):
        findings.append(_nothing_trained())
    offered = {tool.name: tool for tool in conversation.tools}
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        if message.tool_calls and not _has_results(conversation, index):
            findings.append(
                Finding(
                    level="error",
                    code="observation-missing",
                    field=f"messages[{index}].tool_calls",
                    message="a call is followed by another answer without its result",
                    fix="put the tool's result after the call",
                )
            )
        if not (message.content.strip() or message.tool_calls):
            findings.append(_empty(index, message))
        for number, call in enumerate(message.tool_calls):
            findings.extend(_check_call(f"messages[{index}].tool_calls[{number}]", call, offered))
    return findings


def _nothing_trained() -> Finding:
    return Finding(
        level="error",
        code="nothing-trained",
        field="messages",
        message="no token of this row is trained: it has no assistant message with a weight above 0",
        fix="remove the row, or give an assistant message a weight",
    )


def _has_results(conversation: Conversation, index: int) -> bool:
    """Whether results follow a call; at the end of a row, or before a user's next text, none is needed."""
    following = conversation.messages[index + 1 :]
    return not following or following[0].role in ("tool", "user")


def _empty(index: int, message: Message) -> Finding:
    return Finding(
        level="warning",
        code="empty-answer",
        field=f"messages[{index}].content",
        message="the assistant's answer is empty" + (", only reasoning is there" if message.reasoning else ""),
        fix="remove the row or write the answer",
    )


def _check_call(where: str, call: ToolCall, offered: dict[str, ToolSpec]) -> Iterator[Finding]:
    if offered and call.name not in offered:
        yield Finding(
            level="error",
            code="unknown-tool",
            field=where,
            message=f"call of {call.name!r}, which is not among the tools {', '.join(offered)}",
            fix="correct the name or add the tool",
        )
    try:
        arguments = call.parse_arguments()
    except DataError as error:
        yield Finding(
            level="warning", code=error.code, field=f"{where}.arguments", message=error.message, fix=str(error.fix)
        )
        return
    if not _is_json(call.arguments):
        yield Finding(
            level="warning",
            code="arguments-python-literal",
            field=f"{where}.arguments",
            message=f"the arguments of {call.name!r} are a Python literal, not JSON",
            fix="write them as JSON, so that the model learns one form",
        )
    tool = offered.get(call.name)
    if tool is not None:
        for problem in _schema_problems(json.dumps(dict(tool.parameters), sort_keys=True), arguments):
            yield Finding(
                level="warning",
                code="arguments-schema",
                field=f"{where}.arguments",
                message=f"the arguments of {call.name!r} do not fit its schema: {problem}",
                fix="correct the call or the schema",
            )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _schema_problems(schema: str, arguments: dict[str, Any]) -> list[str]:
    from referencing.exceptions import Unresolvable

    validator = _validator(schema)
    if validator is None:
        return []
    try:
        return [error.message for error in validator.iter_errors(arguments)]
    except Unresolvable as error:
        return [f"a reference of the schema cannot be resolved: {error}"]


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Any:  # noqa: ANN401 - jsonschema is imported late
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    parsed = json.loads(schema)
    try:
        Draft202012Validator.check_schema(parsed)
    except SchemaError:
        return None  # a schema that is none cannot judge a call
    # Our own empty registry: a schema from a data file must never make the program fetch a URL.
    return Draft202012Validator(parsed, registry=Registry())
