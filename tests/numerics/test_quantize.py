"""QLoRA with the real bitsandbytes, on the device that torch finds; skipped where it is not installed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from actune.agents.engines.loading import load_engine
from actune.core.errors import ConfigError, ModelError
from actune.modeling.adapters import load_adapter
from actune.modeling.load import load_model, pick_device
from actune.modeling.merge import export_merged
from actune.modeling.quantize import Quantization, dequantize, quantization_of, read_quantization
from actune.training.ranks import Ranks

bitsandbytes = pytest.importorskip("bitsandbytes")

# Blocks of 64 weights: rows of 64 and of 96 begin and end inside of blocks.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def base(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    kit.build_model(**SIZES).save_pretrained(folder)
    return folder


def train(kit, base, run_dir, *, resume=None, **changes):
    torch.set_num_threads(1)  # also in fixtures of the module, which come before those of a test
    lines: list[str] = []
    settings = kit.build_settings(
        tuning={"quant_bits": 4} | changes.pop("tuning", {}),
        training={"max_steps": 4} | changes,
        output={"save_steps": 2},
    )
    more = {"ranks": Ranks(device=pick_device()), "resume_from": resume, "say": lines.append}
    kit.train(settings, base, run_dir, kit.build_rows(12), **more)
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return losses, lines


@pytest.fixture(scope="module")
def trained(kit, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    losses, lines = train(kit, base, folder)
    return folder, losses, lines


def probe():
    return torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(3)).to(pick_device())


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=probe(), use_cache=False).logits.float()


def test_training_learns_and_names_what_is_trained(trained):
    _, losses, lines = trained
    assert losses[-1] < losses[0]
    plan = next(line for line in lines if line.startswith("Trained weights"))
    # 6 matrices of 2 layers in 4 bits count as the weights they are.
    count = int(plan.split(" of ")[1].split()[0].replace(",", ""))
    assert count > 128 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96)


def test_recomputing_activations_changes_no_loss(kit, base, tmp_path, trained):
    losses, _ = train(kit, base, tmp_path / "run", gradient_checkpointing="true")
    assert losses == pytest.approx(trained[1], rel=1e-5)


def test_resumed_is_uninterrupted(kit, base, tmp_path, trained):
    folder = trained[0]
    again = tmp_path / "again"
    train(kit, base, again, resume=folder / "checkpoint-2")
    name = "adapter/adapter_model.safetensors"
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_adapters_are_fp32_and_the_base_is_packed(trained, base):
    folder = trained[0] / "adapter"
    quantization = read_quantization(folder)
    assert quantization == Quantization(dtype="float32")
    model = load_model(base, dtype=torch.float32, device=pick_device(), quantization=quantization)
    assert quantization_of(model) == quantization
    adapted = load_adapter(model, folder, base=base)
    kinds = {weight.dtype for name, weight in adapted.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32}
    assert model.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8


def test_a_measurement_leaves_the_base_as_it_was_trained(base):
    quantization = Quantization(dtype="bfloat16")
    model = load_model(base, dtype=torch.bfloat16, device=pick_device(), quantization=quantization)
    before = {name: weight.clone() for name, weight in model.state_dict().items() if weight.dtype == torch.uint8}
    assert before
    logits(model)
    assert not model.model.layers[0].self_attn.q_proj.support_avx512bf16_for_cpu
    for name, weight in model.state_dict().items():
        assert name not in before or torch.equal(weight, before[name]), name


@pytest.mark.parametrize("dora", [False, True])
def test_the_merged_model_is_the_one_that_was_trained(kit, base, tmp_path, trained, dora):
    folder = trained[0]
    if dora:
        folder = tmp_path / "dora"
        train(kit, base, folder, tuning={"use_dora": True})
    difference = export_merged(base, folder / "adapter", tmp_path / "out", verify=True, copy_tokenizer=lambda _: None)
    assert difference is not None
    assert difference < 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "quantization_config" not in config
    # Merged into the full weights it is another model: the difference above could have been seen.
    plain = load_model(base, dtype=torch.float32, device=pick_device())
    full = logits(load_adapter(plain, folder / "adapter", base=base))
    merged = logits(load_model(tmp_path / "out", dtype=torch.float32, device=pick_device()))
    assert (full - merged).abs().max() / full.abs().max() > 1e-3


def test_the_plain_form_of_a_base_computes_the_same(base):
    quantization = Quantization(dtype="float32", double_quant=False)
    model = load_model(base, dtype=torch.float32, device=pick_device(), quantization=quantization)
    wanted = logits(model)
    plain = dequantize(model)
    assert type(plain.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert torch.allclose(logits(plain), wanted, rtol=1e-5, atol=1e-5)


def test_a_layout_of_transposed_weights_survives(tmp_path):
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    quantization = Quantization(dtype="float32")
    model = load_model(tmp_path, dtype=torch.float32, device=pick_device(), quantization=quantization)
    wanted = logits(model)
    dequantize(model).save_pretrained(tmp_path / "plain")
    found = logits(load_model(tmp_path / "plain", dtype=torch.float32, device=pick_device()))
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_engine_loads_the_base_that_was_trained(kit, base, trained, tokenizer_folder):
    shutil.copyfile(tokenizer_folder / "tokenizer.json", base / "tokenizer.json")
    folder = trained[0] / "adapter"
    for options in ({"adapter": folder}, {"base_of": folder}):
        engine = load_engine(base, **options)
        assert quantization_of(engine._model) == Quantization(dtype="float32")
    with pytest.raises(ConfigError, match="quantised from float32"):
        load_engine(base, folder, dtype="bf16")


def test_weights_that_are_quantised_already_are_refused(base, tmp_path):
    quantization = Quantization(dtype="float32")
    load_model(base, dtype=torch.float32, device=pick_device(), quantization=quantization).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="quantised already"):
        load_model(tmp_path, dtype=torch.float32, device=pick_device(), quantization=quantization)
