"""The engine in this process: transformers, exact stops, several requests at once, keys and values used again.

Rows are prefilled one by one, each from the longest common prefix with any text seen before, then decoded together.
Rows that are done leave, waiting ones join.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from actune.agents.engines.engine import Generation, Request, StopReason
from actune.agents.engines.kv import Batch, Layers, PrefixStore, build_cache, read_cache
from actune.agents.engines.sampling import Chooser, choose_tokens
from actune.agents.engines.stopping import Output
from actune.core.errors import ConfigError, ModelError
from actune.modeling.adapters import unwrap
from actune.render.tokenizer import TextTokenizer

# Logits that a scoring pass may hold at once, in positions: 2048 of a vocabulary of 150,000 are 1.2 GB in fp32.
_SCORED_POSITIONS = 2048
# Largest relative difference (Euclidean norm) of logits that another layout of the same sums may cause.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUNDING_HALF = 5e-2
# What `forward` may call its cache: `cache` for any model since transformers 5.24, the others before and in own code.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


@dataclass(slots=True, kw_only=True)
class _Row:
    """One request on its way; `ids` are its prompt and what was sampled."""

    index: int
    request: Request
    output: Output
    chooser: Chooser
    ids: list[int]
    room: int
    started: float = field(default_factory=time.monotonic)
    reason: StopReason | None = None

    def take(self, token: int) -> None:
        """Add a sampled token; sets `reason` when the output ends with it."""
        self.ids.append(token)
        self.room -= 1
        if self.output.push(token):
            self.reason = self.output.reason
        elif self.room <= 0:
            self.reason = "length"

    def check_time(self) -> bool:
        """Return whether the deadline has passed; sets `reason` then."""
        if self.request.deadline is not None and time.monotonic() >= self.request.deadline:
            self.reason = "time"
        return self.reason is not None

    def close(self) -> Generation:
        """Return the output."""
        text = self.output.finish()
        reason = self.output.reason or self.reason
        assert reason is not None
        return Generation(text=text, tokens=self.output.count, reason=reason, seconds=time.monotonic() - self.started)


class LocalEngine:
    """A transformers (or LoRA) model as an `actune.agents.engine.Engine`.

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
        self._model = unwrap(model).eval()
        self._tokenizer = tokenizer
        self._store = PrefixStore(cache_tokens)
        self._takes = frozenset(inspect.signature(self._model.forward).parameters)
        self._cache_name = next((name for name in _CACHE_NAMES if name in self._takes), None)
        config = self._model.config.get_text_config()
        length = getattr(config, "max_position_embeddings", None)
        self.context: int | None = length if isinstance(length, int) and length > 0 else None
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
        self.fault = self._find_fault()
        self.batch_size = batch_size if self.fault is None else 1

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._model.device

    @property
    def kept_tokens(self) -> int:
        """Tokens whose keys and values are kept for later prompts."""
        return len(self._store)

    @contextmanager
    def without_adapter(self) -> Iterator[LocalEngine]:
        """Make this engine the base model for a while; keys and values of the two are never mixed."""
        store, self._store = self._store, PrefixStore(self._store.limit)
        # peft changes the layers in place, so the inner model is the base model inside this.
        off: AbstractContextManager[Any] = nullcontext() if self._adapted is None else self._adapted.disable_adapter()
        try:
            with off:
                yield self
        finally:
            self._store = store

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], *, on_text: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        """Return one Generation a request, in order; see `Engine.generate`.

        Raises:
            ModelError: a prompt that is empty or longer than the model's context, or an id that the model lacks.
            ConfigError: sampling that cannot be done.
        """
        rows = [self._open(index, request, on_text) for index, request in enumerate(requests)]
        waiting = deque(sorted(rows, key=lambda row: -len(row.ids)))
        active: list[_Row] = []
        batch, cache = Batch(), None
        done: dict[int, Generation] = {}
        while waiting or active:
            while waiting and len(active) < self.batch_size:
                row = waiting.popleft()
                state: Any = None if row.reason or row.check_time() else self._start(row)
                if row.reason is not None:
                    done[row.index] = row.close()
                    continue
                active.append(row)
                if self.fault is None:
                    batch.join(state, len(row.ids) - 1)
                else:
                    cache = state
            running = [row for row in active if not row.check_time()]
            if active and len(running) == len(active):
                cache = self._step(active, batch, cache)
            active = self._sweep(active, batch, done)
        return [done[index] for index in range(len(rows))]

    def _open(self, index: int, request: Request, on_text: Callable[[int, str], None] | None) -> _Row:
        length = len(request.prompt)
        self._check_ids(request.prompt)
        room = request.max_tokens if self.context is None else min(request.max_tokens, self.context - length)
        hear = None if on_text is None else (lambda piece: on_text(index, piece))
        return _Row(
            index=index,
            request=request,
            output=Output(self._tokenizer.stream_answer(request.prompt), request.stops, on_text=hear),
            chooser=Chooser(request.sampling),
            ids=list(request.prompt),
            room=room,
            reason="length" if room <= 0 else None,
        )

    def _check_ids(self, ids: Sequence[int]) -> None:
        if not ids:
            raise ModelError("the prompt is empty: a model continues at least one token", fix="give a prompt")
        if self.context is not None and len(ids) > self.context:
            raise ModelError(
                f"the text has {len(ids)} tokens, the model takes at most {self.context} (max_position_embeddings)",
                fix="shorten the conversation or the tool descriptions, or use a model with a longer context",
            )
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise ModelError(
                f"token {max(ids) if min(ids) >= 0 else min(ids)} is not among the model's {self._vocabulary} embeddings",
                fix="use the tokenizer that belongs to the model",
            )

    def _start(self, row: _Row) -> Any:  # noqa: ANN401 - keys and values, or whatever cache the model has
        """Compute the prompt of a row and choose its first token."""
        row.started = time.monotonic()
        logits, state = self._prefill(row.ids)
        self._take([row], logits)
        return state

    def _step(self, rows: Sequence[_Row], batch: Batch, cache: Any) -> Any:  # noqa: ANN401 - see `_start`
        """Choose the next token of every row."""
        ids = torch.tensor([[row.ids[-1]] for row in rows], device=self._model.device)
        positions = torch.tensor([[len(row.ids) - 1] for row in rows], device=self._model.device)
        if batch.cache is not None:
            mask = batch.mask(self._model.device)
            logits, _ = self._forward(ids, cache=batch.cache, positions=positions, mask=mask)
            batch.grow()
        elif cache is not None:
            logits, cache = self._forward(ids, cache=cache, positions=positions)
        else:  # a model without a cache: the whole text again
            logits, cache = self._forward(torch.tensor([rows[0].ids], device=self._model.device), cache=None, keep=1)
        self._take(rows, logits[:, -1])
        return cache

    def _take(self, rows: Sequence[_Row], logits: Tensor) -> None:
        tokens = choose_tokens([row.chooser for row in rows], logits.float())
        for row, token in zip(rows, tokens, strict=True):
            row.take(token)

    def _sweep(self, active: list[_Row], batch: Batch, done: dict[int, Generation]) -> list[_Row]:
        """Close the rows that are done and return the others."""
        left = [place for place, row in enumerate(active) if row.reason is None]
        for place, row in enumerate(active):
            if row.reason is not None:
                if batch.cache is not None and self._store.limit:
                    self._store.add(row.ids[: batch.lengths[place]], batch.read(place))
                done[row.index] = row.close()
        batch.keep(left) if batch.cache is not None else None
        return [active[place] for place in left]

    def _prefill(self, ids: Sequence[int]) -> tuple[Tensor, Any]:
        """Compute a prompt; returns logits [1, vocabulary] after its last token, and its keys and values."""
        if self.fault is not None:
            inputs = torch.tensor([list(ids)], device=self._model.device)
            logits, cache = self._forward(inputs, cache=None, keep=1)
            return logits[:, -1], cache
        known, layers = self._store.find(ids)
        logits, layers = self._extend(ids[known:], layers, known)
        self._store.add(ids, layers)
        return logits, layers

    def _extend(self, ids: Sequence[int], layers: Layers, known: int) -> tuple[Tensor, Layers]:
        """Compute `ids` after `known` tokens whose keys and values are given."""
        inputs = torch.tensor([list(ids)], device=self._model.device)
        positions = torch.arange(known, known + len(ids), device=self._model.device)[None]
        cache = build_cache(layers)
        logits, _ = self._forward(inputs, cache=cache, positions=positions, keep=1)
        return logits[:, -1], read_cache(cache)

    def _forward(
        self,
        ids: Tensor,
        *,
        cache: Any,  # noqa: ANN401 - a cache of transformers
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        keep: int | Tensor | None = None,
        use_cache: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the model on ids [rows, tokens]; logits for the last `keep` positions, or the positions in it."""
        given = {"position_ids": positions, "attention_mask": mask, "logits_to_keep": keep}
        inputs: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None and name in self._takes
        }
        if self._cache_name is not None:
            inputs |= {self._cache_name: cache, "use_cache": use_cache}
        else:
            assert cache is None  # left out, it would be text forgotten
        output = self._model(input_ids=ids, **inputs)
        logits = output.logits
        if keep is not None and "logits_to_keep" not in self._takes:
            logits = logits[:, -keep:] if isinstance(keep, int) else logits[:, keep]
        return logits, None if self._cache_name is None else getattr(output, self._cache_name, None)

    @torch.inference_mode()
    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation token; see `Engine.score`.

        A prompt that several sequences share is computed once.

        Raises:
            ModelError: an empty prompt, a sequence longer than the model's context, or an id that the model lacks.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (prompt, continuation) in enumerate(sequences):
            self._check_ids(prompt)
            self._check_ids([*prompt, *continuation])
            groups.setdefault(tuple(prompt), []).append(index)
        scores: list[list[float]] = [[] for _ in sequences]
        alone: list[int] = []
        for prompt, members in groups.items():
            if self.fault is not None or len(members) == 1:
                alone += members
                continue
            found = self._score_shared(prompt, [sequences[member][1] for member in members])
            for member, values in zip(members, found, strict=True):
                scores[member] = values
        alone = [index for index in alone if len(sequences[index][1])]
        for part in self._split(alone, sequences):
            found = self._score_apart([sequences[index] for index in part])
            for index, values in zip(part, found, strict=True):
                scores[index] = values
        return scores

    def _score_shared(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score continuations of one prompt: rows behind the same keys and values, padded on the right."""
        first, layers = self._prefill(prompt)
        scores = [_read_scores(first, continuation[:1]) for continuation in continuations]
        order = sorted(
            (index for index, continuation in enumerate(continuations) if len(continuation) > 1),
            key=lambda index: -len(continuations[index]),
        )
        while order:
            longest = len(continuations[order[0]])
            size = max(1, min(self.batch_size, _SCORED_POSITIONS // longest))
            part, order = order[:size], order[size:]
            ids = self._pad([continuations[index][:-1] for index in part])
            cache = build_cache(
                tuple(
                    (keys.expand(len(part), -1, -1, -1), values.expand(len(part), -1, -1, -1))
                    for keys, values in layers
                )
            )
            start = len(prompt)
            positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
            logits, _ = self._forward(ids, cache=cache, positions=positions)
            for row, index in enumerate(part):
                scores[index] += _read_scores(logits[row], continuations[index][1:])
        return scores

    def _split(
        self, indices: Sequence[int], sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[list[int]]:
        """Deal sequences into batches of like lengths whose logits fit."""
        part: list[int] = []
        for index in sorted(indices, key=lambda index: (-len(sequences[index][0]) - len(sequences[index][1]), index)):
            trial = [*part, index]
            low, high = _find_span([sequences[one] for one in trial])
            if part and (len(trial) > self.batch_size or len(trial) * (high - low) > _SCORED_POSITIONS):
                yield part
                trial = [index]
            part = trial
        if part:
            yield part

    def _score_apart(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Score sequences in one pass, padded on the right, where causal attention does not look."""
        ids = self._pad([[*prompt, *continuation[:-1]] for prompt, continuation in sequences])
        low, high = _find_span(sequences)
        wanted = torch.arange(low, high, device=ids.device)
        logits, _ = self._forward(ids, cache=None, keep=wanted, use_cache=False)
        starts = [len(prompt) - 1 - low for prompt, _ in sequences]
        return [
            _read_scores(logits[row, start : start + len(continuation)], continuation)
            for row, (start, (_, continuation)) in enumerate(zip(starts, sequences, strict=True))
        ]

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._model.device)

    @torch.inference_mode()
    def _find_fault(self) -> str | None:
        """Try reuse and padding on three short texts; return what is wrong with them on this model."""
        if self._cache_name is None:
            return "it takes no cache"
        try:
            kinds = {type(layer) for layer in DynamicCache(config=self._model.config).layers}
            other = kinds - {DynamicLayer, DynamicSlidingWindowLayer}
            if self._cache_name == "cache_params" or other:
                return f"its cache is no list of keys and values: {sorted(kind.__name__ for kind in other)}"
            return self._try_layouts()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
            return f"its cache cannot be used: {type(error).__name__}: {error}"

    def _try_layouts(self) -> str | None:
        generator = torch.Generator().manual_seed(0)
        size = min(12, self.context or 12)
        texts = torch.randint(0, self._vocabulary, (2, size), generator=generator).tolist()
        texts[1] = texts[1][: size // 2]
        if size < 4:
            return f"its context has {size} tokens"
        expected = [
            self._forward(torch.tensor([text], device=self._model.device), cache=None)[0][0, -1] for text in texts
        ]
        batch = Batch()
        for text in texts:
            half = len(text) // 2
            _, layers = self._extend(text[:half], (), 0)
            _, layers = self._extend(text[half:-1], layers, half)
            batch.join(layers, len(text) - 1)
        ids = torch.tensor([[text[-1]] for text in texts], device=self._model.device)
        positions = torch.tensor([[len(text) - 1] for text in texts], device=self._model.device)
        mask = batch.mask(self._model.device)
        found, _ = self._forward(ids, cache=batch.cache, positions=positions, mask=mask)
        bound = _ROUNDING.get(self._model.dtype, _ROUNDING_HALF)
        for row, reference in zip(found[:, -1].float(), expected, strict=True):
            gap = float((row - reference.float()).norm() / reference.float().norm().clamp_min(1e-30))
            if not gap <= bound:
                return f"a row in a batch differs from the same row alone by {gap:.1e} (at most {bound:.0e})"
        return None


def _find_span(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[int, int]:
    """Return the range of positions whose logits are needed by any of the sequences."""
    low = min(len(prompt) - 1 for prompt, _ in sequences)
    return low, max(len(prompt) + len(continuation) - 1 for prompt, continuation in sequences)


def _read_scores(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Return log-probabilities of tokens from logits [at least as many positions, vocabulary], in fp32."""
    if not tokens:
        return []
    rows = logits[: len(tokens)].float()
    wanted = torch.tensor(list(tokens), device=rows.device)[:, None]
    scores: list[float] = (rows.gather(1, wanted)[:, 0] - rows.logsumexp(-1)).tolist()
    return scores
