"""What the loop and the evaluation ask of an engine: prompt ids in, text out, stopped exactly; and log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from actune.render.dialects import Stops

# Why an output ended: a stop token, a stop word (its text is part of the output), a stop text, a limit, or the server of an
# engine that has one failed on the way.
StopReason = Literal["token", "word", "text", "length", "time", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy. `seed` makes a sampled output repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One output to generate.

    `prompt` are the ids of the whole prompt text, tokenised at once; sampled ids are never appended to a prompt.
    `deadline` is a value of `time.monotonic()`, None for no limit.
    """

    prompt: Sequence[int]
    stops: Stops
    max_tokens: int
    sampling: Sampling = Sampling()
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One output: its exact text, up to and including a stop word, or up to and without a stop token or stop text.

    `tokens` counts the sampled tokens, the stop token included; `known` the tokens of the prompt that were not computed
    again. `error` says what failed, with the reason "error".
    """

    text: str
    tokens: int
    reason: StopReason
    seconds: float
    known: int = 0
    error: str | None = None


class Engine(Protocol):
    """Anything that generates."""

    def generate(
        self, requests: Sequence[Request], *, on_text: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        """Return one Generation a request, in order.

        `on_text(index, piece)` is called as text becomes certain; the pieces of a request joined are its text.
        """
        ...

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return, for each (prompt ids, continuation ids), the log-probability (nats) of each continuation token."""
        ...
