"""A step whose loss or gradients are no finite numbers stops the run and leaves its batch to look at."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from actune.core.errors import TrainingError
from actune.training import broken
from actune.training.checkpoint import find_newest
from actune.training.dealing import plan_run
from actune.training.ranks import Ranks
from actune.training.run import run_training
from actune.training.step import TrainStep

BAD = 2  # a token that no row of the kit holds
ROWS = 12


@pytest.fixture
def settings(kit):
    return kit.build_settings(
        tuning={"lora_dropout_p": 0.05, "lora_target_modules": ("DEFAULT",)},
        training={"num_train_epochs": 1},
        output={"save_steps": 1},
    )


@pytest.fixture
def rows(kit, settings):
    """The second row of the third step holds the bad token."""
    rows = kit.build_rows(ROWS)
    bad = plan_run(settings, rows=ROWS, ranks=1).step(2)[1]
    ids = rows[bad].input_ids.copy()
    ids[0] = BAD
    rows[bad] = replace(rows[bad], input_ids=ids)
    return rows


def run(model_dir, run_dir, settings, rows, resume=None):
    return run_training(
        settings=settings,
        model_dir=model_dir,
        train_rows=rows,
        validation_rows=[],
        run_dir=run_dir,
        ranks=Ranks(),
        resume_from=resume,
        fingerprint="f",
        save_extra=lambda _: None,
        say=lambda _: None,
    )


@pytest.fixture
def bad_model(kit, tmp_path):
    model = kit.build_model()
    model.get_input_embeddings().weight.data[BAD] = float("nan")
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("packing", [True, False])
def test_a_weight_that_is_no_number_stops_at_the_row_that_uses_it(kit, bad_model, tmp_path, settings, rows, packing):
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"packing": packing, "micro_batch_tokens": 4096})}
    )
    with pytest.raises(TrainingError, match="step 3: the loss is no finite number; it comes from these rows") as caught:
        run(bad_model, tmp_path / "run", settings, rows)
    folder = tmp_path / "run/broken-step-3"
    assert str(folder) in caught.value.message
    content = json.loads((folder / "batch.json").read_text())
    chosen = plan_run(settings, rows=ROWS, ranks=1).step(2)
    assert [row["source"]["line"] for row in content["rows"]] == [rows[place].source.line for place in chosen]
    assert [row["finite"] for row in content["rows"]] == [True, False, True, True]
    assert [isinstance(row["loss"], float) for row in content["rows"]] == [True, False, True, True]
    # Only the row itself is named, though all four lie in one micro-batch.
    assert caught.value.message.count("made.jsonl") == 1
    assert f"made.jsonl:{content['rows'][1]['source']['line']}" in caught.value.message
    tensors = load_file(folder / "rows.safetensors")
    for place, row in enumerate(chosen):
        for name in ("input_ids", "target_ids", "target_weights"):
            assert np.array_equal(tensors[f"{place}/{name}"], getattr(rows[row], name))
    # The checkpoint before is sound, and comes to the same step.
    newest = find_newest(tmp_path / "run").folder
    assert newest.name == "checkpoint-2"
    with pytest.raises(TrainingError, match="step 3"):
        run(bad_model, tmp_path / "run", settings, rows, resume=newest)


def test_gradients_that_are_no_numbers_name_weights_and_rows(kit, tmp_path, monkeypatch, settings, rows):
    kit.build_model().save_pretrained(tmp_path / "base")
    forward = TrainStep.forward

    def crooked(self, inputs):
        total, weight = forward(self, inputs)
        if bool((inputs.input_ids == BAD).any()):
            adapter = next(value for name, value in self.named_parameters() if "lora_A" in name)
            total = total + (adapter * 0).sum().sqrt()  # value 0, gradient 0 x infinity
        return total, weight

    monkeypatch.setattr(TrainStep, "forward", crooked)
    with pytest.raises(TrainingError, match="step 3: the gradients are no finite numbers; it comes from") as caught:
        run(tmp_path / "base", tmp_path / "run", settings, rows)
    assert caught.value.message.count("made.jsonl") == 1
    content = json.loads((tmp_path / "run/broken-step-3/batch.json").read_text())
    assert content["reason"] == "gradients"
    assert all("lora_A" in name for name in content["odd_gradients"])
    assert content["odd_gradients"]
    assert [row["finite"] for row in content["rows"]] == [True, False, True, True]
    assert all(isinstance(row["loss"], float) for row in content["rows"])


def test_the_error_is_told_also_where_the_batch_cannot_be_written(bad_model, tmp_path, monkeypatch, settings, rows):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, "save_file", full)
    with pytest.raises(TrainingError, match=r"step 3: the loss is no finite number.*the disk is full"):
        run(bad_model, tmp_path / "run", settings, rows)
    assert not list((tmp_path / "run").glob("*broken*"))


def test_weights_that_are_no_numbers_are_not_saved(kit, tmp_path, monkeypatch, settings, rows):
    kit.build_model().save_pretrained(tmp_path / "base")
    step = torch.optim.AdamW.step
    count = 0

    def spoil(self, *args, **kwargs):
        nonlocal count
        count += 1
        step(self, *args, **kwargs)
        if count == 2:
            self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(TrainingError, match=r"after step 2.*no finite numbers.*checkpoint-1"):
        run(tmp_path / "base", tmp_path / "run", settings, rows)
    assert find_newest(tmp_path / "run").folder.name == "checkpoint-1"
