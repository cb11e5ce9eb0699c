"""A model as it would be trained, without its weights: shapes from `config.json`, adapters and frozen parts as set.

What a plan counts is read off it by the functions that a run uses, so a plan and its run agree on tokens, memory and
operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import Linear
from transformers import PreTrainedModel

from actune.config.settings import Settings, TuningSettings
from actune.modeling.adapters import Variant, attach_adapter
from actune.modeling.freezing import freeze
from actune.modeling.fused.decoder import Decoder, Unsuited
from actune.modeling.load import outline_model
from actune.modeling.targets import resolve_targets
from actune.render.named_tokens import find_tokens
from actune.render.tokenizer import TextTokenizer
from actune.training.flops import Flops
from actune.training.memory import StepMemory

# Bytes of a weight in NF4: 4 bits, and for each block of 64 its scale in fp32, or in 8 bits with one fp32 number for 256
# blocks (arXiv:2305.14314, section 3).
_NF4, _NF4_DOUBLE = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Counts of a model in one compute dtype.

    `weights`, `trained`, `quantized`: how many numbers the model has, are trained, lie in 4 bits; `matrices`: numbers of
    the linear layers that `quant_bits` would put in 4 bits. `stored`: bytes of all weights, adapters included. `gathered`:
    bytes that a process puts together of weights that are spread: embedding and head, and two layers.
    `memory`: bytes of a step on an accelerator; `training`, `forward`: operations with and without the backward pass.
    `fused`: whether actune computes the layers; `unfused`: why not. `model`: the outline itself, on device `meta`.
    """

    kind: str
    weights: int
    trained: int
    quantized: int
    matrices: int
    stored: int
    gathered: int
    memory: StepMemory
    training: Flops
    forward: Flops
    fused: bool
    unfused: str
    model: nn.Module


def outline(settings: Settings, folder: Path, *, compute: torch.dtype, device: torch.device) -> Outline:
    """Read everything that a plan needs off the model of a folder; no weights are read, or need be there.

    `device`: CPU, or any other for an accelerator.

    Raises:
        ModelError: the folder's config describes no model that transformers has.
        ConfigError: a target of adapters, a frozen weight or a token does not exist.
    """
    tuning = settings.tuning
    full = tuning.sft_type == "full"
    base = outline_model(
        folder, dtype=torch.float32 if full else compute, trust_remote_code=settings.model.trust_remote_code
    )
    matrices = _count_matrices(base)
    weights = sum(weight.numel() for weight in base.parameters())
    gathered = _count_gathered(base)
    if full:
        freeze(base, tuning)
    model = base if full else _adapt(base, settings, folder)
    fused, unfused = _decide_fused(model, settings)
    dropout = not full and tuning.lora_dropout_p > 0
    memory = StepMemory.of(model, compute=compute, fused=fused, dropout=dropout, device=device)
    stored = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    quantized = matrices if tuning.quant_bits else 0
    saved = int(quantized * (compute.itemsize - bytes_in_4_bits(tuning)))
    return Outline(
        kind=str(getattr(base.config, "model_type", "model")),
        weights=weights,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        quantized=quantized,
        matrices=matrices,
        stored=stored - saved,
        gathered=gathered,
        memory=replace(memory, fixed=memory.fixed - saved),
        training=Flops.of(model, fused=fused),
        forward=Flops.of(model, fused=fused, backward=False),
        fused=fused,
        unfused=unfused,
        model=model,
    )


def bytes_in_4_bits(tuning: TuningSettings) -> float:
    """Return the bytes of one weight of a base in 4 bits."""
    return _NF4_DOUBLE if tuning.bnb_4bit_use_double_quant else _NF4


def _adapt(base: PreTrainedModel, settings: Settings, folder: Path) -> nn.Module:
    tuning = settings.tuning
    names = tuning.trainable_tokens
    tokens = find_tokens(TextTokenizer.from_folder(folder), names, "trainable_tokens") if names else ()
    return attach_adapter(
        base,
        modules=resolve_targets(base, tuning.lora_target_modules, ends=not tokens).names,
        rank=tuning.lora_rank,
        alpha=tuning.lora_alpha,
        dropout=tuning.lora_dropout_p,
        seed=settings.training.seed,
        variant=Variant(use_rslora=tuning.use_rslora, use_dora=tuning.use_dora, tokens=tokens),
    )


def _decide_fused(model: nn.Module, settings: Settings) -> tuple[bool, str]:
    """Say whether the fused decoder takes a model of these parts; its trial on numbers is left to the run."""
    tuning, training = settings.tuning, settings.training
    if tuning.sft_type == "full":
        return False, "all weights are trained"
    if not training.fused or training.packing == "false":
        return False, f"{'packing' if training.packing == 'false' else 'fused'} is off"
    if tuning.quant_bits:
        return False, "its linear layers lie in 4 bits"
    try:
        Decoder(model, {})
    except (Unsuited, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        return False, str(error)
    return True, ""


def _count_matrices(model: PreTrainedModel) -> int:
    """Count what bitsandbytes puts in 4 bits: the linear layers but the head (transformers leaves that out)."""
    head = model.get_output_embeddings()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, Linear) and module is not head)


def _count_gathered(model: PreTrainedModel) -> int:
    """Return bytes in fp32 of what is not part of a layer, and of two layers: the next is fetched while one computes."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [
        sum(weight.numel() for weight in module.parameters())
        for module in model.modules()
        if type(module).__name__ in kinds
    ]
    rest = sum(weight.numel() for weight in model.parameters()) - sum(layers)
    return 4 * (rest + 2 * max(layers, default=0))
