"""`scripts/make_tiny_base.py`: a run that stops and goes on equals one that does not; the package's model is the script's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(str(resources.files("actune.demo").joinpath("model")))
SMALL = [
    "--hidden",
    "32",
    "--intermediate",
    "64",
    "--layers",
    "1",
    "--heads",
    "2",
    "--kv_heads",
    "1",
    "--tokens",
    "600",
]


def make(work: str, out: Path, *flags: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "make_tiny_base.py"), work, "--out", str(out), *SMALL, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder: Path, name: str = "checkpoint.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


def test_train_refine_measure_export(tmp_path: Path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(MODEL / file, tmp_path / name / file)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make("train", whole, "--steps", "4", "--threads", "1")
    make("train", parts, "--steps", "4", "--threads", "1", "--save_every", "1", "--seconds", "0.000001")
    assert torch.load(parts / "checkpoint.pt", weights_only=True)["done"]["step"] == 1
    make("train", parts, "--steps", "4", "--threads", "1", "--workers", "2")
    assert all(torch.equal(one, weights(parts)[name]) for name, one in weights(whole).items())
    make("refine", whole, "--steps", "2", "--threads", "1")
    assert any(not torch.equal(one, weights(whole, "refined.pt")[name]) for name, one in weights(whole).items())
    skills = json.loads(make("measure", whole, "--items", "3"))
    assert {"facts en", "picking zh"} <= set(skills)
    assert "MiB" in make("export", whole, "--to", str(tmp_path / "model"))
    exported = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(exported[name], weights(whole, "refined.pt")[name].to(torch.bfloat16))


def test_the_packages_model_is_small_and_standard():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 12 * 2**20
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (MODEL / "chat_template.jinja").read_bytes() == (ROOT / "scripts" / "tiny_base_template.jinja").read_bytes()
