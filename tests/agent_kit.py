"""A scripted engine for the tests of agents and evaluation; loaded by path, since tests are no package."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from actune.agents.engines.engine import Generation, Request
from actune.agents.engines.stopping import Output
from actune.render.tokenizer import TextTokenizer

Score = Callable[[Sequence[int], Sequence[int]], list[float]]


class ScriptedEngine:
    """Gives texts in order (or what a function of the request returns), stopped as the real engine stops them.

    With a tokenizer a text is its ids, so stop tokens in it count by id; without one, each word with the blanks after
    it is a token and none is a stop token. A text that no stop ends is ended by a stop token. The scripted texts must
    suffice. `requests` holds all requests, `scored` all that was to be scored.
    """

    def __init__(
        self,
        outputs: Sequence[str] | Callable[[Request], str] = (),
        *,
        tokenizer: TextTokenizer | None = None,
        score: Score | None = None,
        context: int | None = None,
    ) -> None:
        self._outputs = outputs if callable(outputs) else list(outputs)
        self._tokenizer = tokenizer
        self._score = score or (lambda prompt, continuation: [-1.0] * len(continuation))
        self.context = context
        self.requests: list[Request] = []
        self.scored: list[tuple[list[int], list[int]]] = []

    def generate(
        self, requests: Sequence[Request], *, on_text: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        return [self._run(index, request, on_text) for index, request in enumerate(requests)]

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        self.scored += [(list(prompt), list(continuation)) for prompt, continuation in sequences]
        return [self._score(prompt, continuation) for prompt, continuation in sequences]

    def _run(self, index: int, request: Request, on_text: Callable[[int, str], None] | None) -> Generation:
        self.requests.append(request)
        if callable(self._outputs):
            text = self._outputs(request)
        else:
            assert self._outputs, "the engine was asked for more outputs than the test scripted"
            text = self._outputs.pop(0)
        if self._tokenizer is None:
            decoder = _Pieces(re.findall(r"\S+\s*|\s+", text))
            ids = range(-1, -1 - len(decoder.pieces), -1)  # no real token has such an id
        else:
            decoder, ids = self._tokenizer.stream(request.prompt), self._tokenizer.encode_after(text)
        hear = None if on_text is None else (lambda piece: on_text(index, piece))
        output = Output(decoder, request.stops, on_text=hear)
        cut = not any(output.push(token) for token in ids[: request.max_tokens]) and len(ids) >= request.max_tokens
        ended = output.reason is not None
        text = output.finish()
        reason = output.reason or ("length" if cut else "token")
        added = 0 if ended or cut else 1
        return Generation(text=text, tokens=output.count + added, reason=reason, seconds=0.0)


class _Pieces:
    """Pieces of a text under the ids -1, -2, ..."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token: int) -> str:
        return self.pieces[-1 - token]

    def finish(self) -> str:
        return ""
