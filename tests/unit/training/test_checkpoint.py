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
from actune.training.checkpoint import (
    State,
    find_newest,
    go_on_after,
    latest,
    load_checkpoint,
    read_checkpoint,
    require_sound,
    save_checkpoint,
)
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
        "checksums.json",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
    ]
    assert run.load(folder) == STATE
    assert (run.folder / "last").readlink().name == "checkpoint-1"


def test_the_newest_and_the_best_are_kept(run):
    for step in range(1, 6):
        best = {"best_step": 2, "best_value": 0.5} if step >= 2 else {}
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


def flip(path):
    """Change one bit in the middle: the file keeps its size and its form."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (flip, "adapter_model.safetensors", r"has other content than was written \(SHA-256\)"),
        (flip, "tokenizer.json", "has other content"),
        (cut, "optimizer.safetensors", r"has [\d,]+ bytes, not [\d,]+"),
        (lambda path: path.unlink(), "adapter_config.json", "is missing"),
        (lambda path: path.unlink(), "checksums.json", "is missing"),
        (cut, "state.json", "has"),
        (lambda path: path.write_text("{"), "state.json", "cannot be read"),
        (lambda path: path.write_text("{"), "checksums.json", "cannot be read"),
    ],
)
def test_the_newest_sound_checkpoint_is_taken_and_the_damage_named(run, damage, file, message):
    for step in (1, 2):
        run.save(replace(STATE, step=step), save_extra=lambda place: (place / "tokenizer.json").write_text("{ }"))
    newest = run.folder / "checkpoint-2"
    assert find_newest(run.folder).folder == newest
    assert require_sound(newest) == ()
    damage(newest / file)
    found = find_newest(run.folder)
    assert found.folder == run.folder / "checkpoint-1"
    assert len(found.notices) == 1
    with pytest.raises(CheckpointError, match=rf"checkpoint-2 cannot be resumed from: .*{file}.*{message}") as caught:
        require_sound(newest)
    assert caught.value.fix.endswith(": checkpoint-1")
    flip(run.folder / "checkpoint-1/state.json")
    with pytest.raises(
        CheckpointError, match=rf"(?s)no checkpoint.*is sound.*checkpoint-2.*{file}.*checkpoint-1.*state"
    ):
        find_newest(run.folder)


def test_a_run_without_checkpoints_has_nothing_to_go_on_from(run):
    (run.folder / ".checkpoint-3.partial").mkdir()
    found = find_newest(run.folder)
    assert found.folder is None
    assert found.notices == ()


def test_a_checkpoint_of_version_1_is_read_and_its_form_checked(run):
    folder = run.save()
    (folder / "checksums.json").unlink()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"version": 1}))
    found = find_newest(run.folder)
    assert found.folder == folder
    assert "without checksums" in found.notices[0]
    assert run.load(folder) == replace(STATE, version=1)
    cut(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors cannot be read"):
        find_newest(run.folder)


def test_going_on_from_an_earlier_one_sets_the_later_aside(run):
    state = replace(STATE, best_step=1, best_value=0.5)
    for step in (1, 2, 3):
        best = {"best_step": 3, "best_value": 0.1} if step == 3 else {}
        run.save(replace(state, step=step, **best), limit=3)
    flip(run.folder / "checkpoint-3/adapter_model.safetensors")
    notices = go_on_after(
        run.folder, run.folder / "checkpoint-2", read_checkpoint(run.folder / "checkpoint-2"), limit=3
    )
    assert "set-aside-checkpoint-3" in notices[0]
    assert (run.folder / "last").resolve().name == "checkpoint-2"
    assert (run.folder / "best").resolve().name == "checkpoint-1"
    # The damaged one takes no place among those that are kept, also where only one is.
    run.save(replace(STATE, step=3), limit=1)
    assert latest(run.folder).name == "checkpoint-3"
    assert find_newest(run.folder).folder.name == "checkpoint-3"
    assert not (run.folder / "best").is_symlink()
    assert go_on_after(run.folder, run.folder / "checkpoint-3", replace(STATE, step=2), limit=3)
    assert (run.folder / "set-aside-checkpoint-3-2").is_dir()


def test_what_was_just_written_is_never_removed_for_a_later_one(run):
    run.save(replace(STATE, step=9))
    run.save(replace(STATE, step=5), limit=1)
    assert {path.name for path in run.folder.glob("checkpoint-*")} == {"checkpoint-5", "checkpoint-9"}
