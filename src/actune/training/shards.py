"""Full fine-tuning with weights, gradients and optimiser state spread over the processes (FSDP2, `fully_shard`).

Each process keeps a part of every weight; a layer is put together for the time it is computed. The numbers are those of
replicated training: weights stay fp32, products have the dtype that autocast gives them, gradients are summed. What the
loop sees of it are weights that are DTensors, and three rules: every process runs as many forward passes as the others
(`Dealer.even`), whole tensors are gathered by all processes together, and what only one process notices ends all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from actune.config.settings import Settings
from actune.training.optimizer import read_state
from actune.training.ranks import Ranks

# Share of a device that weights, gradients and moments of replicated training may take; the rest is for activations.
_FIXED_SHARE = 0.6
# Bytes of a trained weight in fp32: itself, its gradient, two moments.
_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A model and its optimiser's state put together, on the CPU; empty in all processes but the leading one."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def may_shard(settings: Settings, ranks: Ranks) -> bool:
    """Whether weights may have to be spread: they are then loaded on the CPU first."""
    training = settings.training
    return settings.tuning.sft_type == "full" and ranks.size > 1 and training.fsdp != "false"


def wants_shards(settings: Settings, model: nn.Module, ranks: Ranks) -> bool:
    """Decide setting `fsdp`; auto is on where one device would be filled by what each trained weight needs."""
    if not may_shard(settings, ranks):
        return False
    if settings.training.fsdp == "true" or ranks.device.type == "cpu":
        return settings.training.fsdp == "true"
    # The smallest device decides for all: processes with different answers would wait for each other for ever.
    return ranks.sum([float(_is_filled(model, ranks.device))])[0] > 0


def _is_filled(model: nn.Module, device: torch.device) -> bool:
    """Whether weights, and gradients and moments of the trained ones, would take too much of a device."""
    try:
        _, total = torch.accelerator.get_memory_info(device)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return fills_device(model, total)


def fills_device(model: nn.Module, size: int) -> bool:
    """Whether that would take too much of a device of so many bytes."""
    needed = sum(weight.numel() * (_BYTES if weight.requires_grad else 4) for weight in model.parameters())
    return needed > _FIXED_SHARE * size


def shard(model: PreTrainedModel, ranks: Ranks) -> None:
    """Spread the weights of a model, which all processes hold alike, over the devices: each layer, then the rest."""
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    for module in (*reversed(layers), model):  # what lies inside comes first
        # The root too: a forward pass without backward, as in evaluation, would leave whole weights behind.
        sharded: Any = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # Losses are divided by the sum over all processes already, so gradients are sums.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are spread over processes."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def gather(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, on its device; all processes call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_whole(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, parameters: Mapping[str, nn.Parameter], ranks: Ranks
) -> Whole | None:
    """Put a model and its optimiser's state together on the CPU of the leading process; all call this together.

    None where weights are not spread.
    """
    if not is_sharded(model):
        return None
    seen: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) not in seen:  # a matrix with two names stays one
            whole = gather(weight.detach())
            seen[id(weight)] = whole.cpu() if ranks.leads else whole.new_empty(0)
        weights[name] = seen[id(weight)]
    state = read_state(optimizer, parameters, keep=ranks.leads) if optimizer is not None else {}
    return Whole(weights=weights, optimizer=state) if ranks.leads else Whole(weights={}, optimizer={})
