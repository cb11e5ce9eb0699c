"""Make a small random model for a tokenizer: something to run the whole path with, in seconds and without a download.

    python scripts/make_random_model.py --tokenizer DIR --out DIR [--hidden 256 --layers 4 ...]

The weights are random but seeded; what comes out trains and saves like any model of its architecture and says nothing
sensible.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_CONFIGS = {"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}
# Rows of the embedding are padded to a multiple of this, as released models do.
_PAD_TO = 64


def read_special_ids(folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Return ids of the bos, eos and pad tokens that the tokenizer's own files name."""
    named: dict[str, object] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            named |= json.loads(path.read_text(encoding="utf-8"))
    ids = {}
    for kind in ("bos", "eos", "pad"):
        token = named.get(f"{kind}_token")
        text = token.get("content") if isinstance(token, dict) else token
        number = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if number is not None:
            ids[f"{kind}_token_id"] = number
    return ids


def build_config(options: argparse.Namespace, vocabulary: int, ids: dict[str, int]) -> PreTrainedConfig:
    """Return the configuration of the model."""
    values = {
        "vocab_size": -(-vocabulary // _PAD_TO) * _PAD_TO,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "max_position_embeddings": options.positions,
        "tie_word_embeddings": options.tied == "true",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | ids
    if options.architecture == "qwen3":
        values["head_dim"] = options.head_dim
    return _CONFIGS[options.architecture](**values)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make a small random model for a tokenizer.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or absent")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv_heads", type=int, default=2)
    parser.add_argument("--head_dim", type=int, default=64, help="qwen3 only")
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--positions", type=int, default=32768, help="longest context")
    parser.add_argument("--tied", choices=("true", "false"), default="true")
    parser.add_argument("--architecture", choices=tuple(_CONFIGS), default="qwen3")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Write the model and copy the tokenizer's files beside it."""
    options = parse_options()
    source = options.tokenizer / "tokenizer.json"
    if not source.is_file():
        sys.exit(f"no tokenizer in {options.tokenizer}: tokenizer.json is missing")
    if options.out.exists() and any(options.out.iterdir()):
        sys.exit(f"{options.out} is not empty")
    tokenizer = Tokenizer.from_file(str(source))
    # Ids may have gaps: the highest one counts, not their number.
    vocabulary = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    ids = read_special_ids(options.tokenizer, tokenizer)
    torch.manual_seed(options.seed)
    model = AutoModelForCausalLM.from_config(build_config(options, vocabulary, ids), dtype=torch.float32)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(options.out)
    for name in _FILES:
        if (options.tokenizer / name).is_file():
            shutil.copyfile(options.tokenizer / name, options.out / name)
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{options.architecture} with {count:,} weights, {model.config.vocab_size:,} tokens: {options.out}")


if __name__ == "__main__":
    main()
