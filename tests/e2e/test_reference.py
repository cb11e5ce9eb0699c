"""The reference recipe's own command, flags unchanged, on two processes and on one with doubled accumulation."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# As printed in the reference; model, data and output are swapped for local ones below, the number of processes is 2,
# and the tiny run needs a higher learning rate and fewer identity rows to show anything in seconds.
COMMAND = """
    --model_revision master --sft_type lora --tuner_backend swift --dtype AUTO --train_dataset_mix_ratio 2.0
    --train_dataset_sample -1 --num_train_epochs 2 --max_length 2048 --check_dataset_strategy warning --lora_rank 8
    --lora_alpha 32 --lora_dropout_p 0.05 --lora_target_modules ALL --model_name 卡卡罗特 --model_author 陶白白
    --gradient_checkpointing true --batch_size 2 --weight_decay 0.01 --max_grad_norm 0.5 --warmup_ratio 0.03
    --eval_steps 100 --save_steps 100 --save_total_limit 2
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's example model: its own tokenizer, random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    command = [sys.executable, str(ROOT / "scripts" / "make_example_tokenizer.py"), "--out", str(folder / "tokenizer")]
    subprocess.run(command, check=True, capture_output=True)
    for file in (folder / "tokenizer").iterdir():
        shutil.copy(file, folder / file.name)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, max_position_embeddings=4096,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def run(model: Path, out: Path, *, processes: int, accumulation: int, extra: str = "", without: str = "") -> list[dict]:
    flags = shlex.split(COMMAND)
    if without:
        place = flags.index(without)
        del flags[place : place + 2]
    flags += ["--model_id_or_path", str(model), "--dataset", str(ROOT / "examples" / "agent.jsonl")]
    flags += ["--train_dataset_mix_ds", str(ROOT / "examples" / "general.jsonl"), "--output_dir", str(out)]
    flags += ["--self_cognition_sample", "10", "--learning_rate", "5e-3", "--logging_steps", "1"]
    flags += ["--compare", "false"]  # measured in test_comparison.py
    flags += ["--gradient_accumulation_steps", str(accumulation), *shlex.split(extra)]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), "actune", "sft", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def test_two_processes_have_the_losses_of_one_with_doubled_accumulation(model: Path, tmp_path: Path):
    no_dropout = {"extra": "--lora_dropout_p 0 --max_steps 6", "without": "--lora_dropout_p"}
    two = run(model, tmp_path / "two", processes=2, accumulation=2, **no_dropout)
    one = run(model, tmp_path / "one", processes=1, accumulation=4, **no_dropout)
    assert [line["step"] for line in two] == [line["step"] for line in one] == list(range(1, 7))
    for ours, theirs in zip(two, one, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["supervised_tokens"] == theirs["supervised_tokens"]


def test_with_the_references_dropout_the_loss_falls(model: Path, tmp_path: Path):
    lines = run(model, tmp_path / "run", processes=2, accumulation=2, extra="--max_steps 12")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
