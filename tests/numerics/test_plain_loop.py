"""A whole run is the run of a plain loop over transformers and peft that is fed the same ids: fp32, relative 1e-5."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

from actune.data.pack import unroll
from actune.training.dealing import plan_run


def write_vocabulary(folder):
    """A tokenizer whose tokens are `<t0>` to `<t127>`."""
    tokenizer = Tokenizer(WordLevel({f"<t{number}>": number for number in range(128)}, unk_token="<t0>"))
    tokenizer.add_tokens([AddedToken(f"<t{number}>", normalized=False) for number in range(128)])
    tokenizer.save(str(folder / "tokenizer.json"))


def run_plainly(kit, model_dir, start, settings, rows):
    """Train one sequence after the other; return losses and gradient norms by step, and the adapter."""
    tuning, training = settings.tuning, settings.training
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if tuning.sft_type == "lora":
        targets = json.loads((start / "adapter_config.json").read_text())["target_modules"]
        variant = {"use_rslora": tuning.use_rslora, "use_dora": tuning.use_dora}
        if tuning.trainable_tokens:
            variant["trainable_token_indices"] = json.loads((start / "adapter_config.json").read_text())[
                "trainable_token_indices"
            ]
        config = LoraConfig(r=tuning.lora_rank, lora_alpha=tuning.lora_alpha, target_modules=targets, **variant)
        model = get_peft_model(model, config)
        set_peft_model_state_dict(model, load_file(start / "adapter_model.safetensors"))
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
    )
    plan = plan_run(settings, rows=len(rows), ranks=1)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, plan.steps)
    losses, norms = [], []
    for step in range(plan.steps):
        chosen = [rows[row] for row in plan.step(step)]
        total = sum(float(tree.target_weights.sum()) for tree in chosen)
        loss = 0.0
        for line in (line for tree in chosen for line in unroll(tree)):
            parts = kit.add_up_line(model, line)
            (parts.sum() / total).backward()
            loss += float(parts.detach().sum()) / total
        losses.append(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return losses, norms, {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("kind", "tied", "targets", "variant"),
    [
        ("qwen3", True, "ALL", {}),
        ("llama", False, "ALL+head", {}),
        ("qwen2", True, "DEFAULT", {}),
        ("qwen3", True, "full", {}),
        ("qwen3", True, "ALL", {"use_rslora": True}),
        ("qwen2", True, "ALL", {"use_dora": True}),
        ("qwen3", True, "ALL", {"trainable_tokens": ("<t5>", "<t77>")}),
        ("qwen2", False, "ALL", {"trainable_tokens": ("<t5>", "<t77>")}),
    ],
)
def test_a_run_is_the_plain_loop(kit, tmp_path, kind, tied, targets, variant):
    kit.build_model(kind, tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    write_vocabulary(tmp_path / "base")
    full = targets == "full"
    settings = kit.build_settings(
        tuning={"sft_type": "full"} if full else {"lora_target_modules": (targets,), **variant},
        training={"micro_batch_tokens": 0, "num_train_epochs": 3, "learning_rate": 1e-3, "warmup_ratio": 0.0},
        output={"save_steps": 1, "save_total_limit": 99},
    )
    rows = kit.build_rows(11)

    def run(name, **changes):
        return kit.train(settings.model_copy(update=changes), tmp_path / "base", tmp_path / name, rows)

    # The adapter a run begins with: one step at learning rate 0 leaves it as it was made.
    still = settings.training.model_copy(update={"max_steps": 1, "learning_rate": 1e-30})
    start = run("start", training=still).folder
    found = run("run")
    losses, norms, weights = run_plainly(kit, tmp_path / "base", start, settings, rows)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)
    tensors = load_file(found.folder / ("model.safetensors" if full else "adapter_model.safetensors"))
    named = {name.replace(".default", ""): weight for name, weight in weights.items()}
    named = {name.replace("magnitude_vector.weight", "magnitude_vector"): named[name] for name in named}
    assert tensors.keys() == named.keys()
    for name, tensor in tensors.items():
        gap = torch.linalg.vector_norm(tensor - named[name]) / torch.linalg.vector_norm(named[name])
        assert float(gap) < 1e-4, name
