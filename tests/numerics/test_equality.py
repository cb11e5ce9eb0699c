"""Packed training is the plain model's training: losses and gradients, fp32, relative 1e-5."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from actune.data.pack import pack, unroll
from actune.modeling.adapters import attach_adapter
from actune.modeling.isolation import prepare_packing
from actune.modeling.targets import resolve_targets
from actune.training.memory import enable_checkpointing
from actune.training.step import StepInput, TrainStep

CPU = torch.device("cpu")


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        gap = torch.linalg.vector_norm(found[name] - tensor) / torch.linalg.vector_norm(tensor).clamp_min(1e-12)
        assert float(gap) < 1e-5, name


def train_plainly(model, rows):
    """Every root-to-leaf sequence by itself through the plain model: full logits, torch's cross entropy."""
    weight = sum(float(tree.target_weights.sum()) for tree in rows)
    total = 0.0
    for line in (line for tree in rows for line in unroll(tree)):
        logits = model(input_ids=torch.from_numpy(line.input_ids).long()[None], use_cache=False).logits[0]
        places, ids = torch.from_numpy(line.target_positions).long(), torch.from_numpy(line.target_ids).long()
        losses = cross_entropy(logits[places], ids, reduction="none") * torch.from_numpy(line.target_weights)
        (losses.sum() / weight).backward()
        total += float(losses.detach().sum()) / weight
    return total, gradients(model)


def train_packed(model, groups):
    weight = sum(float(tree.target_weights.sum()) for rows in groups for tree in rows)
    step = TrainStep(model)
    total = 0.0
    for rows in groups:
        loss, _ = step(StepInput.of(pack(rows), CPU, packed=True))
        (loss / weight).backward()
        total += float(loss.detach()) / weight
    return total, gradients(model)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_packed_rows_and_branches_train_as_sequences_one_by_one(kit, kind, lora, checkpointing):
    rows = kit.build_rows(7)
    assert any(tree.has_branches for tree in rows)

    def build():
        model = kit.build_model(kind, tie_word_embeddings=kind == "qwen3")
        if lora:
            names = resolve_targets(model, ["ALL+head"]).modules
            model = attach_adapter(model, modules=names, rank=4, alpha=8, dropout=0.0, seed=0)
            generator = torch.Generator().manual_seed(0)
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        return model.train()

    loss, wanted = train_plainly(build(), rows)
    model = build()
    inner = model.get_base_model() if lora else model
    assert prepare_packing(inner) is None
    if checkpointing:
        enable_checkpointing(inner)
        assert inner.model.layers[0].gradient_checkpointing
    model.train()
    packed_loss, found = train_packed(model, [rows])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)


def test_sliding_windows_train_as_in_the_plain_model(kit):
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=kit.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        initializer_range=0.2,
    )
    rows = kit.build_rows(6)
    model = AutoModelForCausalLM.from_config(config)
    loss, wanted = train_plainly(model, rows)
    model.zero_grad()
    assert prepare_packing(model) is None
    packed_loss, found = train_packed(model, [rows])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    close(found, wanted)


def test_micro_batches_do_not_change_the_step(kit):
    rows = kit.build_rows(8)
    results = []
    for groups in ([rows], [[row] for row in rows]):
        model = kit.build_model()
        assert prepare_packing(model) is None
        results.append(train_packed(model, groups))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    close(results[0][1], results[1][1])


def test_a_head_on_supervised_positions_is_the_head_on_all(kit):
    batch = pack(kit.build_rows(5))
    inputs = StepInput.of(batch, CPU, packed=True)
    assert len(inputs.kept) < len(batch)
    assert len(inputs.rows) > len(inputs.kept)  # branches share a position
    model = kit.build_model()
    assert prepare_packing(model) is None
    results = []
    for cuts in (True, False):
        step = TrainStep(model)
        assert step.cuts_logits
        step.cuts_logits = cuts
        loss, weight = step(inputs)
        model.zero_grad()
        loss.backward()
        results.append((float(loss.detach()), float(weight), gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == results[1][1] == pytest.approx(float(batch.target_weights.sum()))
    close(results[0][2], results[1][2])


def test_token_weights_scale_gradients(kit):
    from dataclasses import replace

    row = kit.build_line(12, seed=0)
    model = kit.build_model()
    assert prepare_packing(model) is None
    results = []
    for factor in (1.0, 3.0):
        scaled = replace(row, target_weights=row.target_weights * factor)
        model.zero_grad()
        loss, _ = TrainStep(model)(StepInput.of(pack([scaled]), CPU, packed=True))
        loss.backward()
        results.append({name: gradient / factor for name, gradient in gradients(model).items()})
    close(results[0], results[1])
