"""A model behind `/chat/completions`: the server writes prompts by its own template and reads calls out of the output."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from actune.agents.engines.remote import first_choice
from actune.agents.engines.remote_http import USAGE_SECONDS, Server, ServerError, Tell, find_error, in_loop, is_overflow
from actune.agents.model import Ask, Hear, Refusal, Reply
from actune.core.turns import keep_part, turn_starts
from actune.core.types import Conversation, Message, Style, ToolCall

# What servers call the thought beside an answer: SGLang, llama.cpp, DeepSeek, older vLLM; vLLM, Ollama; others.
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# Many servers refuse a prompt that leaves less room than the output may have; it is then asked for this part of it.
_OUTPUT_SHARE = 4
# More calls in one message are no message of a model that works.
_MOST_CALLS = 128


class ChatModel:
    """A server that is told of messages and tools in OpenAI's form."""

    style: Style = "chat"

    def __init__(
        self,
        server: Server,
        model: str,
        *,
        name: str | None = None,
        history: Literal["turns", "error"] = "turns",
        drop_reasoning: bool = False,
        reasoning_key: str = _REASONING_KEYS[0],
    ) -> None:
        """Use one model of a server; `name` is what traces call it, by default its name there.

        Where the server says that a prompt is too long, the oldest whole turns are dropped, or with `history` "error" the
        run ends. Thoughts are sent back, unless `drop_reasoning`, under the name that the server gives them, until it
        gave one under `reasoning_key`.
        """
        self.server = server
        self.name: str | None = name or model
        self._model = model
        self._history = history
        self._drop_reasoning = drop_reasoning
        self._reasoning_key = reasoning_key
        self._limit_key = "max_tokens"
        self._counts = True

    def style_of(self, conversation: Conversation) -> Style:
        """Return `chat`: messages with native calls."""
        return "chat"

    def check(self, conversation: Conversation) -> None:
        """Leave the check to the server."""

    def reply(self, asks: Sequence[Ask], *, on_text: Hear | None = None) -> list[Reply | Refusal]:
        """Return what the model says to each ask, all asked for at the same time.

        Raises:
            ServerError: the server is gone, or refuses everything.
        """
        return self.server.run_all([self._job(index, ask) for index, ask in enumerate(asks)], on_text)

    def _job(self, index: int, ask: Ask) -> Callable[[Tell], Any]:
        async def run(tell: Tell) -> Reply | Refusal:
            return await self._reply(ask, lambda piece: tell(index, piece))

        return run

    async def _reply(self, ask: Ask, hear: Callable[[str], None]) -> Reply | Refusal:
        """Ask; where the server says that it is too long, for a shorter output, then with less and less of the history."""
        later = [start for start in turn_starts(ask.conversation.messages) if start > ask.start]
        short = max(1, ask.max_tokens // _OUTPUT_SHARE)
        tries = [(ask.start, ask.max_tokens), (ask.start, short)]
        tries += [(start, short) for start in later] if self._history == "turns" else []
        said = ""
        for start, tokens in tries:
            try:
                return await self._ask(replace(ask, start=start, max_tokens=tokens), hear)
            except _TooLongError as error:
                said = str(error)
        return Refusal(ended="tokens", error=said)

    async def _ask(self, ask: Ask, hear: Callable[[str], None]) -> Reply:
        started = time.monotonic()
        answer = _Answer(hear)
        ended, error = None, None
        try:
            async with asyncio.timeout_at(in_loop(ask.deadline)) as limit:
                await self._read(ask, answer, limit)
        except TimeoutError:
            if answer.finish is None:
                ended, error = "seconds", "the output was cut: no time is left"
        except ServerError as failure:
            if failure.overflow and not answer.pieces:
                raise _TooLongError(failure.message) from None
            if failure.fatal:
                raise
            ended, error = "error", failure.message
        self._reasoning_key = answer.reasoning_key or self._reasoning_key
        reply = Reply(
            text=answer.text,
            tokens=answer.tokens,
            seconds=time.monotonic() - started,
            start=ask.start,
            ended=ended,
            error=error,
        )
        return reply if ended is not None else _finish(reply, answer)

    async def _read(self, ask: Ask, answer: _Answer, limit: asyncio.Timeout) -> None:
        while True:
            body = self._write(ask)
            try:
                await self._stream(body, ask, answer, limit)
                break
            except ServerError as error:
                if not self._adapt(error, body):
                    raise
        if answer.finish is None:
            raise ServerError(f"{self.server.address.url}/chat/completions hung up before the output ended")

    def _adapt(self, error: ServerError, body: dict[str, Any]) -> bool:
        """Write requests otherwise from now on, where a server says at once that it wants them so.

        OpenAI's newer models want the limit of tokens under another name; some servers do not know how to be asked for
        the number of tokens.
        """
        if error.status not in (400, 422) or error.overflow:
            return False
        if "max_tokens" in body and "max_completion_tokens" in error.message:
            self._limit_key = "max_completion_tokens"
            return True
        if "stream_options" in body and "stream_options" in error.message:
            self._counts = False
            return True
        return False

    async def _stream(self, body: dict[str, Any], ask: Ask, answer: _Answer, limit: asyncio.Timeout) -> None:
        stream = self.server.stream("/chat/completions", body, tokens=ask.max_tokens, deadline=ask.deadline)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                answer.take(chunk)
                if answer.finish is None:
                    continue
                if answer.said_tokens is not None:
                    return
                until = asyncio.get_running_loop().time() + USAGE_SECONDS
                before = limit.when()
                limit.reschedule(until if before is None else min(until, before))

    def _write(self, ask: Ask) -> dict[str, Any]:
        conversation = ask.conversation
        messages = keep_part(conversation.messages, ask.start)
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [self._write_message(message) for message in messages],
            self._limit_key: ask.max_tokens,
            "temperature": ask.sampling.temperature,
            "top_p": ask.sampling.top_p,
            "seed": ask.sampling.seed,
            "stream": True,
        }
        body |= {"stream_options": {"include_usage": True}} if self._counts else {}
        return body | ({"tools": [tool.describe() for tool in conversation.tools]} if conversation.tools else {})

    def _write_message(self, message: Message) -> dict[str, Any]:
        content: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "assistant" and message.reasoning and not self._drop_reasoning:
            content[self._reasoning_key] = message.reasoning
        if message.tool_calls:
            content["tool_calls"] = [_write_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            content["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            content["name"] = message.name
        return content


class _TooLongError(Exception):
    """The server says that the prompt is longer than the context."""


def _write_call(call: ToolCall) -> dict[str, Any]:
    """Return a call as it is sent back; most servers refuse arguments that are no JSON object, so those are put into one."""
    try:
        plain = isinstance(json.loads(call.arguments), dict)
        arguments = call.arguments if plain else json.dumps({"unreadable": call.arguments}, ensure_ascii=False)
    except (ValueError, RecursionError):
        arguments = json.dumps({"unreadable": call.arguments}, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


# --- what comes back --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    """One call on its way."""

    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class _Answer:
    """One message on its way: whole, or in parts."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._places: dict[int, _Call] = {}
        self.pieces = 0
        self.finish: str | None = None
        self.said_tokens: int | None = None
        self.reasoning_key: str | None = None

    @property
    def text(self) -> str:
        """The text beside thoughts and calls."""
        return "".join(self._content)

    @property
    def tokens(self) -> int:
        """The tokens of the output as the server says, else its pieces."""
        return self.pieces if self.said_tokens is None else self.said_tokens

    def take(self, chunk: dict[str, Any]) -> None:
        """Take one object of the response in.

        Raises:
            ServerError: it says that the server failed, or is no part of a message.
        """
        said = find_error(chunk)
        if said is not None:
            raise ServerError(f"the server failed on the way: {said}", overflow=is_overflow(said))
        usage = chunk.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.said_tokens = usage["completion_tokens"]
        choice = first_choice(chunk)
        if choice is None:
            return
        part = choice.get("delta", choice.get("message"))
        if isinstance(part, dict):
            self._take_part(part)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self.finish = finish

    def _take_part(self, part: dict[str, Any]) -> None:
        text = _read_text(part.get("content")) or _read_text(part.get("refusal"))
        if text:
            self.pieces += 1
            self._content.append(text)
            self._hear(text)
        for key in _REASONING_KEYS:
            thought = part.get(key)
            if isinstance(thought, str) and thought:
                self.pieces += 1
                self.reasoning_key = self.reasoning_key or key
                if key == self.reasoning_key:  # some servers say it under two names
                    self._reasoning.append(thought)
        calls = part.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if not isinstance(call, dict):
                raise ServerError("the server sent a tool call that is no object")
            self.pieces += 1
            self._take_call(call)

    def _take_call(self, part: dict[str, Any]) -> None:
        """Add a call, or a piece to one that was begun.

        Pieces belong together by `index`. Some servers give whole calls and no index, or the same one for all; a new id
        with a name is a new call then.
        """
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        given = part.get("id")
        given = str(given) if isinstance(given, str | int) and given != "" else None
        name = function.get("name")
        name = name if isinstance(name, str) else ""
        index = part.get("index")
        call = self._places.get(index) if isinstance(index, int) else (self._calls[-1] if self._calls else None)
        if call is not None and name and (given != call.id if given is not None else index is None):
            call = None
        if call is None:
            call = _Call()
            self._calls.append(call)
            if len(self._calls) > _MOST_CALLS:
                raise ServerError(f"the server sent more than {_MOST_CALLS} tool calls in one message")
            if isinstance(index, int):
                self._places[index] = call
        call.id = call.id or given
        call.name += "" if name == call.name else name
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            call.arguments.append(arguments)
        elif arguments is not None:
            call.arguments.append(json.dumps(arguments, ensure_ascii=False))

    def message(self) -> tuple[Message, tuple[int, ...]]:
        """Return the message, and the places of calls without arguments, which are read as none."""
        calls: list[ToolCall] = []
        mended: list[int] = []
        seen: set[str] = set()
        for place, call in enumerate(self._calls):
            arguments = "".join(call.arguments)
            if not arguments.strip():
                arguments = "{}"
                mended.append(place)
            name = call.id if call.id is not None and call.id not in seen else None
            seen |= set() if name is None else {name}
            calls.append(ToolCall(name=call.name, arguments=arguments, id=name))
        reasoning = "".join(self._reasoning)
        return Message(role="assistant", content=self.text, reasoning=reasoning, tool_calls=tuple(calls)), tuple(mended)


def _finish(reply: Reply, answer: _Answer) -> Reply:
    """Return the reply with its message, or why it has none."""
    if answer.finish == "length":
        return replace(reply, ended="tokens", error=f"the output was cut after {reply.tokens} tokens")
    if answer.finish not in ("stop", "tool_calls", "function_call", "eos"):
        return replace(reply, ended="error", error=f"the server ended the output with {str(answer.finish)[:40]!r}")
    message, mended = answer.message()
    nameless = next((place for place, call in enumerate(message.tool_calls) if not call.name.strip()), None)
    if nameless is not None:
        return replace(reply, ended="unparsable", error=f"call {nameless + 1} of the output has no name")
    return replace(reply, message=message, repaired=mended)


def _read_text(content: object) -> str:
    """Return the text of a content: a string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
