"""Is everything of the conversation in the text? What a template or dialect loses is named, never passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actune.core import react
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, ToolSpec
from actune.render.dialects import Turn
from actune.render.tokenizer import strip_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something of the conversation that the rendered text lacks or changes."""

    code: str
    field: str
    message: str
    fix: str


_USE_REACT = "use --dialect react, or give another template with --chat_template"


def find_losses(conversation: Conversation, turns: Sequence[Turn], *, dialect: str, stops: Sequence[str]) -> list[Loss]:
    """Return every loss of a rendered conversation, in order of messages; an empty list means it is faithful."""
    if not turns:
        return []
    # Only what a prompt shows can be expected: messages after the last answer are in none.
    final = strip_marks(turns[-1].prompt)
    losses = list(_tool_losses(conversation.tools, final))
    for index, message in enumerate(conversation.messages[: turns[-1].index]):
        losses.extend(_context_losses(index, message, final))
    for turn in turns:
        message = conversation.messages[turn.index]
        completion = turn.completion
        if dialect == "chat" or not conversation.tools:
            losses.extend(_answer_losses(turn.index, message, completion))
        else:
            losses.extend(_react_losses(turn.index, message, completion, stops))
    return losses


def _tool_losses(tools: Sequence[ToolSpec], prompt: str) -> Iterator[Loss]:
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if tool.name not in prompt:
            yield Loss(
                code="tool-lost", field=where, message=f"tool {tool.name!r} is not in the prompt", fix=_USE_REACT
            )
            continue
        lines = [line.strip() for line in tool.description.splitlines() if line.strip()]
        properties = tool.parameters.get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        lacking = [text for text in lines + names if not _shows(prompt, text)]
        if lacking:
            what = f"of tool {tool.name!r} the prompt lacks {_quote(lacking[0])}"
            yield Loss(code="tool-schema-lost", field=where, message=what, fix=_USE_REACT)


def _context_losses(index: int, message: Message, prompt: str) -> Iterator[Loss]:
    where = f"messages[{index}].content"
    if message.role == "assistant" or not message.content.strip():
        return
    if not _shows_value(prompt, message.content):
        kind = {"system": "system-lost", "user": "user-lost", "tool": "observation-lost"}[message.role]
        what = f"the {message.role} text {_quote(message.content)} is not in the prompt"
        yield Loss(code=kind, field=where, message=what, fix=_USE_REACT)


def _answer_losses(index: int, message: Message, completion: str) -> Iterator[Loss]:
    where = f"messages[{index}]"
    for field, text in (("content", message.content), ("reasoning", message.reasoning)):
        if text.strip() and text.strip() not in completion:
            what = f"the {field} {_quote(text)} is not in the completion"
            yield Loss(code=f"{field}-lost", field=f"{where}.{field}", message=what, fix=_fix_of(field))
    for number, call in enumerate(message.tool_calls):
        place = f"{where}.tool_calls[{number}]"
        if call.name not in completion:
            yield Loss(code="call-lost", field=place, message=f"call {call.name!r} is not in the text", fix=_USE_REACT)
            continue
        lacking = [leaf for leaf in _leaves(call.parse_arguments()) if not _shows(completion, leaf)]
        if lacking:
            what = f"argument {_quote(lacking[0])} of {call.name!r} is not in the text"
            yield Loss(code="arguments-lost", field=f"{place}.arguments", message=what, fix=_USE_REACT)
        elif _escaped_twice(call.parse_arguments(), completion):
            what = f"the arguments of {call.name!r} are escaped twice"
            yield Loss(code="arguments-escaped", field=f"{place}.arguments", message=what, fix=_USE_REACT)


def _react_losses(index: int, message: Message, completion: str, stops: Sequence[str]) -> Iterator[Loss]:
    """A ReAct completion must be read back as the message it was written from."""
    where = f"messages[{index}]"
    text = react.write_step(message)
    for stop in stops:
        if stop in text:
            what = f"the assistant's text contains the stop {stop!r}; a server would cut it there"
            yield Loss(code="stop-inside", field=where, message=what, fix="remove it from the row")
    try:
        read = react.read_message(react.parse_step(text))
    except DataError as error:
        yield Loss(code="react-unreadable", field=where, message=error.message, fix=str(error.fix))
        return
    thought = message.reasoning or (message.content if message.tool_calls else "")
    answer = "" if message.tool_calls else message.content
    same = (
        read.reasoning.strip() == thought.strip()
        and read.content.strip() == answer.strip()
        and [(c.name, c.arguments.strip()) for c in read.tool_calls]
        == [(c.name.strip(), c.arguments.strip()) for c in message.tool_calls]
    )
    if not same or not completion.startswith(text):
        what = f"the text {_quote(text)} is read back as another step (a marker such as 'Action:' at a line start?)"
        fix = "indent or reword lines that begin with Thought:, Action:, Observation: or Final Answer:"
        yield Loss(code="react-ambiguous", field=where, message=what, fix=fix)


def _fix_of(field: str) -> str:
    if field == "reasoning":
        return "use a template that shows reasoning, --dialect react, or remove it from the row"
    return _USE_REACT


def _shows(text: str, part: str) -> bool:
    """Whether a part stands in a text: as it is, or as JSON writes it."""
    if part in text:
        return True
    return json.dumps(part, ensure_ascii=False)[1:-1] in text or json.dumps(part)[1:-1] in text


def _shows_value(text: str, content: str) -> bool:
    """As `_shows`, and JSON content may be written in another layout (some templates parse and dump it again)."""
    if _shows(text, content) or _shows(text, content.strip()):
        return True
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return all(_shows(text, leaf) for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield the texts that must be visible of a JSON value: keys, strings and numbers."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield json.dumps(value)


def _escaped_twice(arguments: Mapping[str, Any], completion: str) -> bool:
    if "&#34;" in completion or "&quot;" in completion:
        source = json.dumps(arguments, ensure_ascii=False)
        return "&#34;" not in source and "&quot;" not in source
    return any(re.search(r'\\"' + re.escape(key) + r'\\"\s*:', completion) for key in arguments)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
