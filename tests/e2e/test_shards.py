"""Two gloo processes with weights spread over them (FSDP2) train as one process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

# Beside the results: the largest share of the weights that this process held by itself.
WATCH = """
from actune.training import loop
shares, gather_whole = [], loop.gather_whole

def watch(model, *rest):
    if loop.is_sharded(model):
        own = sum(weight.to_local().numel() for weight in model.parameters())
        shares.append(own / sum(weight.numel() for weight in model.parameters()))
    return gather_whole(model, *rest)

loop.gather_whole = watch
"""
HERE = Path(__file__).resolve().parent


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(base, run_dir, *, accumulation=1, tuning=None, resume=None, **training) -> dict:
    settings = {
        "tuning": {"sft_type": "full"} | (tuning or {}),
        "training": {"gradient_accumulation_steps": accumulation, "learning_rate": 1e-3, "fsdp": "true"} | training,
        "output": {"eval_steps": 2, "save_steps": 3, "save_total_limit": 9},
    }
    found = {"model": str(base), "run_dir": str(run_dir), "rows": 13, "settings": settings}
    return found | ({"resume": str(resume)} if resume else {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory, kit):
    ranks = load(HERE / "test_ranks.py")
    start, end = "ranks = Ranks.start", "print(json.dumps(results))"
    ranks.WORKER = ranks.WORKER.replace(start, WATCH + start).replace(end, "results.append(max(shares))\n" + end)
    folder = tmp_path_factory.mktemp("shards")
    for name, tied in (("tied", True), ("untied", False)):
        # Odd sizes: parts are of different length.
        kit.build_model("qwen3", tie_word_embeddings=tied, intermediate_size=49).save_pretrained(folder / name)
    frozen = {"freeze_parameters": ("model.embed_tokens", "model.layers.0"), "sft_type": "full"}
    scenarios = {
        "tied": options_of(folder / "tied", folder / "run-tied"),
        "recomputed": options_of(folder / "tied", folder / "run-recomputed", gradient_checkpointing="true"),
        "plain": options_of(folder / "untied", folder / "run-plain", packing=False),
        "frozen": options_of(folder / "untied", folder / "run-frozen", tuning=frozen),
        "resumed": options_of(folder / "tied", folder / "run-resumed", resume=folder / "run-tied/checkpoint-3"),
        "probed": options_of(folder / "tied", folder / "run-probed"),
        "half": options_of(folder / "tied", folder / "run-half"),
        "replicated": options_of(
            folder / "tied", folder / "run-replicated", fsdp="false", resume=folder / "run-tied/checkpoint-3"
        ),
    }
    scenarios["probed"]["settings"]["monitor"] = {"probe_items": 2}
    scenarios["half"]["settings"]["model"] = {"dtype": "bf16"}
    both = ranks.finish(ranks.start(list(scenarios.values()), size=2))
    for name in ("tied", "plain", "frozen"):
        alone = scenarios[name] | {"run_dir": str(folder / f"alone-{name}")}
        alone["settings"]["training"]["gradient_accumulation_steps"] = 2
        ranks.train_alone(kit, alone)
    return folder, dict(zip([*scenarios, "share"], zip(*both, strict=True), strict=True)), ranks.read


def close(found: Path, wanted: Path, *, rel=1e-5):
    tensors, others = load_file(found), load_file(wanted)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        gap = torch.linalg.vector_norm(tensor - others[name]) / torch.linalg.vector_norm(others[name]).clamp_min(1e-12)
        assert float(gap) < rel, name


@pytest.mark.parametrize(
    ("name", "other"), [("tied", "tied"), ("recomputed", "tied"), ("plain", "plain"), ("frozen", "frozen")]
)
def test_two_processes_with_spread_weights_are_one(runs, name, other):
    folder, said, read = runs
    assert said[name] == ("done", "done")
    found, wanted = read(folder / f"run-{name}"), read(folder / f"alone-{other}")
    assert len(found) == len(wanted) > 7
    for line, reference in zip(found, wanted, strict=True):
        assert line.keys() == reference.keys()
        if "eval" in line:
            assert line["eval"] == pytest.approx(reference["eval"], rel=1e-5)
        else:
            for key in ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens"):
                assert line[key] == pytest.approx(reference[key], rel=1e-5), key
    close(folder / f"run-{name}/model/model.safetensors", folder / f"alone-{other}/model/model.safetensors")
    # Moments too, which a test of few steps would not show in the weights.
    places = [folder / run / "checkpoint-6/optimizer.safetensors" for run in (f"run-{name}", f"alone-{other}")]
    close(*places, rel=1e-4)


def test_the_result_is_an_ordinary_model(runs):
    folder, _, _ = runs
    for name in ("tied", "plain"):
        config = json.loads((folder / f"run-{name}/model/config.json").read_text())
        assert config["architectures"] == ["Qwen3ForCausalLM"]
        assert sorted(load_file(folder / f"run-{name}/model/model.safetensors")) == sorted(
            load_file(folder / f"{'tied' if name == 'tied' else 'untied'}/model.safetensors")
        )
        AutoModelForCausalLM.from_pretrained(folder / f"run-{name}/model")


def test_resumed_is_uninterrupted(runs):
    folder, said, _ = runs
    assert said["resumed"] == ("done", "done")
    name = "model/model.safetensors"
    assert (folder / "run-resumed" / name).read_bytes() == (folder / "run-tied" / name).read_bytes()


def test_a_checkpoint_goes_on_without_spreading(runs):
    folder, said, _ = runs
    assert said["replicated"] == ("done", "done")
    close(folder / "run-replicated/model/model.safetensors", folder / "run-tied/model/model.safetensors")


def test_bf16_products_are_those_of_autocast(runs):
    folder, said, read = runs
    assert said["half"] == ("done", "done")
    found, wanted = (
        [line["loss"] for line in read(folder / run) if "loss" in line] for run in ("run-half", "run-tied")
    )
    assert found == pytest.approx(wanted, rel=2e-2)
    assert found != pytest.approx(wanted, rel=1e-6)
    tensors = load_file(folder / "run-half/model/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_what_one_process_generates_is_refused(runs):
    _, said, _ = runs
    assert all(text.startswith("ConfigError: a probe is generated by one process") for text in said["probed"])


def test_each_process_holds_half(runs):
    _, said, _ = runs
    assert all(0.4 < share < 0.6 for share in said["share"])
