"""A rough byte model: would a step fit the device without recomputing activations?"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from actune.modeling.adapters import unwrap

# Share of the device that may be planned for; the rest is fragmentation, workspace and other programs.
_USABLE = 0.85


def estimate_step_bytes(model: nn.Module, *, tokens: int, supervised: int, compute: torch.dtype) -> int:
    """Return roughly the bytes that a step of `tokens` tokens, `supervised` of them with loss, keeps on the device.

    Sum of:
    - weights as stored; per trained number gradient, two AdamW moments (fp32: 12 bytes);
    - per token and layer, what the backward pass of a standard block keeps: about 16 x hidden (norm inputs, queries,
      keys, values, attention output, residuals) + 4 x intermediate (gate, up, activation, product) numbers of the
      compute dtype; with adapters twice that, because inputs are cast and dropped out per linear layer;
    - per supervised token three fp32 rows of the vocabulary (logits, their exponentials, their gradient).
    """
    config = unwrap(model).config.get_text_config()
    parameters = list(model.parameters())
    stored = sum(weight.numel() * weight.element_size() for weight in parameters)
    trained = sum(weight.numel() for weight in parameters if weight.requires_grad)
    adapted = any(not weight.requires_grad for weight in parameters)
    hidden = int(config.hidden_size)
    intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    kept = config.num_hidden_layers * (16 * hidden + 4 * intermediate) * compute.itemsize * (2 if adapted else 1)
    return stored + 12 * trained + tokens * kept + supervised * 3 * 4 * int(config.vocab_size)


def needs_checkpointing(
    setting: str, model: nn.Module, *, device: torch.device, tokens: int, supervised: int, compute: torch.dtype
) -> bool:
    """Decide setting `gradient_checkpointing`; `auto` is off on the CPU and wherever the step seems to fit."""
    if setting != "auto":
        return setting == "true"
    if device.type == "cpu":
        return False
    try:
        _, total = torch.accelerator.get_memory_info(device)
    except (RuntimeError, AttributeError, NotImplementedError):
        return True  # unknown room: the slower way that always fits better
    needed = estimate_step_bytes(model, tokens=tokens, supervised=supervised, compute=compute)
    return needed > _USABLE * total


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Switch recomputation on, without the re-entrant variant, which needs inputs that carry gradients."""
    # transformers 5.23 renamed it; the old name warns there and goes away in version 6.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
