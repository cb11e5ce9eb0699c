"""Is everything of the conversation in the text? What a template or dialect loses is named, never passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from actune.core import react
from actune.core.errors import DataError
from actune.core.losses import name_of
from actune.core.schema import find_properties
from actune.core.types import Conversation, Message, ToolSpec
from actune.render import matching
from actune.render.dialects import Dialect, Turn
from actune.render.tokenizer import MARK_CLOSE, MARK_OPEN, strip_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something of the conversation that the rendered text lacks or changes."""

    code: str
    field: str
    message: str
    fix: str


_USE_REACT = "use --dialect react, or give another template with --chat_template"
_KINDS = {"system": "system-lost", "user": "user-lost", "tool": "observation-lost"}


def find_losses(
    conversation: Conversation, turns: Sequence[Turn], dialect: Dialect, stops: Sequence[str]
) -> list[Loss]:
    """Return every loss of a rendered conversation once; an empty list means it is faithful.

    Every prompt must show the tools and all messages before it, in their order; every completion must be read back as
    its message.
    """
    prompts = list(find_prompt_losses(conversation, turns, dialect))
    found = [loss for loss in prompts if loss.field.startswith("tools")]
    for turn in turns:
        found += _answer_losses(conversation, turn, dialect, stops)
    found += prompts  # what an answer lacks is missing in the prompts after it as well
    losses: dict[tuple[str, str], Loss] = {}
    for loss in found:
        name = name_of(loss.code)
        fix = loss.fix if name is None else f"{loss.fix}; or allow it with --allow_loss {name}"
        losses.setdefault((loss.code, loss.field), replace(loss, fix=fix))
    return list(losses.values())


def find_prompt_losses(conversation: Conversation, turns: Sequence[Turn], dialect: Dialect) -> Iterator[Loss]:
    """Yield what the prompts lack of the tools and of the messages before them."""
    native = dialect.name == "chat" or not conversation.tools
    # Mostly everything is there as it is; only where that is not so, other ways to write it are looked for.
    for quick in (True, False):
        losses = list(_walk(conversation, turns, native=native, quick=quick))
        if not losses:
            return
    yield from losses


def _walk(conversation: Conversation, turns: Sequence[Turn], *, native: bool, quick: bool) -> Iterator[Loss]:
    prompt, shown = "", 0
    written: dict[int, str] = {}
    for turn in turns:
        before, prompt = prompt, strip_marks(turn.prompt)
        start = len(before) if before and prompt.startswith(before) else 0
        if not start:
            yield from _tool_losses(conversation, prompt)
        # Where the prompt only grew, what it showed before is still there.
        indices = range(shown if start else 0, turn.index)
        yield from _context_losses(conversation, indices, prompt, start, written, native=native, quick=quick)
        shown = turn.index
        written[turn.index] = turn.completion


def _answer_losses(conversation: Conversation, turn: Turn, dialect: Dialect, stops: Sequence[str]) -> Iterator[Loss]:
    """What the completion of a turn lacks, or is read back as."""
    where, message = f"messages[{turn.index}]", conversation.messages[turn.index]
    if MARK_OPEN in turn.completion or MARK_CLOSE in turn.completion:
        yield _mark_inside(turn.index)
    native = dialect.name == "chat"
    found, fault = _read_back(conversation, turn, dialect)
    if found is None and fault is None and (native or not any(stop in react.write_step(message) for stop in stops)):
        return
    # It is not read back as it was: say which part is to blame.
    if not native:
        yield from _react_losses(where, message, found, fault, stops)
        return
    lost = list(_native_losses(turn.index, message, turn.completion, conversation.tools, stops))
    yield from lost
    texts = {loss.field.rsplit(".", 1)[-1] for loss in lost} & {"reasoning", "content"}
    if len(texts) == len(lost):  # the rest of the message must come back
        reasoning = "" if "reasoning" in texts else message.reasoning
        rest = replace(message, reasoning=reasoning, content="" if "content" in texts else message.content)
        messages = (*conversation.messages[: turn.index], rest, *conversation.messages[turn.index + 1 :])
        found, fault = _read_back(replace(conversation, messages=messages), turn, dialect)
        if found is not None or fault is not None:
            yield _read_otherwise(where, found, fault)


def _read_back(
    conversation: Conversation, turn: Turn, dialect: Dialect
) -> tuple[tuple[str, str] | None, DataError | None]:
    """Return what is read otherwise of a turn, or why it cannot be read."""
    try:
        return dialect.find_difference(conversation, turn.index, turn.completion), None
    except DataError as error:
        return None, error


def _read_otherwise(where: str, found: tuple[str, str] | None, fault: DataError | None) -> Loss:
    """The loss of a text that is in the completion and cannot be told there from something else."""
    if fault is not None:
        return Loss(code="completion-unreadable", field=where, message=fault.message, fix=_USE_REACT)
    field, what = found if found is not None else ("content", "another text")
    kind = "calls" if field.startswith("tool_calls") else field
    message = f"the completion is read back with {what}"
    fix = (
        "reword what looks like a marker of the template, move text beside a call into the reasoning, or " + _USE_REACT
    )
    return Loss(code=f"{kind}-ambiguous", field=f"{where}.{field}", message=message, fix=fix)


def _tool_losses(conversation: Conversation, prompt: str) -> Iterator[Loss]:
    if not conversation.tools:
        return
    asked = next((m.content for m in conversation.messages if m.role == "user" and m.content), "")
    # Tools mostly stand before the first question, in a text that many rows share.
    head = prompt[: max(prompt.find(asked), 0)] if asked else ""
    # Most templates write a tool as the JSON that they are given.
    if all(json.dumps(tool.describe()["function"], ensure_ascii=False) in prompt for tool in conversation.tools):
        return
    words_of = _last_tools.words(conversation.tools)
    for number, (tool, words) in enumerate(zip(conversation.tools, words_of, strict=True)):
        where = f"tools[{number}]"
        lacking = _find_lacking(words, head) if head else words
        lacking = _find_lacking(lacking, prompt) if lacking else ()
        if lacking and lacking[0] == tool.name:
            what = f"tool {tool.name!r} is not in the prompt"
            yield Loss(code="tool-lost", field=where, message=what, fix=_USE_REACT)
        elif lacking:
            what = f"of tool {tool.name!r} the prompt lacks {_quote(lacking[0])}"
            yield Loss(code="tool-schema-lost", field=where, message=what, fix=_USE_REACT)


class _LastTools:
    """The words of the tools that were asked for last: rows of one file mostly have the same tools."""

    def __init__(self) -> None:
        self._last: tuple[Sequence[ToolSpec], list[tuple[str, ...]]] = ((), [])

    def words(self, tools: Sequence[ToolSpec]) -> list[tuple[str, ...]]:
        """Return `_schema_words` of each tool."""
        known, words = self._last
        if known is not tools and known != tools:
            words = [_schema_words(tool) for tool in tools]
        self._last = (tools, words)
        return words


_last_tools = _LastTools()


@lru_cache(maxsize=4096)
def _find_lacking(words: tuple[str, ...], text: str) -> tuple[str, ...]:
    # In quotes a word stands alone, which is quickly seen.
    return tuple(word for word in words if f'"{word}"' not in text and matching.find_text(text, word) is None)


def _schema_words(tool: ToolSpec) -> tuple[str, ...]:
    """Return what a prompt has to show of a tool: its name, and names, descriptions and choices of its parameters."""
    return tuple(dict.fromkeys([tool.name, *_lines(tool.description), *_walk_schema(tool.parameters)]))


def _walk_schema(schema: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if not isinstance(schema, Mapping):
        return
    if isinstance(schema.get("description"), str):
        yield from _lines(schema["description"])
    if isinstance(schema.get("enum"), (list, tuple)):
        yield from (value for value in schema["enum"] if isinstance(value, str) and value.strip())
    for name, entry in find_properties(schema).items():
        if name:
            yield name
        yield from _walk_schema(entry)
    for key in ("$defs", "definitions"):
        entries = schema.get(key)
        for entry in entries.values() if isinstance(entries, Mapping) else ():
            yield from _walk_schema(entry)
    for key in ("items", "additionalProperties"):
        yield from _walk_schema(schema.get(key))
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        for option in options if isinstance(options, (list, tuple)) else ():
            yield from _walk_schema(option)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _context_losses(
    conversation: Conversation,
    indices: range,
    prompt: str,
    start: int,
    written: Mapping[int, str],
    *,
    native: bool,
    quick: bool,
) -> Iterator[Loss]:
    """Messages of a prompt, looked for one after the other; a system text may stand anywhere.

    `written` are the completions before, which a history mostly repeats as they are. `quick`: texts of users and tools
    are looked for as they are only.
    """
    place = start
    for index in indices:
        message = conversation.messages[index]
        if message.role == "assistant":
            if index in written and prompt.startswith(written[index], place):
                place += len(written[index])
                continue
            end = _find_history(message, prompt, place, native=native, tools=conversation.tools)
            if end is None:
                what = f"the assistant message {_quote(_gist(message))} is not in the prompts after it"
                yield Loss(code="history-lost", field=f"messages[{index}]", message=what, fix=_USE_REACT)
        elif not message.content.strip():
            continue
        else:
            find = matching.find_plain if quick else matching.find_value
            end = find(prompt, message.content, 0 if message.role == "system" else place)
            if end is None:
                what = f"the {message.role} text {_quote(message.content)} is not in the prompt at its place"
                yield Loss(code=_KINDS[message.role], field=f"messages[{index}].content", message=what, fix=_USE_REACT)
        if end is not None and message.role != "system":
            place = end


def _find_history(message: Message, prompt: str, start: int, *, native: bool, tools: Sequence[ToolSpec]) -> int | None:
    """Return where an earlier answer ends in a prompt; its reasoning may be dropped there, text and calls may not.

    Some templates write the text after the calls, or even after their results, so it counts anywhere from `start`.
    """
    # Templates that strip reasoning from the history also strip it where it stands in the content.
    content = message.content.rsplit("</think>", 1)[-1].strip()
    text_end = matching.find_text(prompt, content, start)
    if text_end is None or not message.tool_calls:
        return text_end
    place: int | None = start
    for call in message.tool_calls:
        if place is None:
            break
        if native:
            place = matching.find_call(prompt, call, place, _schema(tools, call.name))
        else:
            place = matching.find_text(prompt, call.arguments.strip(), place)
    return place


def _native_losses(
    index: int, message: Message, completion: str, tools: Sequence[ToolSpec], stops: Sequence[str]
) -> Iterator[Loss]:
    where = f"messages[{index}]"
    rest = completion
    for field, text in (("reasoning", message.reasoning), ("content", message.content)):
        text = text.strip()
        if text and text not in rest:
            inside = next((stop for stop in stops if stop in text), None)
            if inside is not None:
                yield _stop_inside(f"{where}.{field}", inside)
            else:
                what = f"the {field} {_quote(text)} is not in the completion"
                yield Loss(code=f"{field}-lost", field=f"{where}.{field}", message=what, fix=_fix_of(field))
        rest = rest.replace(text, "\n", 1) if text else rest
    start = 0
    for number, call in enumerate(message.tool_calls):
        place = f"{where}.tool_calls[{number}]"
        end = matching.find_call(rest, call, start, _schema(tools, call.name))
        if end is None:
            yield _call_loss(place, call.name, call.arguments, rest[start:], stops)
            continue
        start = end
        if _escaped_twice(call.parse_arguments(), rest):
            what = f"the arguments of {call.name!r} are escaped twice"
            yield Loss(code="arguments-escaped", field=f"{place}.arguments", message=what, fix=_USE_REACT)


def _call_loss(place: str, name: str, arguments: str, rest: str, stops: Sequence[str]) -> Loss:
    inside = next((stop for stop in stops if stop in arguments), None)
    if inside is not None:
        return _stop_inside(f"{place}.arguments", inside)
    if matching.find_word(rest, name) is None:
        what = f"call {name!r} is not in the text"
        return Loss(code="call-lost", field=place, message=what, fix=_USE_REACT)
    what = f"the arguments {_quote(arguments)} of {name!r} are not in the text as they are"
    return Loss(code="arguments-lost", field=f"{place}.arguments", message=what, fix=_USE_REACT)


def _react_losses(
    where: str, message: Message, found: tuple[str, str] | None, fault: DataError | None, stops: Sequence[str]
) -> Iterator[Loss]:
    """A ReAct completion must be read back as the step it was written from."""
    text = react.write_step(message)
    inside = [stop for stop in stops if stop in text]
    for stop in inside:
        yield _stop_inside(where, stop)
    if fault is not None:
        yield Loss(code="react-unreadable", field=where, message=fault.message, fix=str(fault.fix))
    elif not inside:
        read = found[1] if found is not None else "another step"
        what = f"the text {_quote(text)} is read back as {read} (a marker such as 'Action:' at a line start?)"
        fix = "indent or reword lines that begin with Thought:, Action:, Observation: or Final Answer:"
        yield Loss(code="react-ambiguous", field=where, message=what, fix=fix)


def _stop_inside(field: str, stop: str) -> Loss:
    what = f"the assistant's text contains the stop {stop!r}; a server would cut it there"
    return Loss(code="stop-inside", field=field, message=what, fix="remove it from the row")


def _mark_inside(index: int) -> Loss:
    what = "the assistant's text contains U+F0000 or U+F0001, which mark control tokens here"
    return Loss(code="mark-inside", field=f"messages[{index}]", message=what, fix="remove the character from the row")


def _fix_of(field: str) -> str:
    if field == "reasoning":
        return "use a template that shows reasoning, --dialect react, or remove it from the row"
    return _USE_REACT


def _schema(tools: Sequence[ToolSpec], name: str) -> Mapping[str, Any]:
    return next((tool.parameters for tool in tools if tool.name == name), {})


def _gist(message: Message) -> str:
    return message.content or ", ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)


def _escaped_twice(arguments: Mapping[str, Any], completion: str) -> bool:
    if "&#34;" in completion or "&quot;" in completion:
        source = json.dumps(arguments, ensure_ascii=False)
        return "&#34;" not in source and "&quot;" not in source
    return any(re.search(r'\\"' + re.escape(key) + r'\\"\s*:', completion) for key in arguments)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
