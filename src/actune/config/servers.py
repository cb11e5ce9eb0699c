"""What servers refuse of an adapter, said before it is trained.

The lists were read from the source of vLLM 0.33.0: `lora/peft_helper.py`, `lora/lora_model.py` (a module that the model does
not list is an error), `config/lora.py`, and `embedding_modules` and `SupportsLoRA` of `model_executor/models`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from actune.config.settings import TuningSettings

_VLLM = "vLLM 0.33"
_MERGE = "merge it to serve it (actune export --to merged)"
_DEFAULT_RANK = 16
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Architectures whose input embedding may carry an adapter; of others vLLM refuses the whole adapter.
_EMBEDDINGS = frozenset(
    [
        "ApertusForCausalLM",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DeciLMForCausalLM",
        "Ernie4_5ForCausalLM",
        "Exaone4ForCausalLM",
        "ExaoneForCausalLM",
        "ExaoneMoeForCausalLM",
        "FalconH1ForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeSharedForCausalLM",
        "InternLM3ForCausalLM",
        "JambaForCausalLM",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "Llama4ForCausalLM",
        "LlamaForCausalLM",
        "MiniCPM3ForCausalLM",
        "MiniCPMForCausalLM",
        "MixtralForCausalLM",
        "NemotronForCausalLM",
        "NemotronHForCausalLM",
        "Phi3ForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5MoeForCausalLM",
        "SolarForCausalLM",
        "TeleChat2ForCausalLM",
    ]
)
# Of these the head shares the embedding's matrix and is no module of its own.
_NO_HEAD = frozenset({"CohereForCausalLM", "Cohere2ForCausalLM"})
# Architectures that vLLM serves, but without adapters.
_NO_LORA = frozenset(
    [
        "BloomForCausalLM",
        "Cohere2MoeForCausalLM",
        "DbrxForCausalLM",
        "FalconForCausalLM",
        "FalconMambaForCausalLM",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "Gemma3nForCausalLM",
        "Mamba2ForCausalLM",
        "MambaForCausalLM",
        "OrionForCausalLM",
        "StableLmForCausalLM",
        "Zamba2ForCausalLM",
    ]
)
_INPUTS = frozenset({"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings", "embed_in"})
_HEADS = frozenset({"lm_head", "embed_out", "output"})


def serving_notices(tuning: TuningSettings, model_dir: Path) -> list[str]:
    """Return what a server would say to the adapter of a run, a sentence each."""
    if tuning.sft_type == "full":
        return []
    return list(_list_refusals(tuning, _read_architecture(model_dir)))


def _list_refusals(tuning: TuningSettings, architecture: str) -> Iterator[str]:
    if architecture in _NO_LORA:
        yield f"{_VLLM} serves {architecture} without adapters; {_MERGE}"
        return
    if tuning.use_dora:
        yield f"{_VLLM} refuses DoRA; {_MERGE}"
    if tuning.trainable_tokens:
        yield f"{_VLLM} refuses adapters with trained rows of tokens; {_MERGE}"
    targets = {name.rpartition(".")[2] for name in tuning.lora_target_modules}
    heads = bool(targets & (_HEADS | {"ALL+head"}))
    # Where rows of tokens are trained, ALL leaves the embedding out.
    inputs = bool(targets & (_INPUTS | {"ALL", "ALL+head"})) and not tuning.trainable_tokens
    if architecture and architecture not in _EMBEDDINGS and (inputs or heads):
        yield (
            f"{_VLLM} refuses adapters on the embedding or the head of {architecture}; {_MERGE}, or train the layers of "
            "the blocks alone (--lora_target_modules with their names)"
        )
    elif architecture in _NO_HEAD and heads:
        yield f"{_VLLM} refuses adapters on the head of {architecture}; {_MERGE}"
    if tuning.lora_rank > _RANKS[-1]:
        yield f"{_VLLM} serves adapters up to rank {_RANKS[-1]}, this one has {tuning.lora_rank}; {_MERGE}"
    elif tuning.lora_rank > _DEFAULT_RANK:
        needed = next(rank for rank in _RANKS if rank >= tuning.lora_rank)
        yield f"{_VLLM} serves rank {tuning.lora_rank} only with --max-lora-rank {needed} (its default is {_DEFAULT_RANK})"


def _read_architecture(model_dir: Path) -> str:
    try:
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
        named = config.get("architectures") or [""]
        return str(named[0])
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return ""  # whoever loads the model says what is wrong with the file
