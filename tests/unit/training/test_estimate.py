"""A plan says what its run does: counted off the same model, against arithmetic by hand, and monotonic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from actune.config.gpus import parse_gpu
from actune.data.pack import RunPlan, pack
from actune.modeling.adapters import attach_adapter
from actune.modeling.freezing import freeze
from actune.modeling.fused.trial import prepare_decoder
from actune.modeling.isolation import prepare_packing
from actune.modeling.targets import resolve_targets
from actune.training import estimate as estimate_module
from actune.training.dealing import Dealer
from actune.training.estimate import Device, Span, Workload, count_times, judge, relieve
from actune.training.flops import Flops
from actune.training.memory import StepMemory
from actune.training.outline import outline
from actune.training.step import StepInput, TrainStep
from actune.training.workload import choose_steps, count_steps

CPU = torch.device("cpu")
META = torch.device("meta")
H100 = Device.of(parse_gpu("H100"), "fp32")


def estimate(settings, model, rows, device, *, processes=1, evaluated=()):
    work = Workload.of(settings, rows, evaluated, processes=processes)
    return estimate_module.estimate(settings, model, work, device)


@pytest.fixture
def folder(tmp_path, kit, tokenizer_folder):
    """A model folder without weights."""
    return write_folder(tmp_path / "model", kit)


def write_folder(folder, kit, **changes):
    folder.mkdir()
    kit.build_model(**changes).config.save_pretrained(folder)
    return folder


def look(folder, settings, device=META, compute=torch.float32):
    return outline(settings, folder, compute=compute, device=device)


@pytest.mark.parametrize(
    ("tuning", "changes"),
    [
        ({}, {"tie_word_embeddings": True}),
        ({"lora_target_modules": ("ALL+head",)}, {"tie_word_embeddings": False}),
        ({"lora_target_modules": ("DEFAULT",), "lora_dropout_p": 0.1}, {"kind": "llama"}),
        ({"use_dora": True}, {}),
        ({"sft_type": "full"}, {"tie_word_embeddings": False}),
        ({"sft_type": "full", "freeze_parameters": ("model.embed_tokens", "lm_head")}, {"tie_word_embeddings": True}),
    ],
)
def test_the_outline_counts_what_the_loaded_model_has(tmp_path, kit, tuning, changes):
    settings = kit.build_settings(tuning=tuning)
    found = look(write_folder(tmp_path / "model", kit, **changes), settings, CPU)
    model, tuning = kit.build_model(**changes), settings.tuning
    assert prepare_packing(model) is None
    if tuning.sft_type == "full":
        freeze(model, tuning)
        fused = False
    else:
        names = resolve_targets(model, tuning.lora_target_modules).names
        model = (
            attach_adapter(model, modules=names, rank=4, alpha=8, dropout=tuning.lora_dropout_p, seed=1)
            if not tuning.use_dora
            else adapt_dora(model, names)
        )
        fused = not isinstance(prepare_decoder(model), str)
    assert found.fused == fused
    assert found.fused == (not tuning.use_dora and tuning.sft_type == "lora")
    assert found.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert found.memory == StepMemory.of(model, compute=torch.float32, fused=fused, dropout=tuning.lora_dropout_p > 0)
    assert found.training == Flops.of(model, fused=fused)


def adapt_dora(model, names):
    from actune.modeling.adapters import Variant

    return attach_adapter(model, modules=names, rank=4, alpha=8, dropout=0.0, seed=1, variant=Variant(use_dora=True))


def test_memory_by_hand(kit, folder):
    """Two layers of 32, MLP 48, 4 heads of 16 over 2 of keys, 128 tokens, tied; LoRA of rank 4 on all but the head."""
    found = look(folder, kit.build_settings())
    per_layer = 32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48 + 2 * 32 + 2 * 16
    tied = 128 * 32
    untied = 0 if found.model.get_base_model().config.tie_word_embeddings else tied
    assert found.weights == 2 * per_layer + tied + untied + 32
    # Inputs plus outputs of q, k, v, o, gate, up, down, and of the embedding, times the rank.
    sizes = (32 + 64) + 2 * (32 + 32) + (64 + 32) + 2 * (32 + 48) + (48 + 32)
    assert found.trained == 4 * (2 * sizes + 128 + 32)
    assert found.stored == 4 * (found.weights + found.trained)
    plan = estimate(kit.build_settings(), found, [kit.build_line(20, seed=1, targets=8)], H100)
    assert (plan.memory.gradients, plan.memory.moments) == (4 * found.trained, 8 * found.trained)
    assert plan.memory.copies == 0
    layer = 4 * (2 * 32 + 3 * 64 + 3 * 32 + 2 * 48)
    # Trimmed to 19 tokens; the row as it stands has 20.
    assert plan.memory.activations == 20 * 2 * layer
    assert plan.memory.logits == 8 * 2 * 4 * 128
    assert plan.memory.total == found.memory.total(tokens=20, supervised=8, recompute=False)
    assert plan.verdict == "fits"


def test_time_by_hand(kit, folder):
    settings = kit.build_settings(
        training={"batch_size": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "share_prefixes": False},
        output={"eval_steps": 2, "save_steps": 0},
    )
    found = look(folder, settings)
    rows = [kit.build_line(24, seed=1, targets=9), kit.build_line(24, seed=2, targets=9)]
    device = Device(name="d", dtype="fp32", size=2**30, rate=1e8, bandwidth=1e9, source="", efficiency=(0.25, 0.5))
    plan = estimate(settings, found, rows, device, evaluated=rows[:1])
    tokens, positions = 23, 9
    dense = (
        found.training.token * tokens + found.training.position * positions - found.training.last * (tokens - positions)
    )
    pairs = tokens * (tokens + 1) // 2 + sum(range(tokens - positions + 1, tokens + 1))
    row = dense + found.training.pair * pairs
    update = 28 * found.trained / 1e9
    assert plan.steps.training == 2 * row
    assert plan.time.step.least == pytest.approx(2 * row / 5e7 + update)
    assert plan.time.step.most == pytest.approx(2 * row / 2.5e7 + update)
    assert plan.time.training.most == pytest.approx(3 * plan.time.step.most)
    # After step 2 and at the end; forward is a third or half of it.
    assert plan.time.evaluations.least == pytest.approx(2 * _forward(found, tokens, positions) / 5e7)
    assert plan.time.saves.least == pytest.approx(12 * found.trained / 1e9)
    assert plan.rates == (pytest.approx(46 / plan.time.step.most), pytest.approx(46 / plan.time.step.least))


def test_short_forward_passes_wait_for_the_program_that_feeds_the_device(kit, folder):
    settings = kit.build_settings(training={"batch_size": 1, "gradient_accumulation_steps": 2, "packing": "false"})
    plan = estimate(settings, look(folder, settings), [kit.build_line(20, seed=1)] * 4, H100)
    # Two rows a step, each a forward pass of its own, two layers of at least 5 ms.
    assert plan.time.step.most == pytest.approx(2 * 2 * 0.005)
    assert plan.time.step.least < 1e-3


def _forward(found, tokens, positions):
    pairs = tokens * (tokens + 1) // 2 + sum(range(tokens - positions + 1, tokens + 1))
    one = found.forward
    assert 3 * one.pair == found.training.pair
    return one.token * tokens + one.position * positions - one.last * (tokens - positions) + one.pair * pairs


def test_more_rows_rank_or_recomputation_cost_what_they_should(kit, folder):
    rows = kit.build_rows(24)

    def plan(rows=rows, device=H100, processes=1, **training):
        tuning = {"lora_rank": training.pop("rank", 4)}
        settings = kit.build_settings(tuning=tuning, training=training)
        return estimate(settings, look(folder, settings), rows, device, processes=processes)

    base = plan()
    assert plan(rows=rows * 2).time.training.least > 1.9 * base.time.training.least
    assert plan(rank=16).memory.total > base.memory.total
    again = plan(gradient_checkpointing="true")
    assert again.memory.activations < base.memory.activations
    assert again.time.step.least > 1.2 * base.time.step.least
    # Twice the rows a step for two processes, at about the time of one.
    two = plan(processes=2)
    assert two.steps.rows == 2 * base.steps.rows
    assert two.time.training.least < 0.75 * base.time.training.least
    assert plan(packing="false").steps.passes > base.steps.passes


def test_a_step_of_packs_takes_the_rows_of_its_packs(kit, folder):
    settings = kit.build_settings(training={"packing": "global", "num_train_epochs": 1}, data={"max_length": 40})
    rows = kit.build_rows(24)
    plan = estimate(settings, look(folder, settings), rows, H100)
    assert plan.steps.rows > 4
    assert plan.steps.rows * plan.steps.steps == pytest.approx(24)


def test_steps_of_a_long_run_are_estimated_from_some_of_them(kit, folder):
    found = look(folder, kit.build_settings())
    rows = [kit.build_line(6 + row % 40, seed=row) for row in range(400)]
    dealer = Dealer(ranks=1, packed=True, share=False)
    whole = RunPlan(rows=400, size=20, total=400 * 60, seed=1)
    assert len(choose_steps(whole)) < whole.steps
    assert choose_steps(RunPlan(rows=7, size=2, total=7, seed=1)) == [0, 1, 2, 3]
    some = count_steps(whole, rows, dealer, budget=64, training=found.training, forward=found.forward)
    mean = sum(len(row) - 1 for row in rows) / 400
    assert some.tokens == pytest.approx(20 * mean, rel=0.02)
    short = RunPlan(rows=7, size=2, total=7, seed=1)
    exact = count_steps(short, rows[:7], dealer, budget=64, training=found.training, forward=found.forward)
    assert exact.tokens * exact.steps == pytest.approx(sum(len(row) - 1 for row in rows[:7]))


def test_four_bits_and_half_precision_store_less(kit, folder):
    plain = look(folder, kit.build_settings(), compute=torch.bfloat16)
    packed = look(folder, kit.build_settings(tuning={"quant_bits": "4"}), compute=torch.bfloat16)
    linear = 2 * (32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48)
    assert packed.quantized == packed.matrices == linear
    # 4 bits and 8-bit scales of blocks of 64, a number for 256 of these.
    assert plain.stored - packed.stored == int(linear * (2 - 0.5 - 1 / 64 - 4 / 16384))
    assert plain.fused
    assert not packed.fused


def test_autocast_copies_of_weights_are_counted(kit, folder):
    settings = kit.build_settings(tuning={"sft_type": "full"})
    single, half = (look(folder, settings, compute=dtype) for dtype in (torch.float32, torch.bfloat16))
    matrices = single.matrices + 128 * 32  # the head
    assert half.memory.fixed - single.memory.fixed == 2 * matrices


def test_what_autocast_casts_is_kept_for_the_backward_pass(kit):
    """The copies that the byte model counts are what the graph of a loss holds."""
    model = kit.build_model(tie_word_embeddings=False).requires_grad_(True)
    inputs = StepInput.of(pack([kit.build_line(24, seed=1)]), CPU, packed=False)
    shapes = {shape for weight in model.parameters() for shape in (weight.shape, weight.shape[::-1]) if len(shape) == 2}
    kept: dict[int, int] = {}

    def note(tensor):
        if tensor.dtype == torch.bfloat16 and tensor.shape in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    streams = []
    model.model.layers[0].register_forward_hook(lambda _module, _inputs, out: streams.append(out))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = TrainStep(model, autocast=torch.bfloat16)(inputs)
    half, single = (
        StepMemory.of(model, compute=dtype, fused=False, dropout=False) for dtype in (torch.bfloat16, torch.float32)
    )
    assert half.fixed - single.fixed == 2 * sum(kept.values()) > 0
    # What flows between the products stays fp32.
    assert (half.hidden, single.hidden) == (4 * 32, 4 * 32)
    assert next(part for part in streams if part is not None).dtype == torch.float32
    del loss


def test_weights_are_spread_where_one_device_would_be_filled(kit, folder):
    settings = kit.build_settings(tuning={"sft_type": "full"})
    found = look(folder, settings)
    rows = kit.build_rows(12)
    small = replace(H100, size=20 * found.weights)
    one, four = (estimate(settings, found, rows, small, processes=count) for count in (1, 4))
    assert (one.sharded, four.sharded) == (False, True)
    assert four.memory.weights == one.memory.weights // 4
    assert four.memory.copies >= found.gathered
    assert not estimate(settings, found, rows, H100, processes=4).sharded


def test_what_does_not_fit_comes_with_what_would_free_memory(kit, folder):
    settings = kit.build_settings()
    found, rows = look(folder, settings), kit.build_rows(12)
    work = Workload.of(settings, rows)
    small = replace(H100, size=found.stored)
    plan = estimate(settings, found, rows, small)
    assert plan.verdict == "does not fit"
    lines = relieve(settings, found, plan, work)
    assert any(line.startswith("--quant_bits 4: about ") for line in lines)
    full = kit.build_settings(tuning={"sft_type": "full"})
    whole = look(folder, full)
    lines = relieve(full, whole, estimate(full, whole, rows, small), work)
    assert any(line.startswith("--sft_type lora") for line in lines)
    assert any(line.startswith("--fsdp auto over") for line in lines)


def test_verdicts_and_how_often():
    assert [judge(needed, 1000) for needed in (850, 900, 1001)] == ["fits", "tight", "does not fit"]
    assert judge(1, None) == "unknown"
    assert [count_times(steps, 100) for steps in (0, 1, 100, 101)] == [0, 1, 1, 2]
    assert count_times(5, 0) == 0
    assert Span(least=1, most=2) + Span(least=1, most=1).times(3) == Span(least=4, most=5)


def test_a_device_without_a_peak_has_no_time(kit, folder):
    settings = kit.build_settings()
    device = Device.of(parse_gpu("910B"), "fp32")
    assert estimate(settings, look(folder, settings), kit.build_rows(3), device).time is None
