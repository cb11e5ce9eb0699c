"""The engine in this process: transformers, exact stops, several requests at once, keys and values used again.

Rows are prefilled one by one, each from the longest common prefix with any text seen before, then decoded together.
Rows that are done leave, waiting ones join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from actune.agents.engines.engine import Generation, Request
from actune.agents.engines.forward import ForwardPass
from actune.agents.engines.kv import PrefixStore
from actune.agents.engines.rows import Rows
from actune.agents.engines.scoring import Scorer
from actune.core.errors import ConfigError
from actune.modeling.adapters import unwrap
from actune.render.tokenizer import TextTokenizer


class LocalEngine:
    """A transformers (or LoRA) model as an `actune.agents.engines.engine.Engine`.

    `context` is the longest text in tokens that the model takes, None for no bound. `fault` says why rows are generated
    one by one and without reuse, None when they are not: found by trying both on the model when the engine is made.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: TextTokenizer,
        *,
        batch_size: int = 8,
        cache_tokens: int = 16_384,
    ) -> None:
        """Use a model in evaluation mode; `cache_tokens` bounds the tokens whose keys and values are kept (0: none).

        Raises:
            ConfigError: a batch size below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", fix="use 1 or more")
        self._adapted = model if isinstance(model, PeftModel) else None
        self._tokenizer = tokenizer
        self._store = PrefixStore(cache_tokens)
        self._base_store = PrefixStore(cache_tokens)
        self._forward = ForwardPass(unwrap(model).eval())
        self.context = self._forward.context
        self.fault = self._forward.fault
        self.batch_size = batch_size if self.fault is None else 1

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._forward.device

    @property
    def has_adapter(self) -> bool:
        """Whether there are two models in it: with the adapter and without."""
        return self._adapted is not None

    @property
    def kept_tokens(self) -> int:
        """Tokens whose keys and values are kept for later prompts."""
        return len(self._store)

    def begin(self, *, base: bool = False) -> Rows:
        """Return a batch without rows yet, of the model or (`base`) of the model without its adapter.

        Batches of both may be stepped in turn; keys and values of the two are never mixed.
        """
        apart = base and self._adapted is not None
        return Rows(
            self._forward,
            self._tokenizer,
            self._base_store if apart else self._store,
            batch_size=self.batch_size,
            switch=self._disable_adapter if apart else nullcontext,
        )

    def _disable_adapter(self) -> AbstractContextManager[Any]:
        # peft changes the layers in place, so the inner model is the base model inside this.
        return nullcontext() if self._adapted is None else self._adapted.disable_adapter()

    @contextmanager
    def without_adapter(self) -> Iterator[LocalEngine]:
        """Make this engine the base model for a while; keys and values of the two are never mixed."""
        store = self._store
        self._store = self._base_store if self._adapted is not None else store
        try:
            with self._disable_adapter():
                yield self
        finally:
            self._store = store

    def generate(
        self, requests: Sequence[Request], *, on_text: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        """Return one Generation a request, in order; see `Engine.generate`.

        Raises:
            ModelError: a prompt that is empty or longer than the model's context, or an id that the model lacks.
            ConfigError: sampling that cannot be done.
        """
        rows = self.begin()
        tickets: dict[int, int] = {}
        # The longest first, so that rows of like lengths run side by side.
        for index in sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt)):
            tickets[rows.add(requests[index], _hear(on_text, index))] = index
        done: dict[int, Generation] = {}
        while len(rows):
            done |= {tickets[ticket]: generation for ticket, generation in rows.step().items()}
        return [done[index] for index in range(len(requests))]

    @torch.inference_mode()
    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation token; see `Engine.score`.

        A prompt that several sequences share is computed once.

        Raises:
            ModelError: an empty prompt, a sequence longer than the model's context, or an id that the model lacks.
        """
        return Scorer(self._forward, self._store, batch_size=self.batch_size).score(sequences)


def _hear(on_text: Callable[[int, str], None] | None, index: int) -> Callable[[str], None] | None:
    return None if on_text is None else lambda piece: on_text(index, piece)
