"""The one attention rule, sequence by sequence, behind transformers' attention interface.

Query q sees key k iff `k <= q < end[k]` and, in a layer with a sliding window, `positions[q] - positions[k] < window`.
Each tree of a pack is attended to by itself: no mask over the whole pack is ever made. The layout travels as a keyword
argument of the forward pass, so that recomputation under gradient checkpointing sees the same one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from actune.core.errors import ModelError
from actune.data.pack import Batch

ATTENTION = "actune"
# What models hand to an attention function that does not change what it computes for one unpadded, uncached pass.
_HARMLESS = frozenset(
    [
        "position_ids",
        "position_embeddings",
        "use_cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "output_router_logits",
        "logits_to_keep",
        "num_items_in_batch",
        "layer_idx",
        "deterministic",
    ]
)


@dataclass(eq=False, slots=True, kw_only=True)
class Layout:
    """Where the trees of a pack lie, on the device of the model (T tokens).

    `spans`: start, stop and whether the tree is one line. `windows` notes the sliding window that each layer asked
    for (None: none), by layer index.
    """

    spans: tuple[tuple[int, int, bool], ...]
    end: Tensor
    positions: Tensor
    windows: dict[int, int | None] = field(default_factory=dict)
    _masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Layout:
        """Lay out a batch on a device."""
        spans = tuple((start, stop, bool((batch.end[start:stop] == stop).all())) for start, stop in batch.spans)
        return cls(
            spans=spans,
            end=torch.from_numpy(batch.end).to(device),
            positions=torch.from_numpy(batch.positions).to(device),
        )

    def mask(self, start: int, stop: int, linear: bool, window: int | None) -> Tensor | None:
        """Return which keys the queries of a tree see [n, n] (bool), or None for plain causal attention."""
        if linear and (window is None or stop - start <= window):
            return None
        if (start, window) not in self._masks:
            index = torch.arange(start, stop, device=self.end.device)
            seen = (index <= index[:, None]) & (index[:, None] < self.end[start:stop])
            if window is not None:
                depth = self.positions[start:stop]
                seen &= depth[:, None] - depth < window
            self._masks[start, window] = seen
        return self._masks[start, window]


def attend(  # noqa: PLR0913 - the signature is the interface's
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    actune_layout: Layout | None = None,
    **others: Any,  # noqa: ANN401 - whatever a model's attention adds
) -> tuple[Tensor, None]:
    """Attend within each tree of a pack: query [1, heads, T, dim], key and value [1, kv_heads, T, dim] -> [1, T, heads, dim].

    Raises:
        ModelError: the model asks for something that is not implemented here (an attention bias, sinks, a soft cap).
    """
    _check_request(module, query, attention_mask, others)
    if actune_layout is None:
        raise ModelError("this model does not hand the layout of a pack down to its attention layers")
    actune_layout.windows[getattr(module, "layer_idx", 0)] = sliding_window
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # One split, not a slice a tree: the gradient of a slice is a tensor of the whole pack.
    lengths = [stop - start for start, stop, _ in actune_layout.spans]
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for (start, stop, linear), (part_query, part_key, part_value) in zip(actune_layout.spans, parts, strict=True):
        mask = actune_layout.mask(start, stop, linear, sliding_window)
        outputs.append(
            scaled_dot_product_attention(
                part_query,
                part_key,
                part_value,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _check_request(module: nn.Module, query: Tensor, mask: Tensor | None, others: dict[str, Any]) -> None:
    unknown = sorted(
        name
        for name, value in others.items()
        if value is not None and name not in _HARMLESS and not (name == "is_causal" and value)
    )
    if mask is not None:
        unknown.append("attention_mask")
    if not getattr(module, "is_causal", True):
        unknown.append("bidirectional attention")
    if query.shape[0] != 1:
        unknown.append("more than one row")
    if unknown:
        raise ModelError(f"{type(module).__name__} asks for {', '.join(unknown)}, which packed attention does not have")


def use_attention(model: PreTrainedModel, name: str) -> str:
    """Switch a model to another attention function and return the name of the one it had.

    Raises:
        ModelError: the model does not take attention functions from outside.
    """
    before = str(model.config._attn_implementation)
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise ModelError(f"{type(model).__name__} cannot use attention {name!r}: {error}") from error
    if model.config._attn_implementation != name:
        raise ModelError(f"{type(model).__name__} does not take attention functions from outside")
    return before


def _no_mask(**_: Any) -> None:  # noqa: ANN401 - the interface's arguments are not used
    """The layout says what is seen; transformers makes no mask."""


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _no_mask)
