"""AdamW, its schedule and clipping, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from actune.config.settings import TrainingSettings
from actune.core.errors import CheckpointError


class Flat:
    """Many small weights in one buffer, values and gradients: a norm, a sum over processes, an update are one call."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move weights of one dtype and device into a buffer of their own."""
        self.places: dict[str, tuple[int, int]] = {}
        start = 0
        for name, parameter in parameters.items():
            self.places[name] = (start, start + parameter.numel())
            start += parameter.numel()
        first = next(iter(parameters.values()))
        self.weights = nn.Parameter(torch.empty(start, dtype=first.dtype, device=first.device))
        self.weights.grad = torch.zeros_like(self.weights)
        for name, parameter in parameters.items():
            place = slice(*self.places[name])
            with torch.no_grad():
                self.weights[place] = parameter.reshape(-1)
            parameter.data = self.weights.data[place].view(parameter.shape)
            parameter.grad = self.weights.grad[place].view(parameter.shape)


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, *, flat: bool = False
) -> torch.optim.AdamW:
    """Return AdamW over named parameters, fused where torch has that; no decay on vectors (biases, norms).

    With `flat` the weights of each group are moved into one buffer: right for adapters, which are many and small.
    """
    decayed = {name: weight for name, weight in parameters.items() if weight.ndim > 1}
    others = {name: weight for name, weight in parameters.items() if weight.ndim <= 1}
    parts = [(part, decay) for part, decay in ((decayed, settings.weight_decay), (others, 0.0)) if part]
    groups: list[dict[str, Any]] = []
    for part, decay in parts:
        one = Flat(part) if flat else None
        weights = [one.weights] if one is not None else list(part.values())
        groups.append({"params": weights, "weight_decay": decay, "flat": one})
    betas = (settings.adam_beta1, settings.adam_beta2)
    try:
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
    except RuntimeError:  # no fused kernel for this device
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon)


def list_stepped(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return what the optimiser steps on: flat buffers, or the weights themselves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Forget all gradients; those that are views of a buffer become zero."""
    optimizer.zero_grad(set_to_none=not _flats(optimizer))


def _flats(optimizer: torch.optim.Optimizer) -> list[Flat]:
    return [group["flat"] for group in optimizer.param_groups if group.get("flat") is not None]


def learning_rate(step: int, *, steps: int, peak: float, warmup_ratio: float) -> float:
    """Return the learning rate of a step (counted from 0) of `steps`.

    It rises linearly from 0 over the first ceil(ratio x steps) steps, then falls linearly to 0 at the step after the
    last: `get_linear_schedule_with_warmup` of transformers.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return peak * step / warmup
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Clip gradients to a global norm (0: leave them) and return the norm they had.

    Where it is no finite number they are left too: which of them are at fault can still be seen.
    """
    norm = nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
    if isinstance(norm, DTensor):  # of weights spread over processes
        norm = norm.full_tensor()
    if max_norm > 0 and math.isfinite(norm):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def read_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], *, keep: bool = True
) -> dict[str, Tensor]:
    """Return the optimiser's state as CPU tensors named `parameter/entry`, flat or not.

    What is spread over processes is put together, which they do together; without `keep` nothing is returned.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for entry, value in sorted(_entries(optimizer, name, parameter).items()):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if keep:
                found[f"{name}/{entry}"] = whole.detach().cpu().contiguous()
    return found


def _entries(optimizer: torch.optim.Optimizer, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the state of one weight: tensors of its shape, and the number of steps."""
    flat = next((one for one in _flats(optimizer) if name in one.places), None)
    if flat is None:
        return dict(optimizer.state.get(parameter, {}))
    place = slice(*flat.places[name])
    return {
        entry: value.clone() if value.ndim == 0 else value[place].view(parameter.shape)
        for entry, value in optimizer.state.get(flat.weights, {}).items()
    }


def write_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: str
) -> None:
    """Put a state made by `read_state` back.

    Raises:
        CheckpointError: a tensor belongs to no parameter, or has not its shape.
    """
    entries: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None:
            raise CheckpointError(f"{where}: {key} belongs to no trained weight of this model")
        if entry != "step" and value.shape != parameter.shape:
            raise CheckpointError(f"{where}: {key} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        entries.setdefault(name, {})[entry] = value
    lacking = sorted(set(parameters) - set(entries)) if entries else []
    if lacking:
        raise CheckpointError(f"{where}: no state for {lacking[0]} and {len(lacking) - 1} more")
    if flats := _flats(optimizer):
        for flat in flats if entries else ():
            optimizer.state[flat.weights] = _join_entries(flat, entries)
        return
    for name, values in entries.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            entry: value.to(parameter.device) if entry == "step" else place_like(value, parameter)
            for entry, value in values.items()
        }


def place_like(whole: Tensor, reference: Tensor) -> Tensor:
    """Return a whole tensor as one like another: on its device, spread over processes if that is."""
    moved = whole.to(reference.device)
    if not isinstance(reference, DTensor):
        return moved
    # Every process has the whole one and takes its part of it; nothing is sent.
    return distribute_tensor(moved, reference.device_mesh, reference.placements, src_data_rank=None)


def _join_entries(flat: Flat, entries: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    device = flat.weights.device
    names = list(flat.places)
    return {
        entry: first.to(device)
        if first.ndim == 0
        else torch.cat([entries[name][entry].reshape(-1) for name in names]).to(device)
        for entry, first in entries[names[0]].items()
    }
