"""The forward pass of a model as engines use it: with keys and values of known texts, checked on the model itself."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from actune.agents.engines.kv import Batch, Layers, PrefixStore, build_cache, read_cache
from actune.core.errors import ModelError

# Largest relative difference (Euclidean norm) of logits that another layout of the same sums may cause.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUNDING_HALF = 5e-2
# What `forward` may call its cache: `cache` for any model since transformers 5.24, the others before and in own code.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class ForwardPass:
    """A model in evaluation mode, run on ids.

    `context` is the longest text in tokens that it takes, None for no bound. `fault` says why rows cannot be computed
    side by side and their keys and values not used again, None when they can: found by trying both.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Look at what the model takes and try how it may be run."""
        self._model = model
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        self._cache_name = next((name for name in _CACHE_NAMES if name in self._takes), None)
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.context: int | None = length if isinstance(length, int) and length > 0 else None
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
        self.fault = self._find_fault()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._model.device

    def check_ids(self, ids: Sequence[int]) -> None:
        """Refuse a text that the model cannot take.

        Raises:
            ModelError: it is empty, longer than the model's context, or holds an id that the model lacks.
        """
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

    def prefill(self, ids: Sequence[int], store: PrefixStore) -> tuple[Tensor, Any, int]:
        """Compute a prompt from the longest prefix in `store`, and keep its keys and values there.

        Returns logits [1, vocabulary] after its last token, its keys and values (where there is a `fault`, whatever
        cache the model has), and how many tokens were known already.
        """
        if self.fault is not None:
            inputs = torch.tensor([list(ids)], device=self.device)
            logits, cache = self.run(inputs, cache=None, keep=1)
            return logits[:, -1], cache, 0
        known, layers = store.find(ids)
        logits, layers = self.extend(ids[known:], layers, known)
        store.add(ids, layers)
        return logits, layers, known

    def extend(self, ids: Sequence[int], layers: Layers, known: int) -> tuple[Tensor, Layers]:
        """Compute `ids` after `known` tokens whose keys and values are given."""
        inputs = torch.tensor([list(ids)], device=self.device)
        positions = torch.arange(known, known + len(ids), device=self.device)[None]
        cache = build_cache(layers)
        logits, _ = self.run(inputs, cache=cache, positions=positions, keep=1)
        return logits[:, -1], read_cache(cache)

    def run(
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
        expected = [self.run(torch.tensor([text], device=self.device), cache=None)[0][0, -1] for text in texts]
        batch = Batch()
        for text in texts:
            half = len(text) // 2
            _, layers = self.extend(text[:half], (), 0)
            _, layers = self.extend(text[half:-1], layers, half)
            batch.join(layers, len(text) - 1)
        ids = torch.tensor([[text[-1]] for text in texts], device=self.device)
        positions = torch.tensor([[len(text) - 1] for text in texts], device=self.device)
        mask = batch.mask(self.device)
        found, _ = self.run(ids, cache=batch.cache, positions=positions, mask=mask)
        bound = _ROUNDING.get(self._model.dtype, _ROUNDING_HALF)
        for row, reference in zip(found[:, -1].float(), expected, strict=True):
            gap = float((row - reference.float()).norm() / reference.float().norm().clamp_min(1e-30))
            if not gap <= bound:
                return f"a row in a batch differs from the same row alone by {gap:.1e} (at most {bound:.0e})"
        return None
