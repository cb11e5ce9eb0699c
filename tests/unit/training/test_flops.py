"""Counted operations are those that torch counts; what is shared or trimmed is not counted."""

from __future__ import annotations

import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from actune.data.pack import pack
from actune.modeling.adapters import attach_adapter
from actune.modeling.targets import resolve_targets
from actune.training import flops as flops_module
from actune.training.flops import Flops, Peak, find_peak
from actune.training.metrics import StepMetrics
from actune.training.ranks import Ranks
from actune.training.reports import Reports
from actune.training.step import StepInput, TrainStep

CPU = torch.device("cpu")


def build(kit, tuning: str, **changes):
    model = kit.build_model(**changes)
    model.set_attn_implementation("eager")
    if tuning == "full":
        return model.requires_grad_(True)
    names = resolve_targets(model, (tuning,)).names
    return attach_adapter(model, modules=names, rank=4, alpha=8, dropout=0.0, seed=1)


def total(counter: FlopCounterMode) -> int:
    """What torch counted, without the table of rotary positions, which some releases of transformers write as a product."""
    tables = {
        tuple(counts.items()) for name, counts in counter.get_flop_counts().items() if name.endswith("rotary_emb")
    }
    return counter.get_total_flops() - sum(flops for counts in tables for _, flops in counts)


@pytest.mark.parametrize("tuning", ["ALL", "ALL+head", "full"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_torch_counts(kit, tuning, tied):
    model = build(kit, tuning, tie_word_embeddings=tied and tuning != "ALL+head")
    batch = pack([kit.build_line(24, seed=1, targets=9)])
    tokens = len(batch)
    with FlopCounterMode(display=False) as counter:
        loss, _ = TrainStep(model)(StepInput.of(batch, CPU, packed=False))
        loss.backward()
    flops = Flops.of(model, fused=False)
    # Eager attention computes all pairs, also those that causality hides.
    hidden_pairs = len(flops.windows) * (tokens**2 - tokens * (tokens + 1) // 2)
    # Nothing below asks for the gradient of the embedding's output where it has no adapter; here all have.
    assert total(counter) == flops.count(batch) + flops.pair * hidden_pairs
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        TrainStep(model)(StepInput.of(batch, CPU, packed=False))
    forward = Flops.of(model, fused=False, backward=False)
    assert total(counter) == forward.count(batch) + forward.pair * hidden_pairs


def test_the_head_is_counted_where_something_is_predicted_and_shared_tokens_once(kit):
    flops = Flops.of(build(kit, "ALL"), fused=False)
    few, many = (pack([kit.build_line(24, seed=1, targets=count)]) for count in (2, 12))
    assert flops.count(many) - flops.count(few) == 10 * flops.position
    row = kit.build_line(24, seed=1)
    other = replace(row, target_ids=row.target_ids + 1)
    assert flops.count(pack([row, other], share=True)) < 1.1 * flops.count(pack([row]))
    assert flops.count(pack([row, other])) == 2 * flops.count(pack([row]))


def test_the_fused_decoder_leaves_out_most_of_the_last_layer(kit):
    model = build(kit, "ALL")
    batch = pack([kit.build_line(24, seed=1, targets=3)])
    whole, trimmed = (Flops.of(model, fused=fused).count(batch) for fused in (False, True))
    flops = Flops.of(model, fused=True)
    hidden_rows = np.setdiff1d(np.arange(len(batch)), batch.target_positions)
    assert whole - trimmed == len(hidden_rows) * flops.last + flops.pair * int((hidden_rows + 1).sum())


def test_a_sliding_window_bounds_what_is_seen(kit):
    flops = Flops.of(build(kit, "ALL"), fused=False)
    windowed = replace(flops, windows=(5, 0))
    batch = pack([kit.build_line(24, seed=1)])
    tokens = len(batch)
    hidden = sum(max(0, seen - 5) for seen in range(1, tokens + 1))
    assert flops.count(batch) - windowed.count(batch) == hidden * flops.pair


def test_a_peak_is_given_or_measured():
    assert find_peak(CPU, torch.float32, given=0) is None
    assert find_peak(CPU, torch.float32, given=2.0) == Peak(
        rate=2e12, known=True, source="as set by device_peak_tflops"
    )
    measured = find_peak(CPU, torch.float32, given=None)
    assert not measured.known
    assert measured.rate > 0


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.float16, 312e12),
        ("NVIDIA GH200 480GB", torch.bfloat16, 989.4e12),
        ("NVIDIA L40", torch.bfloat16, 181e12),
        ("AMD Instinct MI250X", torch.bfloat16, 191.5e12),
        ("Tesla V100-SXM2-16GB", torch.float16, 125e12),
        ("Tesla V100-SXM2-16GB", torch.bfloat16, None),
        ("NVIDIA RTX A1000", torch.bfloat16, None),
        ("Quadro T400", torch.float16, None),
        ("NVIDIA A100-SXM4-80GB", torch.float32, None),
    ],
)
def test_a_data_sheet_counts_for_the_device_it_names_only(monkeypatch, name, dtype, rate):
    module = types.SimpleNamespace(get_device_properties=lambda device: types.SimpleNamespace(name=name))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(flops_module, "_measure_rate", lambda *_: 7.0)
    found = find_peak(torch.device("cuda"), dtype, given=None)
    assert (found.rate, found.known) == ((rate, True) if rate else (7.0, False))


def test_mfu_stands_in_metrics_only_where_the_peak_is_known(kit, tmp_path, capfd):
    step = StepMetrics(
        step=1,
        epoch=0.5,
        loss=1.0,
        learning_rate=1e-3,
        grad_norm=2.0,
        tokens=100,
        supervised_tokens=40,
        tokens_per_second=50.0,
        peak_memory_bytes=1,
        seconds=2.0,
    )
    for peak, text in ((1.0, '"mfu": 0.25'), (None, ""), (0, "")):
        settings = kit.build_settings(monitor={"device_peak_tflops": peak})
        folder = tmp_path / str(peak)
        folder.mkdir()
        ranks = Ranks(size=2)
        with Reports(settings, folder, steps=3, done=0, ranks=ranks, compute=torch.float32, say=print) as reports:
            reports.add_step(step, flops=10**12)
        line = (folder / "metrics.jsonl").read_text()
        assert text in line
        assert ("mfu" in line) == (peak == 1.0)
        assert ("MFU" in capfd.readouterr().err) == (peak != 0)
