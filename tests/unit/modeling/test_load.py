from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from actune.core.errors import ConfigError, ModelError
from actune.modeling.load import load_model, pick_device, pick_dtype

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def load(folder, **options):
    return load_model(folder, dtype=torch.float32, device=CPU, **options)


def test_a_model_loads_in_the_dtype_asked_for(folder):
    model = load_model(folder, dtype=torch.bfloat16, device=CPU)
    assert model.dtype == torch.bfloat16
    assert not model.training


def test_no_config(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load(tmp_path)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load(folder)


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\)"):
        load(folder)


def test_weights_that_do_not_fill_the_model(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing.*up_proj"):
        load(folder)


def test_weights_cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen", "auto_map": {"AutoModelForCausalLM": "modeling_qwen.Q"}}, "own Python code"),
        ({"model_type": "nothing_like_it"}, "no architecture 'nothing_like_it'"),
    ],
)
def test_architectures_that_transformers_does_not_have(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_dtype_on_the_cpu():
    assert pick_dtype("AUTO", CPU) == torch.float32
    assert pick_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="fp16"):
        pick_dtype("fp16", CPU)


def test_the_device_is_one_that_torch_has():
    assert torch.ones(1, device=pick_device()).sum().item() == 1
