"""An engine behind a server: prompts go to `/completions` as the token ids of training, outputs end exactly here.

The server is told of stops where it gives their text back (vLLM, SGLang); whatever it does, the same code as in this
process finds where an output ends, and hanging up ends the generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from actune.agents.engines.engine import Generation, Request, StopReason
from actune.agents.engines.remote_http import USAGE_SECONDS, Server, ServerError, Tell, find_error, in_loop
from actune.agents.engines.stopping import Output, TextStops
from actune.core.errors import ModelError
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer

# What a server is known by (`owned_by` in its list of models); of others nothing is expected.
Family = Literal["vllm", "sglang", "llamacpp", "other"]
# A server that goes on after this many pieces more than tokens were asked for is not counting.
_SPARE_PIECES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How one server is spoken to: found by trying when the engine is made.

    `ids`: prompts go as token ids, else as text that has those ids. `extended`: fields beside OpenAI's are sent.
    """

    model: str
    family: Family = "other"
    ids: bool = True
    extended: bool = True


class RemoteEngine:
    """A server with an OpenAI-compatible `/completions` as an `actune.agents.engines.engine.Engine`.

    `context` is the longest text in tokens that the server takes, None where it does not say.
    """

    def __init__(self, server: Server, wire: Wire, tokenizer: TextTokenizer, *, context: int | None = None) -> None:
        """Use a server as it was found; see `remote_probe.open_engine`."""
        self.server = server
        self.wire = wire
        self.context = context
        self._tokenizer = tokenizer
        self._counts = True

    def generate(
        self, requests: Sequence[Request], *, on_text: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        """Return one Generation a request, in order, all asked for at the same time; see `Engine.generate`.

        A request that fails by itself has the reason "error".

        Raises:
            ServerError: the server is gone or refuses everything, or it adds tokens to prompts.
        """
        return self.server.run_all([self._job(index, request) for index, request in enumerate(requests)], on_text)

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Refuse: OpenAI's API gives no log-probabilities of a given text.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "a server does not give the log-probabilities of a text", fix="measure with the model in this process"
        )

    def _job(self, index: int, request: Request) -> Callable[[Tell], Any]:
        async def run(tell: Tell) -> Generation:
            return await self._generate(request, lambda piece: tell(index, piece))

        return run

    async def _generate(self, request: Request, hear: Callable[[str], None]) -> Generation:
        started = time.monotonic()
        reading = _Reading(self._tokenizer, request, hear)
        reason: StopReason | None = None
        error: str | None = None
        try:
            body = write_body(self.wire, request, self._tokenizer)
            async with asyncio.timeout_at(in_loop(request.deadline)) as limit:
                await self._read(body, request, reading, limit)
        except TimeoutError:
            reason = None if reading.ended else "time"
        except ServerError as failure:
            if failure.fatal:
                raise
            reason, error = "error", failure.message
        text = reading.close()
        return Generation(
            text=text,
            tokens=reading.count(text),
            reason=reason or reading.reason(),
            seconds=time.monotonic() - started,
            error=error,
        )

    async def _read(self, body: dict[str, Any], request: Request, reading: _Reading, limit: asyncio.Timeout) -> None:
        """Read until the output has ended and, where the server ended it, its tokens are counted."""
        plain = {name: value for name, value in body.items() if name != "stream_options"}
        try:
            await self._stream(body if self._counts else plain, request, reading, limit)
        except ServerError as error:
            if error.status not in (400, 422) or "stream_options" not in error.message:
                raise
            self._counts = False  # some servers do not know how to be asked for the number of tokens
            await self._stream(plain, request, reading, limit)
        if not reading.finished and not reading.ended:
            raise ServerError(f"{self.server.address.url}/completions hung up before the output ended")

    async def _stream(self, body: dict[str, Any], request: Request, reading: _Reading, limit: asyncio.Timeout) -> None:
        stream = self.server.stream("/completions", body, tokens=request.max_tokens, deadline=request.deadline)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                check_usage(chunk, len(request.prompt), self.server.address.url)
                if reading.take(chunk):
                    return  # hanging up ends the generation
                if reading.finished and reading.said_tokens is not None:
                    return
                if reading.finished:
                    until = asyncio.get_running_loop().time() + USAGE_SECONDS
                    before = limit.when()
                    limit.reschedule(until if before is None else min(until, before))


class _Reading:
    """One output on its way: as ids where the server gives them, else as text."""

    def __init__(self, tokenizer: TextTokenizer, request: Request, hear: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._hear = hear
        self._output: Output | None = None
        self._stops = TextStops(with_token_texts(request.stops, tokenizer))
        self._sent = set(stop_texts(request.stops))
        self._parts: list[str] = []
        self._pieces = 0
        self._finish: str | None = None
        self._cut = False
        self.said_tokens: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the server said that the output has ended."""
        return self._finish is not None

    @property
    def ended(self) -> bool:
        """Whether the output has ended, by whichever side."""
        return (
            self.finished or self._cut or self._stops.reason is not None or bool(self._output and self._output.reason)
        )

    def take(self, chunk: dict[str, Any]) -> bool:
        """Take one object of the stream in; returns whether to hang up: the output has ended, and the server goes on."""
        said = find_error(chunk)
        if said is not None:
            raise ServerError(f"the server failed on the way: {said}")
        usage = chunk.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.said_tokens = usage["completion_tokens"]
        choice = first_choice(chunk)
        if choice is None or self.ended:
            return False
        ended = self._take_choice(choice)
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._end(finish, choice)
        return ended and not self.finished

    def _take_choice(self, choice: dict[str, Any]) -> bool:
        ids, text = choice.get("token_ids"), choice.get("text")
        if isinstance(ids, list) and (self._output is not None or not self._pieces):
            return self._take_ids(ids)
        if text is None or text == "":
            return False
        if not isinstance(text, str):
            raise ServerError(f"the server sent text that is none: {type(text).__name__}")
        self._pieces += 1
        if self._output is not None:
            return False  # said as ids already
        self._add(self._stops.feed(text))
        self._cut = self._pieces > self._request.max_tokens + _SPARE_PIECES
        return self._stops.reason is not None or self._cut

    def _take_ids(self, ids: list[Any]) -> bool:
        if self._output is None:
            decoder = self._tokenizer.stream_answer(self._request.prompt)
            self._output = Output(decoder, self._request.stops, on_text=self._hear)
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 2**31:
                raise ServerError("the server sent token ids that are none")
            if self._output.push(token):
                return True
            if self._output.count >= self._request.max_tokens:
                self._cut = True
                return True
        return False

    def _end(self, finish: str, choice: dict[str, Any]) -> None:
        """Take in why the server ended the output, and the stop word that it may have cut off."""
        if not self.ended and finish not in ("stop", "length", "eos", "eos_token"):
            raise ServerError(f"the server ended the output with {finish[:40]!r}")
        self._finish = finish
        matched = choice.get("stop_reason", choice.get("matched_stop"))
        if self._output is None and isinstance(matched, str) and matched in self._sent:
            self._add(self._stops.feed(matched))

    def _add(self, piece: str) -> None:
        if piece:
            self._parts.append(piece)
            self._hear(piece)

    def close(self) -> str:
        """Return the whole text."""
        if self._output is not None:
            return self._output.finish()
        self._add(self._stops.finish())
        return "".join(self._parts)

    def reason(self) -> StopReason:
        """Return why the output ended."""
        if self._output is not None and self._output.reason is not None:
            return self._output.reason
        if self._stops.reason is not None:
            return "word" if self._stops.reason == "word" else self._kind()
        return "length" if self._cut or self._finish == "length" else "token"

    def _kind(self) -> StopReason:
        """Return whether a stop text is one, or how a stop token is written."""
        return "text" if self._request.stops.texts else "token"

    def count(self, text: str) -> int:
        """Return the tokens of the output: as sampled, as the server says, else as the text is encoded."""
        if self._output is not None:
            return self._output.count
        if self.finished and self.said_tokens is not None:
            return self.said_tokens
        return len(self._tokenizer.encode_after(text)) + (self.reason() == "token" and self.finished)


# --- what is sent -----------------------------------------------------------------------------------------------------


def write_body(wire: Wire, request: Request, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Return the body of a request for an output.

    Raises:
        ServerError: the prompt has to go as text and no text has just these ids.
    """
    prompt: list[int] | str = list(request.prompt)
    if not wire.ids:
        prompt = tokenizer.decode(request.prompt)
        if tokenizer.encode(prompt) != list(request.prompt):
            raise ServerError(
                "the prompt holds text that looks like control tokens; as text the server would read other tokens"
            )
    body: dict[str, Any] = {
        "model": wire.model,
        "prompt": prompt,
        "max_tokens": request.max_tokens,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "seed": request.sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if wire.extended:
        body |= _EXTENSIONS[wire.family]
        if wire.family != "llamacpp":
            body["stop_token_ids"] = sorted(request.stops.tokens)
    # From other servers the text would come back without its stop, and nobody could tell it from the end of the turn.
    if wire.extended and wire.family in ("vllm", "sglang"):
        stops = stop_texts(request.stops)
        body |= {"stop": stops} if stops else {}
    return body


# Sampling as it is here, whatever the server's defaults or the model's generation config say; text as it was sampled.
_PLAIN_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_VLLM = {
    **_PLAIN_SAMPLING,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "add_special_tokens": False,
    "return_token_ids": True,
}
_EXTENSIONS: dict[Family, dict[str, Any]] = {
    "vllm": _VLLM,
    "sglang": {**_PLAIN_SAMPLING, "top_k": -1, "no_stop_trim": True, "skip_special_tokens": False},
    "llamacpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "other": {**_VLLM, "repeat_penalty": 1.0},
}


def stop_texts(stops: Stops) -> list[str]:
    """Return the stops that are text, as a server looks for them: a stop word opens a line."""
    return ["\n" + word for word in stops.words] + list(stops.texts)


def with_token_texts(stops: Stops, tokenizer: TextTokenizer) -> Stops:
    """Return stops for a text: a stop token counts as it is written, for servers that show it."""
    written = [tokenizer.decode([token]) for token in sorted(stops.tokens)]
    return Stops(
        tokens=stops.tokens, words=stops.words, texts=(*stops.texts, *(text for text in written if text.strip()))
    )


# --- what comes back --------------------------------------------------------------------------------------------------


def first_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first choice of a response or of a part of one, None where it has none (the part with the usage)."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    choice = choices[0]
    if not isinstance(choice, dict):
        raise ServerError(f"the server sent a choice that is no object: {type(choice).__name__}")
    return choice


def check_usage(chunk: dict[str, Any], tokens: int, url: str) -> None:
    """Check that the server read as many tokens as were sent, where it says so.

    Raises:
        ServerError: it read others.
    """
    usage = chunk.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not isinstance(counted, int) or isinstance(counted, bool) or counted in (0, tokens):
        return
    if counted == tokens + 1:
        why = "it puts a token in front, the beginning of a sequence, say"
    elif counted > tokens:
        why = "it writes the prompt into a template of its own, or reads it with another tokenizer"
    else:
        why = "it cuts the prompt, or reads it with another tokenizer"
    raise ServerError(
        f"{url} counted {counted} tokens of a prompt that has {tokens}: {why}; the model would see what it was not "
        "trained on",
        fatal=True,
        fix="serve the model with its own tokenizer, without added tokens; or let the server write prompts: --server_api chat",
    )
