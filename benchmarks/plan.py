"""The estimates of `sft --dry-run` beside measured runs on this CPU, and beside published runs on accelerators.

    python benchmarks/plan.py                 train small models here, one process each; predicted and measured
    python benchmarks/plan.py --published     what share of the peak published runs reached, by the same counts

Time is processor time of one thread, so that other programs do not count; the peak is the rate of one matrix product of the
run's dtype. Memory is the largest resident size of the process. Rows are random tokens of 64 to 1,500, a fifth supervised.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from actune.config.gpus import parse_gpu
from actune.config.settings import (
    ModelSettings,
    MonitorSettings,
    OutputSettings,
    Settings,
    TrainingSettings,
    TuningSettings,
)
from actune.core.types import Source
from actune.modeling.products import fast_products
from actune.render.tree import TokenTree
from actune.training import loop
from actune.training.estimate import Device, Workload, estimate
from actune.training.outline import outline
from actune.training.ranks import Ranks
from actune.training.run import run_training

SMALL = {
    "vocab_size": 6400, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
MIDDLE = {
    **SMALL,
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
}
EXPERTS = {**SMALL, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 384, "intermediate_size": 768}
# Name: architecture, its shape, dtype, settings of tuning, settings of training.
CASES = {
    "LoRA": ("qwen3", SMALL, "fp32", {}, {}),
    "LoRA, larger model": ("qwen3", MIDDLE, "fp32", {}, {}),
    "LoRA, bf16": ("qwen3", MIDDLE, "bf16", {}, {}),
    "LoRA, recomputed": ("qwen3", MIDDLE, "fp32", {}, {"gradient_checkpointing": "true"}),
    "LoRA, the model's own forward pass": ("qwen3", SMALL, "fp32", {}, {"fused": False}),
    "LoRA on attention, experts": ("moe", EXPERTS, "fp32", {"lora_target_modules": ("DEFAULT",)}, {}),
    "full": ("qwen3", MIDDLE, "fp32", {"sft_type": "full"}, {}),
    "full, bf16": ("qwen3", MIDDLE, "bf16", {"sft_type": "full"}, {}),
    "full, recomputed": ("qwen3", MIDDLE, "fp32", {"sft_type": "full"}, {"gradient_checkpointing": "true"}),
}  # fmt: skip
CPU = torch.device("cpu")
STEPS, ROWS_A_STEP = 3, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--only", help="names of cases that hold this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.published:
        show_published()
        show_profiles()
    elif options.case:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.case, options.measure) if options.measure else predict(options.case)))
    else:
        show_measured(options.only or "")


# --- here -------------------------------------------------------------------------------------------------------------


def show_measured(only: str) -> None:
    print(
        "| run | GFLOP/s of a product | share reached | step, s: predicted | measured | memory, MiB: predicted | measured "
        "| ratio |\n|---|---|---|---|---|---|---|---|"
    )
    for name in CASES:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            said = call(name)
            found = call(name, "--measure", folder)
        share = said["operations"] / said["rate"] / found["seconds"]
        print(
            f"| {name} | {said['rate'] / 1e9:.0f} | {share:.0%} | {said['least']:.2f} to {said['most']:.2f} | "
            f"{found['seconds']:.2f} | {said['memory'] / 2**20:.0f} | {found['memory'] / 2**20:.0f} | "
            f"{said['memory'] / found['memory']:.2f} |",
            flush=True,
        )


def call(name: str, *more: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", name, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def build(name: str) -> tuple[PretrainedConfig, Settings, list[TokenTree]]:
    kind, shape, dtype, tuning, training = CASES[name]
    config = (Qwen3MoeConfig if kind == "moe" else Qwen3Config)(**shape, tie_word_embeddings=True)
    settings = Settings(
        model=ModelSettings(dtype=dtype),
        tuning=TuningSettings(**tuning),
        training=TrainingSettings(
            batch_size=ROWS_A_STEP, gradient_accumulation_steps=1, max_steps=STEPS, share_prefixes=False, **training
        ),
        monitor=MonitorSettings(device_peak_tflops=0),
        output=OutputSettings(eval_steps=0, save_steps=0),
    )
    return config, settings, make_rows(STEPS * ROWS_A_STEP, config.vocab_size)


def make_rows(count: int, vocabulary: int) -> list[TokenTree]:
    random = np.random.default_rng(0)
    rows = []
    for row in range(count):
        size = int(np.clip(random.lognormal(6.0, 0.6), 64, 1500))
        index = np.arange(size, dtype=np.int32)
        targets = index[-1 - size // 5 : -1]
        ids = random.integers(0, vocabulary, size, dtype=np.int32)
        rows.append(
            TokenTree(
                input_ids=ids,
                positions=index,
                end=np.full(size, size, np.int32),
                target_positions=targets,
                target_ids=ids[targets + 1],
                target_weights=np.ones(len(targets), np.float32),
                source=Source(file="made", line=row + 1),
            )
        )
    return rows


def predict(name: str) -> dict[str, float]:
    from actune.recipes.plan import find_here

    config, settings, rows = build(name)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        device = replace(find_here(settings), rate=measure_rate(settings))
        compute = torch.bfloat16 if device.dtype == "bf16" else torch.float32
        model = outline(settings, Path(folder), compute=compute, device=device.kind)
    plan = estimate(settings, model, Workload.of(settings, rows), device)
    assert plan.time is not None
    again = plan.steps.again if plan.plan.recompute else 0
    return {
        "rate": device.rate,
        "operations": plan.steps.training + again,
        "least": plan.time.step.least,
        "most": plan.time.step.most,
        "memory": plan.memory.total,
    }


def measure_rate(settings: Settings) -> float:
    """Return the best rate of a product, by processor time: what another program on the core takes does not count."""
    dtype = torch.bfloat16 if settings.model.dtype == "bf16" else torch.float32
    left = torch.full((768, 768), 0.5, dtype=dtype)
    best = 0.0
    with fast_products(CPU):
        for _ in range(200):
            began = time.process_time()
            torch.mm(left, left)
            best = max(best, 2 * 768**3 / (time.process_time() - began))
    return best


def measure(name: str, folder: Path) -> dict[str, float]:
    """Train, and return the processor time of the median step after the first, and the largest resident size."""
    config, settings, rows = build(name)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")
    ends: list[float] = []

    def note(_device: torch.device) -> int:
        ends.append(time.process_time())
        return 0

    loop.read_peak_memory = note  # called once at the end of every step
    run_training(
        settings=settings,
        model_dir=folder / "model",
        train_rows=rows,
        validation_rows=[],
        run_dir=folder / "run",
        ranks=Ranks(),
        resume_from=None,
        fingerprint="",
        save_extra=lambda _: None,
        say=lambda _: None,
    )
    return {
        "seconds": (ends[-1] - ends[0]) / (len(ends) - 1),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


# --- published --------------------------------------------------------------------------------------------------------

LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip
LLAMA_3B = LlamaConfig(
    vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
    num_key_value_heads=8, tie_word_embeddings=True,
)  # fmt: skip
LLAMA_70B = LlamaConfig(
    vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
    num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip
QWEN_7B = Qwen2Config(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
    num_key_value_heads=4, tie_word_embeddings=False,
)  # fmt: skip
QWEN_32B = Qwen2Config(
    vocab_size=152064, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40,
    num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip
QWEN_1_7B = Qwen2Config(
    vocab_size=151936, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, tie_word_embeddings=False,
)  # fmt: skip
# Who, model, method, rank, device, devices, tokens of a row, activations recomputed, tokens a second on each.
PUBLISHED = (
    ("NeMo Automodel", "Qwen2.5-7B", QWEN_7B, "lora", 16, "H100", 1, 4096, False, 14110),
    ("NeMo Automodel", "Llama-3-8B", LLAMA_8B, "lora", 16, "H100", 1, 4096, False, 12473),
    ("NeMo Automodel", "Qwen2.5-32B", QWEN_32B, "lora", 16, "H100", 8, 4096, True, 2250),
    ("NeMo Automodel", "Llama-3-70B", LLAMA_70B, "lora", 16, "H100", 8, 4096, True, 1092),
    ("torchtune, compiled", "Llama-3.2-3B", LLAMA_3B, "full", 8, "A100-80G", 1, 2048, False, 9174),
    ("the same, recomputed", "Llama-3.2-3B", LLAMA_3B, "full", 8, "A100-80G", 1, 2048, True, 7210),
    ("torchtune", "Llama-3.2-3B", LLAMA_3B, "lora", 8, "A100-80G", 1, 2048, True, 8210),
    ("torchtune", "Llama-3.1-8B", LLAMA_8B, "lora", 8, "RTX4090", 1, 2048, True, 3083),
    ("Qwen's own profile", "Qwen-7B", QWEN_1_7B, "lora", 64, "A100-80G", 1, 2048, True, 3151),
    ("torchtitan", "Llama-3.1-8B", LLAMA_8B, "full", 8, "H100", 8, 8192, False, 5762),
    ("torchtitan, compiled", "Llama-3.1-8B", LLAMA_8B, "full", 8, "H100", 8, 8192, False, 6667),
)


def show_published() -> None:
    print(
        "Not measured here. Every position predicts a token in these runs; operations count what is computed again.\n\n"
        "| who | model | method | device | tokens/s | GFLOP a token | share of the peak |\n|---|---|---|---|---|---|---|"
    )
    for who, name, config, method, rank, gpu, devices, length, again, rate in PUBLISHED:
        settings = Settings(
            tuning=TuningSettings(sft_type=method, lora_rank=rank), training=TrainingSettings(fused=False)
        )
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            model = outline(settings, Path(folder), compute=torch.bfloat16, device=torch.device("meta"))
        pairs = len(model.training.windows) * (length + 1) / 2
        cost = model.training.token + model.training.position + model.training.pair * pairs
        if again:
            cost += model.forward.token + model.forward.pair * pairs
        peak = Device.of(parse_gpu(gpu), "bf16").rate
        method = f"{'LoRA' if method == 'lora' else method}{', recomputed' if again else ''}"
        where = gpu if devices == 1 else f"{devices} x {gpu}"
        print(f"| {who} | {name} | {method} | {where} | {rate:,} | {cost / 1e9:.1f} | {rate * cost / peak:.0%} |")


# Qwen's README, "Profiling of Memory and Speed": one A100 of 80 GB, one row at a time, eight rows a step, LoRA of rank 64 on
# all linear layers, recomputed. Tokens of a row: GB and seconds a step.
QWEN_1_8B = Qwen2Config(
    vocab_size=151936, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16,
    num_key_value_heads=16, tie_word_embeddings=False,
)  # fmt: skip
PROFILES = (
    ("Qwen-7B, LoRA", QWEN_1_7B, None, {256: (20.1, 1.2), 512: (20.4, 1.5), 1024: (21.5, 2.8), 2048: (23.8, 5.2), 4096: (29.7, 10.1), 8192: (36.6, 21.3)}),
    ("Qwen-7B, QLoRA", QWEN_1_7B, "4", {256: (11.5, 3.0), 512: (11.5, 3.0), 1024: (12.3, 3.5), 2048: (13.9, 7.0), 4096: (16.9, 11.6), 8192: (23.5, 22.3)}),
    ("Qwen-1.8B, LoRA", QWEN_1_8B, None, {256: (6.7, 1.0), 512: (7.4, 1.0), 1024: (8.4, 1.1), 2048: (11.0, 1.7), 4096: (16.2, 3.3), 8192: (21.8, 6.8)}),
)  # fmt: skip


def show_profiles() -> None:
    print(
        "\n| run | tokens of a row | GB: predicted | published | ratio | s a step: predicted | published |\n|---|---|---|---|---|---|---|"
    )
    device = Device.of(parse_gpu("A100-80G"), "bf16")
    linear = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
    for name, config, bits, lengths in PROFILES:
        settings = Settings(
            tuning=TuningSettings(lora_rank=64, lora_target_modules=linear, quant_bits=bits),
            training=TrainingSettings(
                fused=False, share_prefixes=False, gradient_checkpointing="true", batch_size=1,
                gradient_accumulation_steps=8, max_steps=1, micro_batch_tokens=1,
            ),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            model = outline(settings, Path(folder), compute=torch.bfloat16, device=device.kind)
        for length, (size, seconds) in lengths.items():
            plan = estimate(settings, model, Workload.of(settings, [make_row(length)] * 8), device)
            assert plan.time is not None
            memory, step = plan.memory.total / 1e9, plan.time.step
            print(
                f"| {name} | {length:,} | {memory:.1f} | {size} | {memory / size:.2f} | "
                f"{step.least:.1f} to {step.most:.1f} | {seconds} |"
            )


def make_row(length: int) -> TokenTree:
    """Return a row whose every position predicts a token."""
    index, ids = np.arange(length, dtype=np.int32), np.zeros(length, np.int32)
    return TokenTree(
        input_ids=ids,
        positions=index,
        end=np.full(length, length, np.int32),
        target_positions=index,
        target_ids=ids,
        target_weights=np.ones(length, np.float32),
        source=Source(file="made", line=1),
    )


if __name__ == "__main__":
    main()
