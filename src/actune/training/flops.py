"""Floating-point operations of a step, counted from what is computed, and what share of the device's peak they are.

The usual model FLOPs (Chowdhery et al. 2022, PaLM, appendix B; Narayanan et al. 2021, section 5.1), with what does not
apply left out: a product with a weight W costs 2 |W| a token forward, 2 |W| backward for the gradient of its input, and
2 |W| for the gradient of W if W is trained: 6 |W| for trained weights, 4 |W| for frozen ones, and 6 |A| + 6 |B| for an
adapter. Attention costs 4 x heads x head width for each pair of query and key that see each other forward (scores and
values), twice that backward. The head costs as any other weight, at supervised positions alone. Tokens that rows share
count once. What is computed again (checkpointing, fused layers) and what is no product does not count. The gradient of the
first layer's input counts, also where nothing below is trained.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from actune.config.gpus import find_device
from actune.data.pack import Batch
from actune.modeling.adapters import unwrap

# Measuring takes about this long.
_SECONDS = 0.1
_SIZE = {"cpu": 768}
_SIZE_DEVICE = 8192


class StepCounts(NamedTuple):
    """What went through the model in a step: trimmed tokens, targets, floating-point operations."""

    tokens: int
    supervised: int
    flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """What one step costs, forward and backward.

    `token`: of each token, `position`: of each supervised position (the head), `pair`: of each pair of query and key in
    one layer. `windows`: the sliding window of each layer (0: none). `last`: of each token in the last layer beyond keys
    and values, which the fused decoder computes at supervised positions alone (`trims`).
    """

    token: int
    position: int
    pair: int
    windows: tuple[int, ...]
    last: int
    trims: bool

    @classmethod
    def of(cls, model: nn.Module, *, fused: bool, backward: bool = True) -> Flops:
        """Read the numbers off a model as it is trained; `fused`: the fused decoder computes it.

        Without `backward` only the forward pass is counted, as in an evaluation.
        """
        inner = unwrap(model)
        config = inner.config.get_text_config()
        head = inner.get_output_embeddings()
        prefix = (
            next((name for name, module in inner.named_modules() if module is head), "") if head is not None else ""
        )
        layers = int(config.num_hidden_layers)
        token = position = last = 0
        for name, module in inner.named_modules():
            cost = _cost_of_module(name, module, config, backward=backward)
            if prefix and (name == prefix or name.startswith(f"{prefix}.")):
                position += cost
                continue
            token += cost
            if f".layers.{layers - 1}." in f".{name}" and not any(part in name for part in ("k_proj", "v_proj")):
                last += cost
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        width = int(getattr(config, "head_dim", 0) or (config.hidden_size // heads if heads else 0))
        return cls(
            token=token,
            position=position,
            pair=(12 if backward else 4) * heads * width,
            windows=_read_windows(config, layers),
            last=last,
            trims=fused,
        )

    def count(self, batch: Batch) -> int:
        """Return the operations of one micro-batch."""
        kept = np.unique(batch.target_positions)
        seen = batch.positions.astype(np.int64) + 1
        pairs = [_count_pairs(seen, window) for window in self.windows]
        tokens = len(batch) * self.token
        if self.trims and pairs:
            pairs[-1] = _count_pairs(seen[kept], self.windows[-1])
            tokens -= (len(batch) - len(kept)) * self.last
        return tokens + len(kept) * self.position + self.pair * sum(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """FLOP/s of one device. `known`: from a data sheet or the user, else measured here by a matrix product."""

    rate: float
    known: bool
    source: str

    def describe(self) -> str:
        """Say what a share of it means."""
        return f"MFU is the share of {self.rate / 1e12:,.3g} TFLOP/s, {self.source}."


def find_peak(device: torch.device, dtype: torch.dtype, *, given: float | None) -> Peak | None:
    """Return the peak of a device for products of a dtype; `given` in TFLOP/s (0: no peak, so no MFU)."""
    if given is not None:
        return Peak(rate=given * 1e12, known=True, source="as set by device_peak_tflops") if given else None
    if device.type != "cpu" and dtype in (torch.bfloat16, torch.float16):
        name = str(getattr(torch.get_device_module(device).get_device_properties(device), "name", ""))
        found = find_device(name)
        if found is not None and (found.bf16 or dtype != torch.bfloat16):
            return Peak(rate=found.half * 1e12, known=True, source=f"the data sheet of {name}, dense {_say(dtype)}")
    rate = _measure_rate(device, dtype, torch.get_num_threads())
    return Peak(rate=rate, known=False, source=f"the rate of one {_say(dtype)} matrix product measured here")


@functools.cache
def _measure_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Return the best rate of some products of square matrices; once a process and number of threads."""
    size = _SIZE.get(device.type, _SIZE_DEVICE)
    left = torch.full((size, size), 0.5, device=device, dtype=dtype)
    right = left.clone()
    best, began = float("inf"), time.perf_counter()
    for turn in range(64):
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        now = time.perf_counter()
        # The first one makes the kernel ready.
        best = min(best, now - start) if turn else best
        if turn and now - began > _SECONDS:
            break
    return 2 * size**3 / best


def _cost_of_module(name: str, module: nn.Module, config: object, *, backward: bool) -> int:
    """Return the cost of a token in the weights that lie in a module itself."""

    def factor(weight: torch.Tensor) -> int:
        return 2 if not backward else 6 if weight.requires_grad else 4

    if isinstance(module, nn.Linear):  # 4-bit weights are stored in another shape
        return module.in_features * module.out_features * factor(module.weight)
    if isinstance(module, nn.Embedding) or name.endswith(
        ("lora_embedding_A", "tokens_delta")
    ):  # looked up, not multiplied
        return 0
    cost = 0
    for weight in module.parameters(recurse=False):
        if weight.ndim == 2:
            cost += weight.numel() * factor(weight)
        elif weight.ndim == 3 and weight.shape[0] > 1:  # experts: each token goes through some of them
            chosen = int(getattr(config, "num_experts_per_tok", None) or weight.shape[0])
            cost += weight.numel() // weight.shape[0] * min(chosen, weight.shape[0]) * factor(weight)
    return cost


def _read_windows(config: object, layers: int) -> tuple[int, ...]:
    window = int(getattr(config, "sliding_window", None) or 0)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    return tuple(
        window if kind == "sliding_attention" else 0
        for kind in kinds
        if kind in ("sliding_attention", "full_attention", "attention")
    )


def _count_pairs(seen: NDArray[np.int64], window: int) -> int:
    return int((np.minimum(seen, window) if window else seen).sum())


def _say(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
