from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config

from actune.core.errors import ModelError, TrainingError
from actune.modeling.targets import summarise
from actune.training.memory import StepMemory, plan_memory
from actune.training.ranks import Ranks
from actune.training.run import run_training


@pytest.fixture(scope="module")
def model_dir(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    kit.build_model().save_pretrained(folder)
    return folder


def run(model_dir, run_dir, settings, rows):
    said: list[str] = []
    result = run_training(
        settings=settings,
        model_dir=model_dir,
        train_rows=rows,
        validation_rows=[],
        run_dir=run_dir,
        ranks=Ranks(),
        resume_from=None,
        fingerprint="f",
        save_extra=lambda _: None,
        say=said.append,
    )
    return result, said


def unweighted(tree):
    return replace(tree, target_weights=np.zeros_like(tree.target_weights))


def test_the_plan_is_said(kit, model_dir, tmp_path):
    _, said = run(model_dir, tmp_path, kit.build_settings(training={"num_train_epochs": 1}), kit.build_rows(9))
    text = "\n".join(said)
    assert "LoRA on 15 modules: model.embed_tokens, model.layers.*.mlp.down_proj (2)" in text
    assert "3 steps of 4 rows (2 x 2 x 1 processes), 9 rows in all, 1.00 epochs of 9" in text
    assert "last step takes the 1 rows that are left" in text


def test_rows_without_any_weight_are_an_error_before_the_first_step(kit, model_dir, tmp_path):
    rows = [unweighted(tree) for tree in kit.build_rows(4)]
    with pytest.raises(TrainingError, match="none of the 4 rows has a token with loss weight"):
        run(model_dir, tmp_path, kit.build_settings(), rows)
    assert not list(tmp_path.iterdir())


def test_no_rows(kit, model_dir, tmp_path):
    with pytest.raises(TrainingError, match="no row"):
        run(model_dir, tmp_path, kit.build_settings(), [])


def test_a_step_without_weight_is_skipped_and_said(kit, model_dir, tmp_path, capfd):
    rows = [*kit.build_rows(1), *(unweighted(tree) for tree in kit.build_rows(3))]
    one = kit.build_settings(training={"batch_size": 1, "gradient_accumulation_steps": 1, "num_train_epochs": 1})
    result, _ = run(model_dir, tmp_path, one, rows)
    assert result.steps == 4
    assert capfd.readouterr().err.count("skipped") == 3
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert sum('"loss"' in line for line in lines) == 1


@pytest.mark.parametrize("packing", [True, False])
def test_a_loss_that_is_no_number_names_step_and_row(kit, model_dir, tmp_path, packing):
    rows = kit.build_rows(4)
    rows[3] = replace(rows[3], target_weights=np.full_like(rows[3].target_weights, np.inf))
    settings = kit.build_settings(training={"packing": packing, "micro_batch_tokens": 1})
    with pytest.raises(TrainingError, match=r"step 1: the loss is no finite number.*made\.jsonl:4") as caught:
        run(model_dir, tmp_path, settings, rows)
    assert "made.jsonl:1" not in caught.value.message


def test_a_token_that_the_model_does_not_know(kit, model_dir, tmp_path):
    row = kit.build_line(8, seed=0)
    row = replace(row, input_ids=row.input_ids + 1000)
    with pytest.raises(ModelError, match=r"made\.jsonl:1 holds token 1\d\d\d; the model knows 128"):
        run(model_dir, tmp_path, kit.build_settings(), [row])


def test_models_that_leak_train_one_sequence_at_a_time(kit, tmp_path):
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    settings = kit.build_settings(training={"num_train_epochs": 6})
    result, said = run(tmp_path / "base", tmp_path / "run", settings, kit.build_rows(6))
    assert any("Rows are not packed" in text for text in said)
    assert result.last_loss < result.first_loss


@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_bf16_trains(kit, model_dir, tmp_path, sft_type):
    settings = kit.build_settings(
        model={"dtype": "bf16"}, tuning={"sft_type": sft_type}, training={"num_train_epochs": 6}
    )
    result, _ = run(model_dir, tmp_path, settings, kit.build_rows(6))
    assert result.last_loss < 0.9 * result.first_loss


def test_gradient_checkpointing_changes_nothing_but_memory(kit, model_dir, tmp_path):
    losses = []
    for setting in ("false", "true"):
        settings = kit.build_settings(
            tuning={"lora_dropout_p": 0.05}, training={"gradient_checkpointing": setting, "num_train_epochs": 3}
        )
        result, said = run(model_dir, tmp_path / setting, settings, kit.build_rows(6))
        assert any("recomputed" in text for text in said) == (setting == "true")
        losses.append(result.last_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def plan(settings, memory, *, longest=2000, device="cpu"):
    return plan_memory(settings, memory, device=torch.device(device), longest=longest, supervised=0.2)


def test_the_byte_model_decides_recomputation_and_micro_batches(kit, monkeypatch):
    settings = kit.build_settings(training={"micro_batch_tokens": 0})
    memory = StepMemory.of(kit.build_model(), compute=torch.bfloat16, fused=False, dropout=False)
    needed = memory.total(tokens=4096, supervised=819, recompute=False)
    less = memory.total(tokens=4096, supervised=819, recompute=True)
    assert memory.total(tokens=8192, supervised=1638, recompute=False) > 1.5 * needed > 1.5 * less
    for room, recompute, tokens in ((1.3 * needed, False, 4096), (2.6 * needed, False, 8192), (1.3 * less, True, 4096)):
        monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _, room=room: (0, int(room)))
        found = plan(settings, memory, device="cuda")
        assert (found.recompute, found.room) == (recompute, int(0.85 * int(room)))
        assert tokens <= found.tokens < 1.3 * tokens
        assert found.needed <= found.room
    # A device that says nothing gets the way that needs less.
    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse)
    assert plan(settings, memory, device="cuda").recompute
    assert not plan(settings, memory).recompute
    forced = kit.build_settings(training={"gradient_checkpointing": "true", "micro_batch_tokens": 7})
    assert (plan(forced, memory).recompute, plan(forced, memory).tokens) == (True, 7)


def refuse(_):
    raise NotImplementedError


def test_micro_batches_on_the_cpu_go_by_the_size_of_the_model(kit):
    settings = kit.build_settings(training={"micro_batch_tokens": 0})
    memory = StepMemory.of(kit.build_model(), compute=torch.float32, fused=True, dropout=True)
    sizes = [replace(memory, layer=memory.layer * times) for times in (1, 30, 1000)]
    tokens = [plan(settings, size).tokens for size in sizes]
    assert tokens[0] == 16384 > tokens[1] > tokens[2] == 4096
    assert sizes[1].token(recompute=False) * tokens[1] == pytest.approx(2**30, rel=1e-3)


def test_names_are_folded():
    assert summarise(["a.0.q", "a.1.q", "b"]) == "a.*.q (2), b"
