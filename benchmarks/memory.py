"""The byte model of a step beside what a device reports, and what would fit on devices of several sizes.

    python benchmarks/memory.py              measure here: one step each in a process of its own
    python benchmarks/memory.py --fits       from the model alone: Qwen2.5-7B and others by size of the device

Measured on an accelerator: what torch allocated at most; on the CPU: the process's largest resident size less what it had
before the step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from actune.config.settings import Settings, TrainingSettings
from actune.core.types import Source
from actune.data.pack import pack
from actune.modeling.adapters import attach_adapter
from actune.modeling.fused.trial import prepare_decoder
from actune.modeling.isolation import prepare_packing
from actune.modeling.load import pick_device
from actune.modeling.targets import resolve_targets
from actune.render.tree import TokenTree
from actune.training.memory import StepMemory, enable_checkpointing, plan_memory
from actune.training.step import StepInput, TrainStep

SHAPES = {
    "Qwen3-0.6B": Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    "Qwen2.5-7B": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    ),
    "Llama-3.1-8B": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    ),
    "Qwen2.5-32B": Qwen2Config(
        vocab_size=152064, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40,
        num_key_value_heads=8, tie_word_embeddings=False,
    ),
}  # fmt: skip
CASES = [
    (fused, tokens, recompute) for fused in (True, False) for tokens in (4096, 16384) for recompute in (False, True)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*json.loads(options.case))))
    elif options.fits:
        show_fits()
    else:
        show_measured()


def show_measured() -> None:
    print("| path | tokens | recomputed | model, MiB | measured, MiB | ratio |\n|---|---|---|---|---|---|")
    for fused, tokens, recompute in CASES:
        command = [sys.executable, __file__, "--case", json.dumps([fused, tokens, recompute])]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        planned, found = json.loads(said.strip().splitlines()[-1])
        path = "fused" if fused else "the model's own"
        print(
            f"| {path} | {tokens} | {'yes' if recompute else 'no'} | {planned / 2**20:.0f} | {found / 2**20:.0f} "
            f"| {found / planned:.2f} |"
        )


def measure(fused: bool, tokens: int, recompute: bool) -> tuple[int, int]:
    """Return the bytes of activations and logits of one step: by the model, and measured."""
    device = pick_device()
    compute = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=6400, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=compute).to(device)
    if (reason := prepare_packing(model)) is not None:
        raise SystemExit(reason)
    names = resolve_targets(model, ["ALL"]).modules
    adapted = attach_adapter(model, modules=names, rank=8, alpha=32, dropout=0.05, seed=0)
    decoder = prepare_decoder(adapted) if fused else None
    if isinstance(decoder, str):
        raise SystemExit(decoder)
    if decoder is not None:
        decoder.recompute = recompute
    elif recompute:
        enable_checkpointing(model)
    adapted.train()
    step, supervised = TrainStep(adapted, decoder=decoder), tokens // 5
    memory = StepMemory.of(adapted, compute=compute, fused=fused, dropout=True)
    inputs = StepInput.of(pack(make_rows(tokens)), device, packed=True)
    small = StepInput.of(pack(make_rows(256)), device, packed=True)
    step(small)[0].backward()  # gradients, and what libraries allocate once
    before = read(device)
    step(inputs)[0].backward()
    planned = memory.total(tokens=tokens, supervised=supervised, recompute=recompute) - memory.fixed
    return planned, read(device) - before


def make_rows(tokens: int) -> list[TokenTree]:
    """Return rows of 256 tokens, the last fifth of each supervised."""
    random = np.random.default_rng(0)
    index = np.arange(256, dtype=np.int32)
    targets = index[-51:]
    return [
        TokenTree(
            input_ids=random.integers(0, 6400, 256, dtype=np.int32),
            positions=index,
            end=np.full(256, 256, np.int32),
            target_positions=targets,
            target_ids=random.integers(0, 6400, len(targets), dtype=np.int32),
            target_weights=np.ones(len(targets), np.float32),
            source=Source(file="made", line=row + 1),
        )
        for row in range(tokens // 256)
    ]


def read(device: torch.device) -> int:
    if device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show_fits() -> None:
    print(
        "LoRA of rank 8 on ALL, bf16, rows of at most 2,048 tokens, a fifth supervised. By the byte model, not measured.\n"
    )
    print("| model | 8 GB | 24 GB | 80 GB | 141 GB |\n|---|---|---|---|---|")
    for name, config in SHAPES.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            assert isinstance(model, PreTrainedModel)
            model.requires_grad_(False)
        memory = StepMemory.of(model, compute=torch.bfloat16, fused=True, dropout=False)
        cells = [fit(memory, size * 10**9) for size in (8, 24, 80, 141)]
        print(f"| {name} | {' | '.join(cells)} |")


def fit(memory: StepMemory, size: int) -> str:
    settings = Settings(training=TrainingSettings())
    plan = plan_memory(settings, memory, device=torch.device("meta"), longest=2048, supervised=0.2, size=size)
    if plan.room is None or plan.needed > plan.room:
        return "no"
    return f"{plan.tokens:,} tokens{', recomputed' if plan.recompute else ''}"


if __name__ == "__main__":
    main()
