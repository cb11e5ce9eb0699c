"""How an answer is asked of the engine: as it comes, without a call, or as a call of a certain tool.

A plan is a generator: it yields what it wants of the engine and gets the result, and returns the whole output. Nothing
constrains a token. Where a call is required, the model thinks until it would act or answer, and then its output is gone
on with from the text that opens the call, written as in training up to the arguments; of several tools, the one whose
opening the model finds likeliest is taken. Where no call is wanted, a ReAct answer is gone on with from
`Final Answer:` once the thought has ended; other formats end at the marker of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from actune.agents.engines.engine import Generation, StopReason
from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, ToolCall, ToolSpec
from actune.render.dialects import ChatDialect, Dialect, Stops
from actune.serving.errors import ApiError
from actune.serving.reading import Reader, Reply
from actune.serving.splitter import outline

# Tokens after which it shows whether an output begins with reasoning.
_PEEK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An output that is wanted after a prompt; `live`: it is told piece by piece, as it is part of the answer."""

    prompt: Sequence[int]
    stops: Stops
    max_tokens: int
    live: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Log-probabilities that are wanted of continuations, each of its prompt."""

    sequences: Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Text that is part of the answer and was not told while it was generated, or was not generated."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A whole output: its text, the sampled tokens, why it ended."""

    text: str
    tokens: int
    reason: StopReason


Result = Generation | list[list[float]] | None
Plan = Generator[Ask | Rate | Tell, Result, Output]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """What plans write prompts with: the conversation, its dialect, and how text becomes ids.

    `endings` are the texts that the template ends an answer with.
    """

    conversation: Conversation
    dialect: Dialect
    encode: Callable[[str], list[int]]
    encode_turn: Callable[[str, str], tuple[Sequence[int], int]]
    stops: Stops
    endings: tuple[str, ...]
    max_tokens: int
    new_id: Callable[[], str]

    def prompt(self) -> str:
        """Return the text that training shows before this answer.

        Raises:
            RenderError, DataError: the conversation cannot be written.
        """
        return self.dialect.prompt(self.conversation, len(self.conversation.messages))


def make_plan(writer: Writer, reader: Reader, text: str, ids: Sequence[int]) -> Plan:
    """Return the plan of a request; `text` is its prompt and `ids` are those of the text.

    Raises:
        ApiError: 400, where the model's format does not allow what is wanted.
    """
    choice = reader.choice
    if choice.mode == "auto":
        return _plain(writer, ids, writer.stops)
    react_text = not isinstance(writer.dialect, ChatDialect)
    if choice.mode == "none":
        if react_text:
            return _answer_react(writer, text, ids)
        return _plain(writer, ids, _add_texts(writer.stops, _call_markers(writer.dialect)))
    tools = [tool for tool in reader.tools if not choice.names or tool.name in choice.names]
    if react_text:
        return _call_react(writer, text, tools)
    openings = {tool.name: _open_native(writer, reader, tool, Message(role="assistant")) for tool in tools}
    return _call_native(writer, reader, text, tools, openings)


def _plain(writer: Writer, ids: Sequence[int], stops: Stops) -> Plan:
    generation = yield Ask(prompt=ids, stops=stops, max_tokens=writer.max_tokens)
    assert isinstance(generation, Generation)
    return Output(text=generation.text, tokens=generation.tokens, reason=generation.reason)


def _add_texts(stops: Stops, texts: Sequence[str]) -> Stops:
    return replace(stops, texts=tuple(dict.fromkeys([*stops.texts, *texts])))


def _call_markers(dialect: Dialect) -> tuple[str, ...]:
    assert isinstance(dialect, ChatDialect)
    return outline(dialect.format, tools=True).markers


# --- ReAct ------------------------------------------------------------------------------------------------------------

_ACT, _ANSWER = "Action:", "Final Answer:"


def _think(writer: Writer, text: str) -> Plan:
    """Let the model write its thought; the output ends before `Action:` or `Final Answer:`, which are left out."""
    words = (*writer.stops.words, _ACT, "Action Input:", _ANSWER)
    stops = replace(writer.stops, words=tuple(dict.fromkeys(words)))
    ask = Ask(prompt=writer.encode(text), stops=stops, max_tokens=writer.max_tokens, live=False)
    generation = yield ask
    assert isinstance(generation, Generation)
    thought = generation.text
    if generation.reason == "word":
        thought = thought[: thought.rfind("\n") + 1]  # the word opens the last line
    return Output(text=thought, tokens=generation.tokens, reason=generation.reason)


def _go_on(writer: Writer, text: str, before: str, tokens: int) -> Plan:
    """Generate what follows `before`, the beginning of the answer to the prompt `text`."""
    yield Tell(text=before)
    left = writer.max_tokens - tokens
    if left <= 0:
        return Output(text=before, tokens=tokens, reason="length")
    generation = yield Ask(prompt=writer.encode(text + before), stops=writer.stops, max_tokens=left)
    assert isinstance(generation, Generation)
    return Output(text=before + generation.text, tokens=tokens + generation.tokens, reason=generation.reason)


def _close_line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _answer_react(writer: Writer, text: str, ids: Sequence[int]) -> Plan:
    thought = yield from _think(writer, text)
    if thought.reason != "word":  # an answer without any marker, or it was cut
        yield Tell(text=thought.text)
        return thought
    return (yield from _go_on(writer, text, thought.text + _ANSWER, thought.tokens))


def _call_react(writer: Writer, text: str, tools: Sequence[ToolSpec]) -> Plan:
    thought = yield from _think(writer, text)
    if thought.reason in ("length", "time"):
        yield Tell(text=thought.text)
        return thought
    head = _close_line(thought.text) + _ACT
    openings = {tool.name: f"{head} {tool.name}\nAction Input:" for tool in tools}
    name = yield from _pick(writer, text, openings)
    return (yield from _go_on(writer, text, openings[name], thought.tokens))


def _pick(writer: Writer, text: str, openings: dict[str, str]) -> Generator[Ask | Rate | Tell, Result, str]:
    """Return the name whose opening is likeliest after a prompt."""
    if len(openings) == 1:
        return next(iter(openings))
    sequences = []
    for opening in openings.values():
        ids, start = writer.encode_turn(text, opening)
        sequences.append((list(ids[:start]), list(ids[start:])))
    scores = yield Rate(sequences=sequences)
    assert isinstance(scores, list)
    totals = [sum(values) for values in scores]
    return list(openings)[totals.index(max(totals))]


# --- a template's own format ------------------------------------------------------------------------------------------


def _call_native(
    writer: Writer, reader: Reader, text: str, tools: Sequence[ToolSpec], openings: dict[str, str]
) -> Plan:
    thought, tokens = yield from _reason(writer, reader, text)
    if thought.reasoning:
        openings = {tool.name: _open_native(writer, reader, tool, thought) for tool in tools}
    name = yield from _pick(writer, text, openings)
    return (yield from _go_on(writer, text, openings[name], tokens))


def _reason(writer: Writer, reader: Reader, text: str) -> Generator[Ask | Rate | Tell, Result, tuple[Message, int]]:
    """Let a model that reasons do so; returns a message with its reasoning, and the sampled tokens."""
    assert isinstance(writer.dialect, ChatDialect)
    known = outline(writer.dialect.format, tools=True)
    nothing = Message(role="assistant")
    if known.opener is None:
        return nothing, 0
    stops = _add_texts(writer.stops, (known.closer, *known.markers))
    begun, tokens = "", 0
    if known.opener.strip():
        size = min(_PEEK, writer.max_tokens)
        peek = yield Ask(prompt=writer.encode(text), stops=stops, max_tokens=size, live=False)
        assert isinstance(peek, Generation)
        begun, tokens = peek.text, peek.tokens
        if not begun.lstrip().startswith(known.opener.strip()):
            return nothing, tokens
    if writer.max_tokens - tokens > 0 and (not begun or tokens == _PEEK):
        ask = Ask(prompt=writer.encode(text + begun), stops=stops, max_tokens=writer.max_tokens - tokens, live=False)
        more = yield ask
        assert isinstance(more, Generation)
        begun, tokens = begun + more.text, tokens + more.tokens
    reasoning = begun.lstrip().removeprefix(known.opener.strip()).strip()
    return replace(nothing, reasoning=reasoning), tokens


def _open_native(writer: Writer, reader: Reader, tool: ToolSpec, thought: Message) -> str:
    """Return how a call of a tool begins, up to its arguments, as the template writes it after this conversation.

    Raises:
        ApiError: 400, where the name does not come first or calls cannot be written at all.
    """
    dialect = writer.dialect
    assert isinstance(dialect, ChatDialect)
    call = ToolCall(name=tool.name, arguments='{"a": "b"}', id=writer.new_id())
    message = replace(thought, tool_calls=(call,))
    conversation = writer.conversation
    index = len(conversation.messages)
    asked = replace(conversation, messages=(*conversation.messages, message))
    try:
        text = dialect.completion(asked, index, dialect.prompt(asked, index))
        read = dialect.format.read(_cut(text, writer.endings), reader.tools).calls
    except (RenderError, DataError) as error:
        raise _no_opening(error.message) from None
    if len(read) != 1 or read[0].name[1] > read[0].arguments[0]:
        raise _no_opening("the name of a call does not stand before its arguments")
    return text[: read[0].arguments[0]]


def _cut(text: str, endings: Sequence[str]) -> str:
    places = [at for ending in endings if (at := text.find(ending)) >= 0]
    return text[: min(places)] if places else text


def _no_opening(why: str) -> ApiError:
    return ApiError(
        400,
        f"tool_choice cannot be followed with this model's chat template: {why}",
        param="tool_choice",
        code="unsupported_parameter",
    )


def check_forced(reply: Reply) -> None:
    """Check that an output that had to be a call is one, with arguments that a client can read.

    Raises:
        ApiError: 500, code `tool_call_unreadable`.
    """
    wrong = [fault.code for fault in reply.faults if fault.code == "arguments_unreadable"]
    if reply.message.tool_calls and not wrong:
        return
    why = ", ".join(wrong or [fault.code for fault in reply.faults]) or "it reads as text"
    message = f"the model was made to call a tool and wrote no readable call ({why})"
    raise ApiError(500, message, code="tool_call_unreadable")
