"""Conversations on which the template for Ollama is compared with what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.core.types import Style as Dialect
from actune.exporting.ollama.nodes import Node, evaluate
from actune.exporting.ollama.values import to_values
from actune.render.chat import ChatRenderer
from actune.render.dialects import ChatDialect, ReactDialect
from actune.render.tokenizer import strip_marks

_FLAT = ToolSpec(
    name="get_weather",
    description="Weather of a city on a day.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "day": {"type": "string", "description": "today or tomorrow", "enum": ["today", "tomorrow"]},
        },
        "required": ["city"],
    },
)
_PLAIN = ToolSpec(
    name="count", description="", parameters={"type": "object", "properties": {"number": {"type": "integer"}}}
)
_UNSORTED = ToolSpec(
    name="send_mail",
    description="Sends a mail.",
    parameters={
        "type": "object",
        "properties": {
            "to": {"type": "string", "description": "to whom"},
            "body": {"type": "string", "description": ""},
        },
        "required": ["to", "body"],
    },
)
_SORTED = ToolSpec(
    name="send_mail", description="", parameters={"type": "object", "properties": {"body": {"type": "string"}}}
)
_NESTED = ToolSpec(
    name="book",
    description="Books seats.",
    parameters={
        "type": "object",
        "properties": {"seats": {"type": "array", "items": {"type": "string", "description": "a seat"}, "minItems": 1}},
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A conversation up to an answer, under a name for people."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case, and whether Ollama's prompt is the one of training; `where` is the first difference."""

    case: Case
    same: bool
    where: str = ""


def compare(nodes: Sequence[Node], renderer: ChatRenderer, dialect: Dialect) -> list[Outcome]:
    """Compare the prompts of a Go template with those of training, case by case."""
    outcomes = []
    for case in list_cases(dialect):
        try:
            wanted = write_prompt(case, renderer, dialect)
        except (RenderError, DataError):
            continue  # the template refuses it, in training too
        got = evaluate(nodes, to_values(as_ollama(case, dialect), case.tools))
        outcomes.append(Outcome(case=case, same=got == wanted, where="" if got == wanted else _show(wanted, got)))
    return outcomes


def write_prompt(case: Case, renderer: ChatRenderer, dialect: Dialect) -> str:
    """Return the prompt of training for the answer that follows a case."""
    style = dialect if case.tools and dialect != "chat" else "chat"
    conversation = Conversation(
        messages=(*case.messages, Message(role="assistant", content="")),
        tools=case.tools,
        source=Source(file="probe", line=1),
        style=style,
    )
    writer = ChatDialect(renderer) if style == "chat" else ReactDialect(renderer, "zh" if style == "react_zh" else "en")
    return strip_marks(writer.prompt(conversation, len(case.messages)))


def as_ollama(case: Case, dialect: Dialect) -> tuple[Message, ...]:
    """Return the messages of a case as a client has them that got its answers from Ollama."""
    if dialect == "chat" or not case.tools:
        return case.messages
    return tuple(_as_returned(message) if message.role == "assistant" else message for message in case.messages)


def _as_returned(message: Message) -> Message:
    """Return an answer with the text that Ollama leaves: all before the marker of a call."""
    thought = f"Thought: {message.reasoning}\n" if message.reasoning else ""
    rest = "" if message.tool_calls else f"Final Answer: {message.content}"
    return replace(message, content=thought + rest, reasoning="")


def list_cases(dialect: Dialect) -> Iterator[Case]:
    """Yield the cases, the simple ones first."""
    user, more = (
        Message(role="user", content="What is the weather?"),
        Message(role="user", content="再问一次：北京呢？"),
    )
    system = Message(role="system", content="You are kind.")
    answer = Message(role="assistant", content="Sunny.")
    yield Case(name="a question", messages=(user,))
    yield Case(name="a system text", messages=(system, user))
    yield Case(name="several turns", messages=(user, answer, more))
    yield Case(name="a system text and several turns", messages=(system, user, answer, more))
    thinking = "I look it up." if dialect != "chat" else ""
    call, result = (
        _call("get_weather", '{"city": "杭州", "day": "today"}', thinking),
        _seen("sunny, 25°C", "get_weather"),
    )
    done = Message(role="assistant", content="It is sunny.", reasoning="I know it now." if thinking else "")
    tools = (_FLAT,)
    yield Case(name="a tool", messages=(user,), tools=tools)
    yield Case(name="tools and a system text", messages=(system, user), tools=(_FLAT, _PLAIN))
    yield Case(name="a call and its result", messages=(user, call, result), tools=tools)
    yield Case(name="two calls in a row", messages=(user, call, result, call, result), tools=tools)
    yield Case(name="a second question after a call", messages=(system, user, call, result, done, more), tools=tools)
    if dialect == "chat":
        pair = replace(call, tool_calls=(*call.tool_calls, ToolCall(name="count", arguments='{"number": 3}')))
        yield Case(name="two calls at once", messages=(user, pair, result, _seen("3", "count")), tools=(_FLAT, _PLAIN))
        yield Case(
            name="a call beside text", messages=(user, replace(call, content="Let me look."), result), tools=tools
        )
        reasoned = replace(call, reasoning="I look it up.")
        yield Case(name="reasoning before a call", messages=(user, reasoned, result), tools=tools)
    signs = _call("get_weather", '{"city": "a<b&c"}', thinking)
    yield Case(name="<, > and & in arguments", messages=(user, signs, result), tools=tools)
    yield Case(name="properties that are not in the order of the alphabet", messages=(user,), tools=(_UNSORTED,))
    mail = _call("send_mail", '{"to": "a", "body": "b"}', thinking)
    yield Case(name="arguments that are not in that order", messages=(user, mail, result), tools=(_SORTED,))
    listed = _call("get_weather", '{"city": ["a", "b"]}', thinking)
    yield Case(name="lists in arguments", messages=(user, listed, result), tools=tools)
    yield Case(name="nested schemas and keywords", messages=(user,), tools=(_NESTED,))


def _call(name: str, arguments: str, thinking: str) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments),), reasoning=thinking)


def _seen(text: str, name: str) -> Message:
    return Message(role="tool", content=text, name=name)


def _show(wanted: str, got: str) -> str:
    size = min(len(wanted), len(got))
    at = next((place for place in range(size) if wanted[place] != got[place]), size)
    begin = max(0, at - 20)
    return f"{got[begin : at + 30]!r} instead of {wanted[begin : at + 30]!r}"
