"""A byte model of a step: how many tokens a forward pass may have, and whether activations have to be computed again.

The model counts what has to be kept at the same time; `benchmarks/memory.py` sets it beside what a device reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from actune.config.settings import Settings
from actune.modeling.adapters import unwrap
from actune.modeling.head import chunk_bytes

# Share of the device that may be planned for; the rest is fragmentation, workspace and other programs.
USABLE = 0.85
# Tokens of a forward pass: fewer leave products small (CPU) or kernels short, more gain nothing.
_LEAST_TOKENS = 4096
_MOST_TOKENS = {"cpu": 16384}
_MOST_TOKENS_DEVICE = 65536
# Activations of a forward pass on the CPU, whose memory other programs want as well.
_CPU_ROOM = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of a step.

    `fixed`: weights, for each trained number gradient and two AdamW moments (fp32: 12 bytes), and copies of weights that
    exist through a forward pass. `layer`: kept by the backward pass of one layer for each token; `layers`: how many there are;
    `hidden`: the input of one layer, for each token; `in_flight`: layers kept whole at once where they are recomputed.
    `position`: logits, their exponentials and gradient (fp32) for each supervised position, of which `positions` exist at
    once at most (0: all).
    """

    fixed: int
    layer: int
    layers: int
    hidden: int
    position: int
    positions: int
    in_flight: float

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        compute: torch.dtype,
        fused: bool,
        dropout: bool,
        device: torch.device | None = None,
    ) -> StepMemory:
        """Read the numbers off a model; `fused`: its layers are computed by `actune.modeling.fused`.

        `device`: where the step is computed; unless given, where the model lies.

        A layer keeps, in numbers of the compute dtype (h: hidden, f: intermediate, q and k: width of queries and keys):
        fused 2 h + 2 q + 2 k + q + k + 2 f (its input, query, key, value, attended, raw query and key, the middle residual,
        gate and up) and with dropout a byte for each input of a product; by the model's own forward pass about 16 h + 4 f,
        twice that with adapters, whose inputs are cast and dropped out layer by layer. Under autocast the stream between
        products, so h, stays in the dtype of the weights (fp32).
        """
        config = unwrap(model).config.get_text_config()
        weights = list(model.parameters())
        trained = sum(_count(weight) for weight in weights if weight.requires_grad)
        adapted = isinstance(model, PeftModel)
        # Rows of tokens are written into a copy of their matrix, whose gradient is formed as a whole.
        copied: list[Any] = [
            layer.get_base_layer() for layer in model.modules() if isinstance(layer, TrainableTokensLayer)
        ]
        copies = sum(2 * layer.weight.numel() * layer.weight.element_size() for layer in copied)
        cast = 0 if adapted else _count_cast(model, compute)
        copies += compute.itemsize * cast
        hidden = int(config.hidden_size)
        wide = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        size = int(getattr(config, "head_dim", None) or hidden // heads)
        queries, keys = heads * size, int(getattr(config, "num_key_value_heads", None) or heads) * size
        stream = 4 if cast else compute.itemsize
        if fused:
            numbers = 2 * hidden + 3 * queries + 3 * keys + 2 * wide
            layer = numbers * compute.itemsize + (2 * hidden + queries + wide if dropout else 0)
        else:
            layer = (16 * hidden * stream + 4 * wide * compute.itemsize) * (2 if adapted else 1)
        vocabulary = int(config.vocab_size)
        device = device or next(model.parameters()).device
        return cls(
            fixed=sum(_count(weight) * weight.element_size() for weight in weights) + 12 * trained + copies,
            layer=layer,
            layers=int(config.num_hidden_layers),
            hidden=hidden * stream,
            position=(2 if fused else 3) * 4 * vocabulary,
            # Measured by benchmarks/memory.py: the model's own layers keep part of it twice, as gradients are formed.
            in_flight=1.0 if fused else 1.5,
            positions=max(16, chunk_bytes(device) // (4 * vocabulary)) if fused else 0,
        )

    def token(self, *, recompute: bool) -> int:
        """Return the bytes that each token keeps through all layers."""
        return self.layers * (self.hidden if recompute else self.layer)

    def total(self, *, tokens: int, supervised: int, recompute: bool) -> int:
        """Return the bytes of a step whose largest forward pass has so many tokens and supervised positions."""
        at_once = min(supervised, self.positions) if self.positions else supervised
        layers = self.token(recompute=recompute) + (int(self.in_flight * self.layer) if recompute else 0)
        return self.fixed + tokens * layers + at_once * self.position


def _count(weight: torch.Tensor) -> int:
    """Return the numbers of a weight that this device holds: its part, where weights are spread over processes."""
    return weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()


def _count_cast(model: nn.Module, compute: torch.dtype) -> int:
    """Count the numbers of the matrices that autocast casts to the compute dtype.

    Their copies stay until the forward pass ends, and the backward pass reads them. They are whole also where weights are
    spread over processes.
    """
    found = {
        id(weight): weight.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)  # rows are looked up as they are
        for weight in module.parameters(recurse=False)
        if weight.ndim > 1 and weight.element_size() > compute.itemsize
    }
    return sum(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """`tokens` of a forward pass at most (a longer row has one of its own), and whether activations are recomputed.

    `needed`: bytes of a step by the model; `room`: what the device has for them (None: not known).
    """

    tokens: int
    recompute: bool
    needed: int
    room: int | None


def plan_memory(
    settings: Settings,
    memory: StepMemory,
    *,
    device: torch.device,
    longest: int,
    supervised: float,
    size: int | None = None,
) -> MemoryPlan:
    """Choose the tokens of a forward pass and setting `gradient_checkpointing`, from sizes alone.

    `longest`: tokens of the longest row; `supervised`: share of the tokens that are. What is free at the moment is not
    looked at: dropout depends on how rows are split, and a resumed run has to split them as before. `size`: bytes of an
    accelerator that is not there; unless given, what torch says of this one.
    """
    setting, wanted = settings.training.gradient_checkpointing, settings.training.micro_batch_tokens
    room = _measure_room(device) if size is None else int(USABLE * size)
    most = _MOST_TOKENS.get(device.type, _MOST_TOKENS_DEVICE)

    def total(tokens: int, *, recompute: bool) -> int:
        return memory.total(tokens=tokens, supervised=int(tokens * supervised), recompute=recompute)

    def fit(*, recompute: bool) -> int:
        """Return how many tokens have room."""
        if device.type == "cpu":
            return _CPU_ROOM // max(1, memory.token(recompute=recompute))
        if room is None:
            return 0
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if total(middle, recompute=recompute) <= room else (low, middle - 1)
        return low

    least = max(_LEAST_TOKENS, min(longest, most)) if not wanted else max(wanted, min(longest, most))
    recompute = setting == "true"
    if setting == "auto" and device.type != "cpu":
        recompute = fit(recompute=False) < least
    tokens = wanted or max(_LEAST_TOKENS, min(most, fit(recompute=recompute)))
    if not wanted and device.type != "cpu" and room is not None:
        # Less than the least tokens where they do not fit even so: rows one by one, if need be.
        tokens = min(tokens, max(1, fit(recompute=recompute)))
    return MemoryPlan(
        tokens=tokens,
        recompute=recompute,
        needed=total(max(tokens, min(longest, most)), recompute=recompute),
        room=room,
    )


def _measure_room(device: torch.device) -> int | None:
    """Return the bytes of a device that may be planned for; None on the CPU and where torch does not know."""
    if device.type == "cpu":
        return None
    try:
        _, total = torch.accelerator.get_memory_info(device)
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return int(USABLE * total)


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Switch recomputation on, without the re-entrant variant, which needs inputs that carry gradients."""
    # transformers 5.23 renamed it; the old name warns there and goes away in version 6.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
