"""Small models of every family that is exported; loaded by path, since tests are no package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def write_model(
    folder: Path, tokenizer: Path, kind: str = "qwen3", *, dtype=torch.float32, spare: int = 5, **changes
) -> Path:
    """Write a random model of two layers with a tokenizer, and `spare` rows of embeddings more than it has tokens."""
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    top = max([*content["model"]["vocab"].values(), *(entry["id"] for entry in content["added_tokens"])])
    small = {
        "vocab_size": top + 1 + spare,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
    }
    if kind == "mistral":
        small["sliding_window"] = None
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(_CONFIGS[kind](**(small | changes)), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # ones and zeros hide mistakes
                weight.add_(0.3 * torch.randn_like(weight))
    model.to(dtype).save_pretrained(folder)
    return folder
