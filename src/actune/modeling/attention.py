"""The one attention rule, segment by segment, behind transformers' attention interface.

Query q sees key k iff `k <= q < end[k]` and, in a layer with a sliding window, `positions[q] - positions[k] < window`.
No mask over the whole pack is ever made. The layout travels as a keyword argument of the forward pass, so that
recomputation under gradient checkpointing sees the same one. There are three ways to the same result: matrix products on
the CPU (`tree_attention.py`), a kernel for sequences of several lengths on accelerators that have one (`varlen.py`), and
torch's attention block by block everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from actune.core.errors import ModelError
from actune.data.pack import Batch
from actune.modeling.segments import Block, Segment, cut_segments, plan_blocks
from actune.modeling.tree_attention import Plan, TreeAttention
from actune.modeling.varlen import Varlen

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
    """Where the trees of a pack lie: its segments, and plans for attention over them, made once and shared by layers.

    `windows` notes the sliding window that each layer asked for (None: none), by layer index.
    """

    segments: tuple[Segment, ...]
    device: torch.device
    windows: dict[int, int | None] = field(default_factory=dict)
    _plans: dict[tuple[int | None, bool], Plan] = field(default_factory=dict)
    _varlen: Varlen | None = None

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Layout:
        """Lay out a batch on a device."""
        return cls(segments=cut_segments(batch.end), device=device)

    def plan(self, window: int | None, asked: Tensor | None = None) -> Plan:
        """Return the blocks of queries; `asked` [Q]: the tokens that ask (None: all), the same in every call."""
        key = (window, asked is not None)
        if key not in self._plans:
            queries = asked.cpu().numpy().astype("int32") if asked is not None else None
            self._plans[key] = plan_blocks(self.segments, window, queries)
        return self._plans[key]

    def varlen(self) -> Varlen | None:
        """Return the layout for attention of several lengths, which accelerators have; None elsewhere."""
        if self._varlen is None and self.device.type != "cpu":
            self._varlen = Varlen.of(self.segments, self.device)
        return self._varlen


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
    """Attend within each tree of a pack: query [1, heads, T, d], key and value [1, kv_heads, T, d] -> [1, T, heads, d].

    Raises:
        ModelError: the model asks for something that is not implemented here (an attention bias, sinks, a soft cap).
    """
    _check_request(module, query, attention_mask, others)
    if actune_layout is None:
        raise ModelError("this model does not hand the layout of a pack down to its attention layers")
    actune_layout.windows[getattr(module, "layer_idx", 0)] = sliding_window
    attended = attend_packed(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        actune_layout,
        window=sliding_window,
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        dropout=dropout,
    )
    return attended[None], None


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    window: int | None,
    scale: float,
    asked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend by the one rule: query [Q, heads, d], key and value [T, kv_heads, d] -> [Q, heads, d].

    `asked` [Q]: the tokens that the queries belong to (None: all T).
    """
    if dropout == 0 and query.shape[-1] == value.shape[-1] and layout.device.type == "cpu":
        return TreeAttention.apply(query, key, value, layout.plan(window, asked), scale)
    if dropout == 0 and asked is None and (varlen := layout.varlen()) is not None and varlen.takes(query, window):
        return varlen.attend(query, key, value, window=window, scale=scale)
    return torch.cat(
        [
            _attend_blocks(query, *_gather(key, value, segment), blocks, scale=scale, dropout=dropout)
            for segment, blocks in layout.plan(window, asked)
        ]
    )


def _gather(key: Tensor, value: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
    """Return keys and values of the path of a segment."""
    spans = (*segment.above, (segment.start, segment.stop))
    if len(spans) == 1:
        return key[segment.start : segment.stop], value[segment.start : segment.stop]
    return torch.cat([key[start:stop] for start, stop in spans]), torch.cat(
        [value[start:stop] for start, stop in spans]
    )


def _attend_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], *, scale: float, dropout: float
) -> Tensor:
    """Attend from the blocks of one segment with torch's own attention, for what has no faster way."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1).transpose(0, 1)[None] for states in (key, value))
    outputs = []
    for block in blocks:
        stop = min(block.high, key.shape[2])
        mask = torch.zeros(block.last - block.first, block.high - block.low)
        mask[:, mask.shape[1] - block.after.shape[1] :] += torch.from_numpy(block.after)
        if block.before is not None:
            mask[:, : block.before.shape[1]] += torch.from_numpy(block.before)
        outputs.append(
            scaled_dot_product_attention(
                query[block.first : block.last].transpose(0, 1)[None],
                key[:, :, block.low : stop],
                value[:, :, block.low : stop],
                attn_mask=mask[:, : stop - block.low].to(query.device, query.dtype),
                dropout_p=dropout,
                scale=scale,
            )[0].transpose(0, 1)
        )
    return torch.cat(outputs)


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
