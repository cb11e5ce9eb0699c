"""Linear layers that read the same input, with their LoRA adapters, as one matrix product.

For layers `W_i` with adapters `s_i B_i A_i`, the product of the widened input `[x, x_d A^T]` and the widened weight
`[W, s B]` is `W x + s B A x_d` (`x_d`: the input after dropout). The frozen part of the widened weight is what the model's
layers read as well (their weights become views of it), so nothing is held twice; the narrow part is written anew for
every forward pass. Its gradient product gives `dx` and the adapters' inner gradient at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """LoRA on rows `start` to `stop` of a projection: `scale` x `up` [out_i, r] x `down` [r, in]."""

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    start: int
    stop: int


class Projection:
    """`weight` [out, in + R] with R the sum of the ranks, `bias` [out] or None; see the module's text."""

    def __init__(self, layers: list[nn.Linear], adapters: list[Adapter], dropout: float) -> None:
        """Take over the weights of plain linear layers; `adapters` are in the order of their rows."""
        weights = [layer.weight for layer in layers]
        first = weights[0]
        self.inputs = first.shape[1]
        self.adapters = tuple(adapters)
        self.ranks = [adapter.down.shape[0] for adapter in adapters]
        self.dropout = dropout if adapters else 0.0
        if len(layers) == 1 and not adapters:
            self.weight, self.bias = first.detach(), layers[0].bias
            return
        self.weight = _join_weights(layers, self.inputs, sum(self.ranks))
        self.bias = _join_biases(layers)

    @property
    def outputs(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The trained weights: all `down`, then all `up`."""
        return (*(adapter.down for adapter in self.adapters), *(adapter.up for adapter in self.adapters))

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the adapters' present values into the weight; before each forward pass."""
        at = self.inputs
        for adapter, rank in zip(self.adapters, self.ranks, strict=True):
            self.weight[adapter.start : adapter.stop, at : at + rank] = adapter.up * adapter.scale
            at += rank

    def stack_downs(self) -> Tensor | None:
        """Return all `down` one above the other [R, in] in the dtype of the weight."""
        if not self.adapters:
            return None
        return torch.cat([adapter.down.detach() for adapter in self.adapters]).to(self.weight.dtype)


@torch.no_grad()
def _join_weights(layers: list[nn.Linear], inputs: int, ranks: int) -> Tensor:
    """Return a weight [out, in + R] whose first columns the layers read from now on."""
    first = layers[0].weight
    weight = first.new_zeros(sum(layer.weight.shape[0] for layer in layers), inputs + ranks)
    at = 0
    for layer in layers:
        place = weight[at : at + layer.weight.shape[0], :inputs]
        place.copy_(layer.weight)
        layer.weight.data = place
        at += len(place)
    return weight


def _join_biases(layers: list[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.bias.detach() if layer.bias is not None else layer.weight.new_zeros(layer.weight.shape[0])
        for layer in layers
    ]
    return torch.cat(parts)


class Pass:
    """One projection in one forward or backward pass: the stacked adapters, dropout, and the sums of gradients."""

    def __init__(self, projection: Projection, *, training: bool) -> None:
        self.projection = projection
        self.downs = projection.stack_downs()
        self.dropout = projection.dropout if training else 0.0
        self._d_downs: Tensor | None = None
        self._d_ups: Tensor | None = None

    def room(self, rows: int) -> Tensor:
        """Return an empty widened input [rows, in + R]; the caller writes the first `in` columns."""
        return self.projection.weight.new_empty(rows, self.projection.weight.shape[1])

    def draw(self, rows: int) -> Tensor | None:
        """Draw which inputs dropout keeps [rows, in], or None without dropout."""
        if self.dropout == 0:
            return None
        return draw_kept(rows, self.projection.inputs, self.dropout, self.projection.weight.device)

    def widen(self, wide: Tensor, kept: Tensor | None) -> Tensor:
        """Fill the last columns of a widened input from its first ones, and return it."""
        if self.downs is not None:
            inputs = wide[:, : self.projection.inputs]
            wide[:, self.projection.inputs :] = _drop(inputs, kept, self.dropout) @ self.downs.T
        return wide

    def multiply(self, wide: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the outputs [rows, out] of a widened input, written into `out` if that is given."""
        weight, bias = self.projection.weight, self.projection.bias
        return torch.mm(wide, weight.T, out=out) if bias is None else torch.addmm(bias, wide, weight.T, out=out)

    def reverse(self, gradient: Tensor, wide: Tensor, kept: Tensor | None) -> Tensor:
        """Return the gradient of the inputs [rows, in] for that of the outputs; adds to the adapters' gradients."""
        size = self.projection.inputs
        d_wide = gradient @ self.projection.weight
        d_inputs = d_wide[:, :size]
        if self.downs is None:
            return d_inputs
        d_inner = d_wide[:, size:]
        d_downs = d_inner.T @ _drop(wide[:, :size], kept, self.dropout)
        d_ups = gradient.T @ wide[:, size:]
        self._d_downs = d_downs if self._d_downs is None else self._d_downs.add_(d_downs)
        self._d_ups = d_ups if self._d_ups is None else self._d_ups.add_(d_ups)
        back = d_inner @ self.downs
        return d_inputs.add_(back if kept is None else _drop(back, kept, self.dropout))

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of `projection.parameters`, in their dtype."""
        adapters = self.projection.adapters
        if self._d_downs is None or self._d_ups is None:
            return [None] * (2 * len(adapters))
        downs = self._d_downs.split(self.projection.ranks)
        ups = self._d_ups.split(self.projection.ranks, dim=1)
        return [
            *(part.to(adapter.down.dtype) for adapter, part in zip(adapters, downs, strict=True)),
            *(
                part[adapter.start : adapter.stop].to(adapter.up.dtype) * adapter.scale
                for adapter, part in zip(adapters, ups, strict=True)
            ),
        ]


def draw_kept(rows: int, columns: int, dropout: float, device: torch.device) -> Tensor:
    """Draw which of [rows, columns] numbers dropout keeps (bool), each with probability 1 - `round_share(dropout)`.

    Four from each 64 random bits: on the CPU a quarter of the time of torch's own dropout.
    """
    bits = torch.empty(-(-rows * columns // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    lanes = bits.view(torch.int16)[: rows * columns].view(rows, columns)
    return lanes >= round(dropout * 2**16) - 2**15


def round_share(dropout: float) -> float:
    """Return the probability that `draw_kept` really has: the next multiple of 1 / 65536."""
    return round(dropout * 2**16) / 2**16


def _drop(tensor: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return tensor if kept is None else (tensor * kept).mul_(1 / (1 - round_share(dropout)))


def gather_parameters(*projections: Projection) -> list[Any]:
    """Return the trained weights of several projections, in the order in which gradients are returned."""
    return [parameter for projection in projections for parameter in projection.parameters]
