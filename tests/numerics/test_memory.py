"""Out of memory: the step is the same in smaller parts, and a resumed run splits as the run it goes on with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from actune.core.errors import TrainingError
from actune.training.checkpoint import find_newest
from actune.training.recovery import is_out_of_memory
from actune.training.step import TrainStep


@pytest.fixture(autouse=True)
def _pinned(one_thread):
    """Every test here runs on one thread."""


@pytest.fixture(scope="module")
def model_dir(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    kit.build_model(tie_word_embeddings=True).save_pretrained(folder)
    return folder


class Device:
    """Stands before the model: raises where a micro-batch of training is larger than `room(call)` tokens."""

    def __init__(self, monkeypatch, room, error=None, *, training=True):
        self.calls: list[int] = []
        forward = TrainStep.forward

        def limited(module, inputs):
            if torch.is_grad_enabled() == training:
                self.calls.append(inputs.input_ids.shape[1])
                if self.calls[-1] > room(len(self.calls)):
                    raise error or torch.OutOfMemoryError("out of memory: tried to allocate 1 GiB")
            return forward(module, inputs)

        monkeypatch.setattr(TrainStep, "forward", limited)


def run(kit, model_dir, run_dir, *, dropout=0.0, budget=100, resume=None, **training):
    said: list[str] = []
    settings = kit.build_settings(
        tuning={"lora_dropout_p": dropout},
        training={"num_train_epochs": 2, "micro_batch_tokens": budget, "learning_rate": 1e-3} | training,
        output={"save_steps": 2, "save_total_limit": 9, "eval_steps": 2},
    )
    more = {"validation_rows": kit.build_rows(9)[3:], "resume_from": resume, "say": said.append}
    result = kit.train(settings, model_dir, run_dir, kit.build_rows(12), **more)
    return result, said


def read(run_dir: Path) -> list[tuple[float, float, int]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["eval"]["loss"],) if "eval" in line else (line["loss"], line["grad_norm"], line["tokens"])
        for line in lines
    ]


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


@pytest.mark.parametrize("error", [None, RuntimeError(ALLOCATOR), RuntimeError("could not create a primitive")])
def test_smaller_micro_batches_are_the_same_step(kit, model_dir, tmp_path, monkeypatch, error):
    run(kit, model_dir, tmp_path / "whole")
    device = Device(monkeypatch, lambda _: 30, error)
    _, said = run(kit, model_dir, tmp_path / "small")
    assert max(device.calls) > 30
    cuts = json.loads((tmp_path / "small/memory.json").read_text())["cuts"]
    assert {cut["step"] for cut in cuts} == {1}  # what was learnt there is kept for the rest of the run
    assert [text for text in said if "out of memory" in text] == [
        f"Step 1 was out of memory: from here on a forward pass takes at most {cut['micro_batch_tokens']} tokens."
        for cut in cuts
    ]
    for found, wanted in zip(read(tmp_path / "small"), read(tmp_path / "whole"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_the_gradients_of_the_failed_try_do_not_count(kit, model_dir, tmp_path, monkeypatch):
    run(kit, model_dir, tmp_path / "whole", budget=40)
    # The first micro-batch fits, a later one of the same step does not: only once, whatever its size.
    Device(monkeypatch, lambda call: 0 if call == 2 else 1000)
    run(kit, model_dir, tmp_path / "small", budget=40)
    for found, wanted in zip(read(tmp_path / "small"), read(tmp_path / "whole"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_resumed_run_splits_as_before_bit_for_bit(kit, model_dir, tmp_path, monkeypatch):
    """Memory is short once, by chance, in step 3; the runs that go on have enough of it."""
    with monkeypatch.context() as patch:
        Device(patch, lambda call: 0 if call == 3 else 1000)
        whole, said = run(kit, model_dir, tmp_path / "whole", dropout=0.05)
    assert any("Step 3 was out of memory" in text for text in said)
    unlucky = run(kit, model_dir, tmp_path / "other", dropout=0.05)[0]
    wanted = (whole.folder / "adapter_model.safetensors").read_bytes()
    assert (unlucky.folder / "adapter_model.safetensors").read_bytes() != wanted  # the split is seen by dropout
    # After the cut state.json has it, before it memory.json of the run; without a checkpoint too.
    for name in ("checkpoint-4", "checkpoint-2", None):
        resume = tmp_path / "whole" / name if name is not None else None
        again = run(kit, model_dir, tmp_path / "whole", dropout=0.05, resume=resume)[0]
        assert (again.folder / "adapter_model.safetensors").read_bytes() == wanted, name
    elsewhere = run(kit, model_dir, tmp_path / "copy", dropout=0.05, resume=tmp_path / "whole/checkpoint-4")[0]
    assert (elsewhere.folder / "adapter_model.safetensors").read_bytes() == wanted


def test_an_evaluation_that_does_not_fit_is_done_in_smaller_parts(kit, model_dir, tmp_path, monkeypatch):
    run(kit, model_dir, tmp_path / "whole", dropout=0.05)
    with monkeypatch.context() as patch:
        device = Device(patch, lambda call: 0 if call == 2 else 1000, training=False)
        _, said = run(kit, model_dir, tmp_path / "small", dropout=0.05)
    assert len(set(device.calls)) > 1
    assert [text.partition(":")[0] for text in said if "memory" in text] == [
        "The evaluation after step 4 was out of memory"
    ]
    wanted, lines = read(tmp_path / "whole"), read(tmp_path / "small")
    # Training is not touched by it: bit for bit the same.
    assert [line for line in lines if len(line) > 1] == [line for line in wanted if len(line) > 1]
    for found, other in zip(lines, wanted, strict=True):
        assert found == pytest.approx(other, rel=1e-5)
    run(kit, model_dir, tmp_path / "small", dropout=0.05, resume=tmp_path / "small/checkpoint-2")
    assert read(tmp_path / "small") == lines


def test_an_update_that_does_not_fit_is_an_error(kit, model_dir, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise RuntimeError(ALLOCATOR)

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(TrainingError, match="step 1: the optimiser's state does not fit"):
        run(kit, model_dir, tmp_path)


def test_another_budget_in_the_settings_lifts_the_cut(kit, model_dir, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Device(patch, lambda call: 0 if call == 1 else 1000)
        run(kit, model_dir, tmp_path, max_steps=2)
    device = Device(monkeypatch, lambda _: 1000)
    run(kit, model_dir, tmp_path, budget=99, resume=tmp_path / "checkpoint-2", max_steps=2)
    assert not (tmp_path / "memory.json").exists()
    assert device.calls == []


@pytest.mark.parametrize("packing", [True, False])
def test_a_row_that_does_not_fit_by_itself_says_what_would_free_memory(kit, model_dir, tmp_path, monkeypatch, packing):
    Device(monkeypatch, lambda call: 1000 if call <= 3 else 5)
    with pytest.raises(TrainingError, match=r"one row of \d+ tokens does not fit the memory of cpu") as caught:
        run(kit, model_dir, tmp_path, packing=packing)
    options = ["--gradient_checkpointing true", "--max_length", "--dtype bf16"]
    options += [] if packing else ["--lora_target_modules DEFAULT"]  # fused layers keep no inputs for adapters
    for option in options:
        assert option in caught.value.fix
    assert caught.value.fix.count("MiB") == len(options)


def test_other_errors_are_not_taken_for_it(kit, model_dir, tmp_path, monkeypatch):
    Device(monkeypatch, lambda _: 5, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(kit, model_dir, tmp_path)
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(MemoryError())


def test_an_interrupt_while_memory_is_short_still_saves(kit, model_dir, tmp_path, monkeypatch):
    def room(call):
        if call == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            return 0
        return 1000

    Device(monkeypatch, room)
    with pytest.raises(KeyboardInterrupt):
        run(kit, model_dir, tmp_path)
    assert find_newest(tmp_path).folder.name == "checkpoint-3"
