"""AdamW, its schedule and clipping, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from actune.config.settings import TrainingSettings
from actune.core.errors import CheckpointError


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW over named parameters, fused where torch has that; no decay on vectors (biases, norms)."""
    groups = [
        {
            "params": [weight for weight in parameters.values() if weight.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [weight for weight in parameters.values() if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (settings.adam_beta1, settings.adam_beta2)
    try:
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
    except RuntimeError:  # no fused kernel for this device
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon)


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
    if max_norm > 0 and math.isfinite(norm):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def read_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimiser's state as CPU tensors named `parameter/entry`."""
    return {
        f"{name}/{entry}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for entry, value in sorted(optimizer.state.get(parameter, {}).items())
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
    for name, values in entries.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {entry: value.to(parameter.device) for entry, value in values.items()}
