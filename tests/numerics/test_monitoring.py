"""Watching a run: early stopping, the best weights as the result, and that watching changes nothing of the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from actune.core.errors import ModelError
from actune.modeling.adapters import unwrap
from actune.training.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def model_dir(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    kit.build_model().save_pretrained(folder)
    return folder


def run(kit, model_dir, run_dir, settings, *, resume=None, **more):
    said: list[str] = []
    more |= {"resume_from": resume, "say": said.append}
    held_back = [kit.build_line(20, seed=90), kit.build_tree(seed=91)]
    result = kit.train(settings, model_dir, run_dir, kit.build_rows(11), validation_rows=held_back, **more)
    return result, "\n".join(said)


def settings_of(kit, *, monitor=None, save_steps=1, **training):
    """Rows are learnt by heart, so the loss of other rows rises from some step on."""
    return kit.build_settings(
        tuning={"lora_dropout_p": 0.05},
        training={"num_train_epochs": 8, "learning_rate": 5e-2} | training,
        output={"eval_steps": 1, "save_steps": save_steps, "save_total_limit": 2},
        monitor=monitor or {},
    )


def read(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second", "peak_memory_bytes", "mfu")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def losses_of(run_dir: Path) -> dict[int, float]:
    return {line["step"]: line["eval"]["loss"] for line in read(run_dir) if "eval" in line}


def read_weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_training_stops_when_nothing_improves_and_says_which_weights_are_written(kit, model_dir, tmp_path):
    settings = settings_of(kit, monitor={"early_stopping_patience": 3})
    result, said = run(kit, model_dir, tmp_path / "run", settings)
    losses = losses_of(tmp_path / "run")
    best = min(losses, key=lambda step: losses[step])
    assert result.steps == max(losses) == best + 3 < 22
    assert f"Stopped early after step {best + 3} of 22" in said
    assert f"checkpoint-{best}" in said
    assert (tmp_path / "run/best").resolve().name == f"checkpoint-{best}"
    assert read_weights(result.folder) == read_weights(tmp_path / f"run/checkpoint-{best + 3}")

    # Stopped is stopped: resuming does no further step.
    again, _ = run(kit, model_dir, tmp_path / "run", settings, resume=tmp_path / f"run/checkpoint-{best + 3}")
    assert again.steps == best + 3


def test_resuming_keeps_patience_and_best(kit, model_dir, tmp_path):
    settings = settings_of(kit, monitor={"early_stopping_patience": 3})
    whole, _ = run(kit, model_dir, tmp_path / "whole", settings)
    cut = whole.steps - 1
    assert read_checkpoint(tmp_path / f"whole/checkpoint-{cut}").stale == 2
    later = whole.steps + 5
    before = read_weights(whole.folder)
    resumed, _ = run(kit, model_dir, tmp_path / "whole", settings, resume=tmp_path / f"whole/checkpoint-{cut}")
    assert resumed.steps == whole.steps < later
    assert read_weights(resumed.folder) == before
    assert (tmp_path / "whole/best").resolve().name == f"checkpoint-{whole.steps - 3}"


def test_the_best_weights_are_written_where_asked_for_and_saved_when_found(kit, model_dir, tmp_path):
    monitor = {"load_best_model_at_end": True, "metric_for_best_model": "loss/made.jsonl"}
    settings = settings_of(kit, monitor=monitor, save_steps=0)
    result, said = run(kit, model_dir, tmp_path / "run", settings)
    losses = losses_of(tmp_path / "run")
    best = min(losses, key=lambda step: losses[step])
    assert result.steps == 22 > best
    assert f"The result holds the weights after step {best}" in said
    assert read_weights(result.folder) == read_weights(tmp_path / f"run/checkpoint-{best}")
    assert read_weights(result.folder) != read_weights(tmp_path / "run/checkpoint-22")


def test_rows_that_are_evaluated_besides_change_nothing_of_the_training(kit, model_dir, tmp_path):
    settings = settings_of(kit, max_steps=4)
    plain, _ = run(kit, model_dir, tmp_path / "plain", settings)
    watched, _ = run(kit, model_dir, tmp_path / "watched", settings, held_out_rows=kit.build_rows(5))
    assert read_weights(watched.folder) == read_weights(plain.folder)
    steps = [[line for line in read(tmp_path / name) if "eval" not in line] for name in ("plain", "watched")]
    assert steps[0] == steps[1]
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "watched")


def test_probing_changes_nothing_of_the_training(kit, model_dir, tmp_path):
    """Dropout is off, the model's own attention is there to generate with, and both are put back."""
    seen = []

    def probe(model):
        torch.rand(3)
        inner = unwrap(model)
        seen.append((model.training, inner.config._attn_implementation))
        inner.generate(torch.tensor([[5, 6, 7], [8, 9, 10]]), max_new_tokens=4, do_sample=False)
        return {"strict_call": len(seen) / 10}

    settings = settings_of(kit, monitor={"metric_for_best_model": "probe/strict_call"}, max_steps=4)
    plain, _ = run(kit, model_dir, tmp_path / "plain", settings_of(kit, max_steps=4))
    probed, _ = run(kit, model_dir, tmp_path / "probed", settings, probe=probe)
    assert seen == [(False, "sdpa")] * 4
    assert read_weights(probed.folder) == read_weights(plain.folder)
    steps = [[line for line in read(tmp_path / name) if "eval" not in line] for name in ("plain", "probed")]
    assert steps[0] == steps[1]
    values = [line["eval"]["probe/strict_call"] for line in read(tmp_path / "probed") if "eval" in line]
    assert values == [0.1, 0.2, 0.3, 0.4]
    assert (tmp_path / "probed/best").resolve().name == "checkpoint-4"


@pytest.mark.parametrize("error", [ModelError("an item is too long"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_probe_that_fails_is_said_and_the_run_goes_on(kit, model_dir, tmp_path, capfd, error):
    def probe(model):
        raise error

    result, _ = run(kit, model_dir, tmp_path / "run", settings_of(kit, max_steps=2), probe=probe)
    assert result.steps == 2
    assert capfd.readouterr().err.count("the model is not probed") == 2
    assert set(losses_of(tmp_path / "run")) == {1, 2}
