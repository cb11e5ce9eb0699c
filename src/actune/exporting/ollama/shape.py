"""What a chat template writes around messages, tools and calls: found by rendering words and looking what stands between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actune.core.errors import DataError, RenderError
from actune.core.types import Message, ToolCall, ToolSpec
from actune.render.chat import ChatRenderer
from actune.render.tokenizer import strip_marks

Style = tuple[str, str]
"""What JSON has between entries and behind a key."""

STYLES: tuple[Style, ...] = ((", ", ": "), (",", ":"))
Thinking = Literal["never", "since-user", "always"]
_SYSTEM, _FIRST, _SECOND, _ANSWER, _REASON = "zqsystem", "zqquestion", "zqfurther", "zqanswer", "zqreason"
_RESULT, _OTHER = "zqresult", "zqother"


class InexpressibleError(Exception):
    """A template does something that the Go template written here does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Literals of plain chat: what stands before and behind the text of each role. `head` is there without a system text."""

    head: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """How tools are shown: before, between and behind their JSON, without and with a system text (and where that stands).

    `wrapped` says that the JSON has `type` and `function` around the function.
    """

    style: Style
    wrapped: bool
    alone: tuple[str, str]
    join: str
    with_system: tuple[str, str, str]
    system_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How calls are written: `first` up to the name, `middle` up to the arguments, `join` to the next name, `last` to the end.

    `gap` stands between a text and the first call. `result` is before, between and behind results.
    """

    style: Style
    first: str
    middle: str
    join: str
    last: str
    gap: str
    result: tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that was found; `reasons` say which parts a Go template cannot write."""

    chat: Chat
    tools: Tools | None = None
    calls: Calls | None = None
    thinking: Thinking = "never"
    reasoning: tuple[str, str] = ("", "")
    reasons: tuple[str, ...] = ()


def learn_shape(renderer: ChatRenderer) -> Shape:
    """Return what a chat template writes.

    Raises:
        InexpressibleError: not even plain chat is a row of blocks.
    """
    probe = _Probe(renderer)
    try:
        chat = probe.find_chat()
    except (RenderError, DataError) as error:
        raise InexpressibleError(f"the chat template refuses a plain chat: {error.message}") from error
    reasons: list[str] = []
    found: dict[str, Any] = {}
    steps = {"tools": probe.find_tools, "calls": probe.find_calls} if renderer.profile.tools else {}
    for name, find in steps.items():
        try:
            found[name] = find(chat)
        except (RenderError, DataError, InexpressibleError) as error:
            reasons.append(f"{name}: {getattr(error, 'message', error)}")
    if not steps:
        reasons.append("tools: the chat template shows none")
    thinking, reasoning = probe.find_thinking(chat)
    return Shape(chat=chat, thinking=thinking, reasoning=reasoning, reasons=tuple(reasons), **found)


def write_json(value: Any, style: Style) -> str:  # noqa: ANN401 - any JSON value
    """Return JSON as a template writes it in a style."""
    return json.dumps(value, ensure_ascii=False, separators=style)


def _tool(name: str) -> ToolSpec:
    schema = {"type": "object", "properties": {"zqkey": {"type": "string", "description": "zqparameter"}}}
    return ToolSpec(name=name, description=f"{name} described", parameters=schema | {"required": ["zqkey"]})


_TOOLS = (_tool("zqtool"), _tool("zqnext"))


class _Probe:
    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer

    def _render(self, *messages: Message, tools: Sequence[ToolSpec] = (), prompt: bool = False) -> str:
        return strip_marks(self._renderer.render(list(messages), tools=tools, prompt=prompt))

    def find_chat(self) -> Chat:
        question, answer, further = _user(_FIRST), _answer(_ANSWER), _user(_SECOND)
        plain = self._render(question)
        start, user_end = cut(plain, _FIRST)
        prompt = behind(self._render(question, prompt=True), plain)
        _, between, follow, _ = cut(self._render(question, answer, further), _FIRST, _ANSWER, _SECOND)
        ends = cut(self._render(question, answer), _FIRST, _ANSWER)[2]
        assistant = (behind(between, user_end), ends)
        user_start = behind(follow, ends)
        head = before(start, user_start)
        system = None
        if self._renderer.profile.system:
            begin, rest, _ = cut(self._render(Message(role="system", content=_SYSTEM), question), _SYSTEM, _FIRST)
            system = (begin, before(rest, user_start))
        return Chat(head=head, system=system, user=(user_start, user_end), assistant=assistant, prompt=prompt)

    def find_tools(self, chat: Chat) -> Tools:
        question, system = _user(_FIRST), Message(role="system", content=_SYSTEM)
        one, two = (self._render(question, tools=_TOOLS[:count]) for count in (1, 2))
        style, wrapped = _find_style(one)
        texts = [_write_tool(tool, style, wrapped=wrapped) for tool in _TOOLS]
        start, rest = cut(one, texts[0])
        end = before(cut(rest, _FIRST)[0], chat.user[0])
        join = cut(two, *texts)[1]
        if not self._renderer.profile.system:
            return Tools(
                style=style, wrapped=wrapped, alone=(start, end), join=join, with_system=("", "", ""), system_first=True
            )
        both = self._render(system, question, tools=_TOOLS[:1])
        first = both.find(_SYSTEM) < both.find(texts[0])
        marks = (_SYSTEM, texts[0], _FIRST) if first else (texts[0], _SYSTEM, _FIRST)
        begin, middle, last, _ = cut(both, *marks)
        return Tools(
            style=style,
            wrapped=wrapped,
            alone=(start, end),
            join=join,
            with_system=(begin, middle, before(last, chat.user[0])),
            system_first=first,
        )

    def find_calls(self, chat: Chat) -> Calls:
        form = self._renderer.profile.arguments
        if form is None:
            raise InexpressibleError(self._renderer.profile.reason or "it shows no calls")
        question, call = _user(_FIRST), _calling("zqtool")
        closed = self._after(question, call)
        style = next((one for one in STYLES if write_json({"zqkey": "zqvalue"}, one) in closed), None)
        if style is None or form != "dict":
            raise InexpressibleError("arguments are not written as a JSON object")
        arguments = write_json({"zqkey": "zqvalue"}, style)
        last = cut(closed, arguments)[1]
        # In the history: the last message may be written otherwise (an empty reasoning block).
        head, rest = cut(self._after(question, call, _result(_RESULT, 1)), arguments)
        begin, middle = cut(head, "zqtool")
        first = behind(behind(begin, chat.user[1]), chat.assistant[0])
        start, end = cut(rest, _RESULT)
        texted = self._after(question, _calling("zqtool", content=_ANSWER), _result(_RESULT, 1))
        gap = before(cut(cut(texted, arguments)[0], _ANSWER, "zqtool")[1], first)
        result_start = behind(start, last)
        try:
            pair = _calling("zqtool", "zqnext")
            double = cut(self._after(question, pair, _result(_RESULT, 1), _result(_OTHER, 2)), arguments)[1]
            join = cut(double[: double.find(_RESULT)], "zqnext")[0]
            result_join = cut(double, _RESULT, _OTHER)[1]
        except RenderError:  # the template refuses several calls
            join, result_join = last + first, end + result_start
        return Calls(
            style=style,
            first=first,
            middle=middle,
            join=join,
            last=last,
            gap=gap,
            result=(result_start, result_join, end),
        )

    def find_thinking(self, chat: Chat) -> tuple[Thinking, tuple[str, str]]:
        """Return from which message on reasoning is shown, and what stands before and behind it."""
        question, reasoned = _user(_FIRST), Message(role="assistant", content=_ANSWER, reasoning=_REASON)
        try:
            last = self._render(question, reasoned)
            history = self._render(question, reasoned, _user(_SECOND))
            if _REASON not in last:
                return "never", ("", "")
            _, between, rest, _ = cut(last, _FIRST, _REASON, _ANSWER)
            edges = (behind(behind(between, chat.user[1]), chat.assistant[0]), rest)
        except (RenderError, DataError, InexpressibleError):
            return "never", ("", "")
        return ("always" if _REASON in history else "since-user"), edges

    def _after(self, question: Message, *messages: Message) -> str:
        """Return what follows the question: the list of tools names them too."""
        return cut(self._render(question, *messages, tools=_TOOLS), question.content)[1]


def _find_style(text: str) -> tuple[Style, bool]:
    for style in STYLES:
        for wrapped in (True, False):
            if _write_tool(_TOOLS[0], style, wrapped=wrapped) in text:
                return style, wrapped
    raise InexpressibleError("they are not written as JSON of one line")


def _write_tool(tool: ToolSpec, style: Style, *, wrapped: bool) -> str:
    described: Mapping[str, Any] = tool.describe()
    return write_json(described if wrapped else described["function"], style)


def cut(text: str, *marks: str) -> list[str]:
    """Return what stands before, between and behind marks that each stand once in a text, in this order."""
    parts, place = [], 0
    for mark in marks:
        at = text.find(mark, place)
        if at < 0 or text.find(mark, at + len(mark)) >= 0:
            raise InexpressibleError(f"{mark!r} is {'not' if at < 0 else 'more than once'} where it belongs")
        parts.append(text[place:at])
        place = at + len(mark)
    return [*parts, text[place:]]


def behind(text: str, start: str) -> str:
    """Return what follows a beginning."""
    if not text.startswith(start):
        raise InexpressibleError(f"{text[:60]!r} does not begin with {start[:60]!r}: blocks depend on what follows")
    return text[len(start) :]


def before(text: str, end: str) -> str:
    """Return what precedes an end."""
    if not text.endswith(end):
        raise InexpressibleError(f"{text[-60:]!r} does not end in {end[-60:]!r}: blocks depend on what precedes")
    return text[: len(text) - len(end)]


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _answer(text: str) -> Message:
    return Message(role="assistant", content=text)


def _calling(*names: str, content: str = "") -> Message:
    calls = tuple(
        ToolCall(name=name, arguments=json.dumps({"zqkey": value}), id=number)
        for name, value, number in zip(names, ("zqvalue", "zqmore"), ("zqid000001", "zqid000002"), strict=False)
    )
    return Message(role="assistant", content=content, tool_calls=calls)


def _result(text: str, number: int) -> Message:
    return Message(role="tool", content=text, name="zqtool", tool_call_id=f"zqid00000{number}")
