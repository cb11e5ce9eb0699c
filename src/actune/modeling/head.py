"""LM head and cross entropy on supervised positions in two matrix products a position: logits, and their gradient.

The loss is a sum, so the gradient of the logits is known as soon as they are: softmax minus the targets. It is formed
where the logits lie, chunk by chunk, in the forward pass; logits of all positions never exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actune.data.pack import Batch
from actune.modeling.fused.projection import Pass, Projection

# Bytes of fp32 logits at once: on the CPU some hundred rows of a large vocabulary, of 48, 128 and 256 MB what measured
# fastest (152k tokens); an accelerator wants large products.
_CHUNK_BYTES = {"cpu": 128 * 2**20}
_CHUNK_BYTES_DEVICE = 1536 * 2**20


def chunk_bytes(device: torch.device) -> int:
    """Return how many bytes of fp32 logits exist at once on a device, at most (16 positions always do)."""
    return _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_DEVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What is predicted at U positions (S targets, sorted by position, each position and token at most once).

    `rows` [S] index of the position, `ids` [S], `weights` [S] fp32, all on the device; `first` [U + 1], on the host:
    where the targets of each position begin.
    """

    rows: Tensor
    ids: Tensor
    weights: Tensor
    first: NDArray[np.int64]

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> tuple[Tensor, Targets]:
        """Return the positions of a batch that have targets [U], sorted, and what is predicted there.

        Equal targets at one position, which rows with a common beginning can have, add their weights.
        """
        keys = batch.target_positions.astype(np.int64) << 32 | batch.target_ids
        unique, which = np.unique(keys, return_inverse=True)
        weights = np.bincount(which, weights=batch.target_weights, minlength=len(unique)).astype(np.float32)
        kept, rows, counts = np.unique(unique >> 32, return_inverse=True, return_counts=True)

        def move(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        targets = cls(
            rows=move(rows),
            ids=move(unique & 0xFFFFFFFF),
            weights=move(weights),
            first=np.concatenate([[0], np.cumsum(counts)]),
        )
        return move(kept), targets


class HeadLoss(torch.autograd.Function):
    """normalised hidden [U, h] -> sum of weight x negative log-likelihood, an fp32 scalar."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        projection: Projection,
        targets: Targets,
        training: bool,
        *parameters: Tensor,
    ) -> Tensor:
        run = Pass(projection, training=training)
        wanted = any(ctx.needs_input_grad)
        d_hidden = torch.empty_like(hidden) if wanted else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        size = max(1, min(max(16, chunk_bytes(hidden.device) // (4 * projection.outputs)), len(hidden)))
        # Two buffers for all chunks: new ones would cost a page fault for each page.
        logits = hidden.new_empty(size, projection.outputs)
        logs = torch.empty_like(logits, dtype=torch.float32)
        position = torch.zeros(len(hidden), device=hidden.device).index_add_(0, targets.rows, targets.weights)
        position.clamp_min_(torch.finfo(position.dtype).tiny)  # where nothing counts, no division by 0
        for start in range(0, len(hidden), size):
            stop = min(start + size, len(hidden))
            wide = run.room(stop - start)
            wide[:, : hidden.shape[1]] = hidden[start:stop]
            kept = run.draw(stop - start)
            rough = run.multiply(run.widen(wide, kept), out=logits[: stop - start])
            low, high = int(targets.first[start]), int(targets.first[stop])
            rows, ids, weights = targets.rows[low:high] - start, targets.ids[low:high], targets.weights[low:high]
            exact = logs[: stop - start]
            _write_logs(rough, exact)
            loss -= (exact[rows, ids] * weights).sum()
            if d_hidden is not None:
                # d loss / d logits = (weight of the position) x (softmax - share of the target at its token)
                d_logits = exact.exp_()
                whole = position[start:stop, None]
                d_logits.view(-1).index_add_(0, rows * projection.outputs + ids, -weights / position[start:stop][rows])
                if projection.adapters:
                    d_logits *= whole
                if rough.dtype != exact.dtype:
                    d_logits = rough.copy_(d_logits)
                back = run.reverse(d_logits, wide, kept)
                d_hidden[start:stop] = back if projection.adapters else back * whole
        ctx.d_hidden, ctx.found = d_hidden, run.gradients()
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Scale what the forward pass formed."""
        (gradient,) = gradients
        assert ctx.d_hidden is not None
        # In fp32: the gradient is 1 / (sum of weights), which half precision would round for the whole step alike.
        formed = (ctx.d_hidden, *ctx.found)
        d_hidden, *found = (part if part is None else (part.float() * gradient).to(part.dtype) for part in formed)
        return d_hidden, None, None, None, *found


def _write_logs(logits: Tensor, out: Tensor) -> None:
    """Write the logarithms of the softmax of logits [n, V] into `out`, fp32."""
    kernel = torch.ops.aten._log_softmax.out
    if logits.dtype == out.dtype:
        kernel(logits, -1, False, out=out)
    elif logits.device.type == "cpu":
        # In place: the kernel of the CPU reads a row for its maximum and sum before it writes it.
        kernel(out.copy_(logits), -1, False, out=out)
    else:
        out.copy_(torch.log_softmax(logits, dim=-1, dtype=torch.float32))
