"""Small models and trees for the tests of training; loaded by path, since tests are no package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from actune.config.settings import (
    DataSettings,
    ModelSettings,
    MonitorSettings,
    OutputSettings,
    Settings,
    TrainingSettings,
    TuningSettings,
)
from actune.core.types import Source
from actune.render.tree import TokenTree
from actune.training.job import TrainResult
from actune.training.ranks import Ranks
from actune.training.run import run_training

VOCABULARY = 128


def build_model(kind: str = "qwen3", **changes) -> PreTrainedModel:
    """A random model of two layers, the same on every call."""
    torch.manual_seed(7)
    small = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    } | changes
    kinds = {"qwen3": lambda: Qwen3Config(**small, head_dim=16), "qwen2": lambda: Qwen2Config(**small)}
    config = kinds.get(kind, lambda: LlamaConfig(**small))()
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def build_line(length: int, *, seed: int, targets: int | None = None) -> TokenTree:
    """A line of random tokens; the last `targets` tokens are predicted, with different weights."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, VOCABULARY, length, dtype=np.int32)
    count = targets if targets is not None else max(1, length // 2)
    places = np.arange(length - 1 - count, length - 1, dtype=np.int32)
    return TokenTree(
        input_ids=ids,
        positions=np.arange(length, dtype=np.int32),
        end=np.full(length, length, np.int32),
        target_positions=places,
        target_ids=ids[places + 1],
        target_weights=random.choice(np.array([0.25, 1.0, 2.0], np.float32), count),
        source=Source(file="made.jsonl", line=seed + 1),
    )


def build_tree(*, seed: int) -> TokenTree:
    """A trunk of 6 with two branches, the second of which branches again; targets also where branches start."""
    parents = [-1, 0, 1, 2, 3, 4, 5, 6, 7, 5, 9, 10, 11, 10, 13, 14]
    count = len(parents)
    positions, end = np.zeros(count, np.int32), np.arange(1, count + 1, dtype=np.int32)
    for token in range(1, count):
        positions[token] = positions[parents[token]] + 1
    for token in reversed(range(1, count)):
        end[parents[token]] = max(end[parents[token]], end[token])
    random = np.random.default_rng(seed)
    ids = random.integers(3, VOCABULARY, count, dtype=np.int32)
    children = [token for token in range(count) if token >= 6]
    return TokenTree(
        input_ids=ids,
        positions=positions,
        end=end,
        target_positions=np.array([parents[token] for token in children], np.int32),
        target_ids=ids[children],
        target_weights=random.choice(np.array([0.5, 1.0], np.float32), len(children)),
        source=Source(file="made.jsonl", line=seed + 1),
    )


def build_rows(count: int) -> list[TokenTree]:
    """Rows of different lengths, each third one branching."""
    return [
        build_tree(seed=seed) if seed % 3 == 2 else build_line(6 + 5 * (seed % 4), seed=seed) for seed in range(count)
    ]


def build_settings(*, tuning=None, training=None, output=None, data=None, model=None, monitor=None) -> Settings:
    """Settings without dropout, warm-up or checkpointing unless asked for."""
    return Settings(
        model=ModelSettings(**({"dtype": "fp32"} | (model or {}))),
        data=DataSettings(**(data or {})),
        tuning=TuningSettings(**({"lora_rank": 4, "lora_alpha": 8, "lora_dropout_p": 0.0} | (tuning or {}))),
        training=TrainingSettings(
            **(
                {
                    "batch_size": 2,
                    "gradient_accumulation_steps": 2,
                    "num_train_epochs": 2,
                    "learning_rate": 1e-2,
                    "micro_batch_tokens": 40,
                }
                | (training or {})
            )
        ),
        monitor=MonitorSettings(**(monitor or {})),
        output=OutputSettings(**({"logging_steps": 1, "eval_steps": 0, "save_steps": 0} | (output or {}))),
    )


def train(settings: Settings, model_dir: Path, run_dir: Path, rows: list[TokenTree], **more) -> TrainResult:
    """Train in this process; `more` are arguments of `run_training` that are not as usual."""
    usual = {
        "validation_rows": [],
        "ranks": Ranks(),
        "resume_from": None,
        "fingerprint": "f",
        "save_extra": lambda _: None,
        "say": lambda _: None,
    }
    return run_training(settings=settings, model_dir=model_dir, train_rows=rows, run_dir=run_dir, **(usual | more))


def add_up_line(model: torch.nn.Module, line: TokenTree) -> torch.Tensor:
    """Weighted losses of a plain sequence [S] by the model's own forward pass, all logits, torch's cross entropy."""
    logits = model(input_ids=torch.from_numpy(line.input_ids).long()[None], use_cache=False).logits[0]
    places, ids = torch.from_numpy(line.target_positions).long(), torch.from_numpy(line.target_ids).long()
    return cross_entropy(logits[places], ids, reduction="none") * torch.from_numpy(line.target_weights)
