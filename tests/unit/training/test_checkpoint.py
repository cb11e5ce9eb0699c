from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest
import torch

from actune.config.settings import TrainingSettings
from actune.core.errors import CheckpointError
from actune.modeling.adapters import attach_adapter
from actune.training import checkpoint
from actune.training.checkpoint import State, latest, load_checkpoint, read_checkpoint, save_checkpoint
from actune.training.optimizer import make_optimizer

STATE = State(step=1, rows=4, step_size=4, seed=0, fingerprint="f", settings={}, scaler={})


class Run:
    """An adapter model with one optimiser step done."""

    def __init__(self, kit, folder, rank=2):
        self.folder = folder
        self.model = attach_adapter(
            kit.build_model(), modules=["model.layers.0.self_attn.q_proj"], rank=rank, alpha=4, dropout=0, seed=0
        )
        self.parameters = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimizer = make_optimizer(self.parameters, TrainingSettings())
        self.model(input_ids=torch.arange(4)[None]).logits.sum().backward()
        self.optimizer.step()

    def save(self, state=STATE, limit=2, save_extra=lambda _: None):
        return save_checkpoint(
            self.folder,
            model=self.model,
            optimizer=self.optimizer,
            parameters=self.parameters,
            state=state,
            limit=limit,
            save_extra=save_extra,
        )

    def load(self, folder):
        return load_checkpoint(folder, model=self.model, optimizer=self.optimizer, parameters=self.parameters)


@pytest.fixture
def run(kit, tmp_path):
    return Run(kit, tmp_path)


def test_a_checkpoint_has_weights_state_and_extra_files_and_no_pickle(run):
    folder = run.save(save_extra=lambda place: (place / "tokenizer.json").write_text("{}"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
    ]
    assert run.load(folder) == STATE
    assert (run.folder / "last").readlink().name == "checkpoint-1"


def test_the_newest_and_the_best_are_kept(run):
    for step in range(1, 6):
        best = {"best_step": 2, "best_loss": 0.5} if step >= 2 else {}
        run.save(replace(STATE, step=step, **best))
    assert sorted(path.name for path in run.folder.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-5",
    ]
    assert (run.folder / "best").resolve().name == "checkpoint-2"
    assert (run.folder / "last").resolve().name == "checkpoint-5"
    assert latest(run.folder).name == "checkpoint-5"
    assert not list(run.folder.glob(".*"))


def test_latest_counts_and_does_not_sort_names(run):
    run.save(replace(STATE, step=9))
    run.save(replace(STATE, step=10))
    assert latest(run.folder).name == "checkpoint-10"
    assert latest(run.folder / "checkpoint-9") is None


@pytest.mark.parametrize("writer", ["save_file", "write_adapter"])
def test_a_full_disk_leaves_no_half_checkpoint(run, monkeypatch, writer):
    earlier = run.save()
    before = {path.name: path.read_bytes() for path in earlier.iterdir()}

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, writer, full)
    with pytest.raises(CheckpointError, match=r"checkpoint-2: the disk is full \(\d+ MiB free on its disk\)"):
        run.save(replace(STATE, step=2))
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoint-1", "last"]
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before


def test_an_interrupted_save_leaves_no_half_checkpoint(run):
    def interrupt(_folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save(save_extra=interrupt)
    assert list(run.folder.iterdir()) == []


def test_damage_is_named(run):
    folder = run.save()
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors cannot be read"):
        run.load(folder)
    (folder / "state.json").write_text('{"step": 1')
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        run.load(folder)
    (folder / "state.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        run.load(folder)
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(folder)


def test_an_adapter_of_another_rank_is_refused(run, kit, tmp_path):
    folder = run.save()
    with pytest.raises(CheckpointError, match=r"lora_A.*has shape \(2, 32\), this model's is \(3, 32\)"):
        Run(kit, tmp_path / "other", rank=3).load(folder)
