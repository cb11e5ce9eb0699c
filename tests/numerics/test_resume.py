"""A run that was stopped and resumed is the run that was not: bit for bit, with dropout."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actune.config.settings import TuningSettings
from actune.core.errors import CheckpointError
from actune.training.checkpoint import latest
from actune.training.loop import _Loop


def run(kit, model_dir, run_dir, settings, *, resume=None, fingerprint="f", rows=11, save_extra=lambda _: None):
    more = {"resume_from": resume, "fingerprint": fingerprint, "save_extra": save_extra}
    held_back = [kit.build_line(20, seed=90), kit.build_tree(seed=91)]
    return kit.train(settings, model_dir, run_dir, kit.build_rows(rows), validation_rows=held_back, **more)


def read_metrics(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second", "peak_memory_bytes")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".json")
    }


@pytest.fixture(scope="module")
def model_dir(kit, tmp_path_factory, tokenizer_folder):
    folder = tmp_path_factory.mktemp("base")
    shutil.copy(tokenizer_folder / "tokenizer.json", folder)
    kit.build_model(tie_word_embeddings=True).save_pretrained(folder)
    return folder


def settings_of(kit, **training):
    return kit.build_settings(
        tuning={
            "lora_dropout_p": 0.05,
            **{name: training.pop(name) for name in TuningSettings.model_fields if name in training},
        },
        training={"num_train_epochs": 3, "warmup_ratio": 0.2} | training,
        output={"eval_steps": 2, "save_steps": 2, "save_total_limit": 2},
    )


@pytest.mark.parametrize("method", ["lora", "dora", "tokens", "full"])
@pytest.mark.parametrize("moment", ["between steps", "inside a step"])
def test_interrupted_and_resumed_is_uninterrupted(kit, model_dir, tmp_path, monkeypatch, moment, method):
    settings = settings_of(
        kit,
        sft_type="full" if method == "full" else "lora",
        use_dora=method == "dora",
        trainable_tokens=("<|im_start|>",) if method == "tokens" else (),
    )
    whole = run(kit, model_dir, tmp_path / "whole", settings)
    assert whole.steps == 9
    assert whole.folder.name == ("model" if method == "full" else "adapter")

    original = _Loop._deal

    def deal(self, rows, trees, budget):
        parts = list(original(self, rows, trees, budget))
        for place, part in enumerate(parts):
            if self.done == 5 and trees is self.job.train and place == (0 if moment == "between steps" else 1):
                os.kill(os.getpid(), signal.SIGTERM)
                if moment == "between steps":
                    self.interrupts.wanted = False  # seen only after the step
            yield part
        if moment == "between steps" and self.done == 5 and trees is self.job.train:
            self.interrupts.wanted = True

    monkeypatch.setattr(_Loop, "_deal", deal)
    with pytest.raises(KeyboardInterrupt):
        run(kit, model_dir, tmp_path / "cut", settings)
    monkeypatch.undo()
    saved = latest(tmp_path / "cut")
    assert saved.name == ("checkpoint-6" if moment == "between steps" else "checkpoint-5")
    assert not list((tmp_path / "cut").glob(".*"))
    # Lines of a try that got further than its checkpoint are cut.
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 0.0}\n{"step": 8, "lo')

    resumed = run(kit, model_dir, tmp_path / "cut", settings, resume=saved)
    assert read_metrics(tmp_path / "cut") == read_metrics(tmp_path / "whole")
    assert read_bytes(resumed.folder) == read_bytes(whole.folder)
    assert resumed.last_loss == whole.last_loss
    assert resumed.eval_loss == whole.eval_loss


def test_frozen_weights_stay_and_have_no_state(kit, model_dir, tmp_path):
    settings = settings_of(
        kit, sft_type="full", freeze_parameters=("model.embed_tokens", "lm_head", "model.layers.0"), max_steps=4
    )
    whole = run(kit, model_dir, tmp_path / "whole", settings)
    before = load_file(model_dir / "model.safetensors")
    after = load_file(whole.folder / "model.safetensors")
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert same == {name for name in before if name.startswith(("model.embed_tokens", "model.layers.0."))}
    state = load_file(tmp_path / "whole/checkpoint-2/optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in state} == set(before) - same

    resumed = run(kit, model_dir, tmp_path / "again", settings, resume=tmp_path / "whole/checkpoint-2")
    assert read_bytes(resumed.folder) == read_bytes(whole.folder)


def test_the_same_run_twice_gives_the_same_bytes_and_another_seed_does_not(kit, model_dir, tmp_path):
    settings = settings_of(kit, max_steps=2)
    results = [run(kit, model_dir, tmp_path / name, settings) for name in ("a", "b")]
    assert read_bytes(results[0].folder) == read_bytes(results[1].folder)
    other = run(kit, model_dir, tmp_path / "c", settings_of(kit, max_steps=2, seed=1))
    assert read_bytes(other.folder) != read_bytes(results[0].folder)


def test_losses_fall_and_the_adapter_is_what_was_trained(kit, model_dir, tmp_path):
    settings = kit.build_settings(training={"num_train_epochs": 12, "learning_rate": 2e-2})
    result = run(kit, model_dir, tmp_path / "run", settings)
    assert result.last_loss < 0.6 * result.first_loss
    tensors = load_file(result.folder / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, result.folder)
    state = peft.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_dropout_zero_accumulation_and_micro_batch_size_do_not_change_losses(kit, model_dir, tmp_path):
    found = []
    for name, batch, accumulation, tokens, packing in (
        ("a", 8, 1, 4096, True),
        ("b", 1, 8, 10, True),
        ("c", 1, 8, 0, False),
    ):
        settings = kit.build_settings(
            training={
                "batch_size": batch,
                "gradient_accumulation_steps": accumulation,
                "micro_batch_tokens": tokens,
                "packing": packing,
                "learning_rate": 1e-3,
            },
            output={"eval_steps": 1},
        )
        run(kit, model_dir, tmp_path / name, settings, rows=20)
        found.append(read_metrics(tmp_path / name))
    for other in found[1:]:
        for line, wanted in zip(other, found[0], strict=True):
            assert line.keys() == wanted.keys()
            if "eval" in line:
                assert line["eval"] == pytest.approx(wanted["eval"], rel=1e-5)
            else:
                for key in ("loss", "grad_norm", "supervised_tokens"):
                    assert line[key] == pytest.approx(wanted[key], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learning_rate": 1.0}, r"learning_rate was 0\.01, is 1\.0"), ({"batch_size": 3}, "a step took 4 rows, now 6")],
)
def test_resuming_with_other_settings_is_refused(kit, model_dir, tmp_path, change, message):
    run(kit, model_dir, tmp_path, settings_of(kit, max_steps=2))
    with pytest.raises(CheckpointError, match=message):
        run(kit, model_dir, tmp_path, settings_of(kit, max_steps=2, **change), resume=latest(tmp_path))


def test_resuming_with_other_data_is_refused(kit, model_dir, tmp_path):
    run(kit, model_dir, tmp_path, settings_of(kit, max_steps=2))
    with pytest.raises(CheckpointError, match="fingerprint"):
        run(kit, model_dir, tmp_path, settings_of(kit, max_steps=2), resume=latest(tmp_path), fingerprint="g")


def test_the_accumulation_may_change_where_the_step_stays(kit, model_dir, tmp_path):
    run(kit, model_dir, tmp_path, settings_of(kit, max_steps=2))
    settings = settings_of(kit, max_steps=2, batch_size=1, gradient_accumulation_steps=4)
    assert run(kit, model_dir, tmp_path, settings, resume=latest(tmp_path)).steps == 2
