"""Attention over packed token trees by matrix products on the CPU: each token once, no mask over the pack.

For each segment the keys and values of its path are laid side by side; blocks of queries are multiplied with them, heads
that share keys together. Probabilities are computed again in the backward pass, so memory is linear in tokens. Query,
key and value products go through the same matrix multiplication as the model's layers, which on the CPU is faster than
torch's own attention kernel (`benchmarks/attention.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actune.modeling.segments import Block, Segment, round_up

Plan = Sequence[tuple[Segment, Sequence[Block]]]


class TreeAttention(torch.autograd.Function):
    """query [Q, heads, d], key and value [T, kv_heads, d] -> [Q, heads, d]; Q queries as the plan says."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:  # noqa: ANN401
        """Attend; keeps the three inputs only."""
        ctx.save_for_backward(query, key, value)
        ctx.plan, ctx.scale = plan, scale
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        path = _Path(key, value)
        for segment, blocks in plan:
            path.lay(segment)
            for block in blocks:
                weights = path.weigh(block, path.take(query, block, scale))
                path.put(out, block, torch.bmm(weights, path.values(block)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of query, key and value."""
        query, key, value = ctx.saved_tensors
        (gradient,) = gradients
        d_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        path = _Path(key, value, sums=True)
        for segment, blocks in ctx.plan:
            path.lay(segment)
            for block in blocks:
                asked, given = path.take(query, block, ctx.scale), path.take(gradient, block, 1.0)
                weights = path.weigh(block, asked)
                d_weights = torch.bmm(given, path.values(block).transpose(1, 2))
                d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                path.add(
                    block,
                    torch.bmm(d_scores.transpose(1, 2), asked),
                    torch.bmm(weights.transpose(1, 2), given),
                )
                path.put(d_query, block, torch.bmm(d_scores, path.keys(block)).mul_(ctx.scale))
        d_key, d_value = path.finish()
        return d_query, d_key, d_value, None, None


class _Path:
    """Keys and values of the path of one segment, [kv_heads, length, d]; with `sums`, their gradients as well.

    Segments with the same ancestors follow each other, so what belongs to the ancestors stays where it is.
    """

    def __init__(self, key: Tensor, value: Tensor, *, sums: bool = False) -> None:
        self._key, self._value = key, value
        self._above: tuple[tuple[int, int], ...] | None = None
        self._segment: Segment | None = None
        self._room = 0
        self._keys = self._values = key  # until the first segment
        self._sums = (torch.zeros_like(key), torch.zeros_like(value)) if sums else None
        self._d_keys = self._d_values = key

    def lay(self, segment: Segment) -> None:
        """Lay out the path of a segment."""
        same = segment.above == self._above and segment.length <= self._room
        if self._sums is not None:
            self._flush(above=not same)
        if not same:
            if segment.length > self._room:
                self._room = round_up(segment.length)
                heads, size = self._key.shape[1], self._key.shape[2]
                # Padding has to be finite: it is multiplied by zero.
                self._keys, self._values = (self._key.new_zeros(heads, self._room, size) for _ in range(2))
                if self._sums is not None:
                    self._d_keys, self._d_values = (self._key.new_zeros(heads, self._room, size) for _ in range(2))
            at = 0
            for start, stop in segment.above:
                self._copy(start, stop, at)
                at += stop - start
        self._copy(segment.start, segment.stop, segment.depth)
        self._above, self._segment = segment.above, segment

    def _copy(self, start: int, stop: int, at: int) -> None:
        self._keys[:, at : at + stop - start] = self._key[start:stop].transpose(0, 1)
        self._values[:, at : at + stop - start] = self._value[start:stop].transpose(0, 1)

    def keys(self, block: Block) -> Tensor:
        """Return the keys of a block [kv_heads, K, d]."""
        return self._keys[:, block.low : block.high]

    def values(self, block: Block) -> Tensor:
        """Return the values of a block [kv_heads, K, d]."""
        return self._values[:, block.low : block.high]

    def take(self, tensor: Tensor, block: Block, scale: float) -> Tensor:
        """Return the rows of a block [kv_heads, heads / kv_heads x rows, d] of [Q, heads, d], scaled."""
        shared = self._key.shape[1]
        rows, heads, size = block.last - block.first, tensor.shape[1], tensor.shape[2]
        part = tensor[block.first : block.last].view(rows, shared, heads // shared, size).permute(1, 2, 0, 3)
        out = tensor.new_empty(shared, heads // shared, rows, size)
        torch.mul(part, scale, out=out) if scale != 1.0 else out.copy_(part)
        return out.view(shared, -1, size)

    def put(self, tensor: Tensor, block: Block, part: Tensor) -> None:
        """Write the rows of a block back into [Q, heads, d]."""
        rows, heads, size = block.last - block.first, tensor.shape[1], tensor.shape[2]
        shared = part.shape[0]
        tensor[block.first : block.last].view(rows, shared, heads // shared, size).copy_(
            part.view(shared, heads // shared, rows, size).permute(2, 0, 1, 3)
        )

    def weigh(self, block: Block, asked: Tensor) -> Tensor:
        """Return the probabilities [kv_heads, rows, K] of a block."""
        scores = torch.bmm(asked, self.keys(block).transpose(1, 2))
        grid = scores.view(scores.shape[0], -1, block.last - block.first, scores.shape[-1])
        grid[..., grid.shape[-1] - block.after.shape[1] :] += torch.from_numpy(block.after)
        if block.before is not None:
            grid[..., : block.before.shape[1]] += torch.from_numpy(block.before)
        return torch.softmax(scores, dim=-1)

    def add(self, block: Block, d_keys: Tensor, d_values: Tensor) -> None:
        """Add to the gradients of the keys and values of a block."""
        self._d_keys[:, block.low : block.high] += d_keys
        self._d_values[:, block.low : block.high] += d_values

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of all keys and values [T, kv_heads, d]."""
        self._flush(above=True)
        assert self._sums is not None
        return self._sums

    def _flush(self, *, above: bool) -> None:
        """Hand over the gradients of the present segment, and of its ancestors unless more is to come."""
        if self._segment is None or self._sums is None:
            return
        at = 0
        for start, stop in self._segment.above if above else ():
            self._hand_over(start, stop, at)
            at += stop - start
        self._hand_over(self._segment.start, self._segment.stop, self._segment.depth)

    def _hand_over(self, start: int, stop: int, at: int) -> None:
        assert self._sums is not None
        for total, part in zip(self._sums, (self._d_keys, self._d_values), strict=True):
            piece = part[:, at : at + stop - start]
            total[start:stop] += piece.transpose(0, 1)
            piece.zero_()
