from __future__ import annotations

import errno
import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, GPT2Config, LlamaConfig, Qwen3Config

from actune.core.errors import CheckpointError, ModelError
from actune.modeling import adapters
from actune.modeling.adapters import PLAIN, Variant, attach_adapter, merge_adapter, quiet_peft, save_adapter, unwrap
from actune.modeling.targets import resolve_targets

torch.set_num_threads(1)
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.arange(3, 23)[None]


def config_of(kind: str, tied: bool):
    if kind == "gpt2":
        return GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=64, tie_word_embeddings=tied)
    return (Qwen3Config if kind == "qwen3" else LlamaConfig)(**SMALL, tie_word_embeddings=tied)


def base_in(folder, kind="qwen3", tied=True):
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config_of(kind, tied)).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(model, targets=("ALL",), **changes):
    options = {"rank": 4, "alpha": 8, "dropout": 0.0, "seed": 3} | changes
    model = attach_adapter(model, modules=resolve_targets(model, targets).modules, **options)
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():  # an adapter that does something
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def test_adapter_weights_are_fp32_seeded_and_all_that_is_trained(tmp_path):
    options = {"modules": ["model.embed_tokens", "lm_head"], "rank": 2, "alpha": 4, "dropout": 0, "seed": 0}
    model = attach_adapter(base_in(tmp_path / "base").to(torch.bfloat16), **options)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 4
    assert all(weight.dtype == torch.float32 and "lora" in name for name, weight in trained.items())
    torch.manual_seed(99)
    again = attach_adapter(base_in(tmp_path / "base").to(torch.bfloat16), **options)
    for name, weight in again.named_parameters():
        if weight.requires_grad:
            assert torch.equal(weight, trained[name])


def test_tied_embedding_delta_acts_on_the_input_side_only(tmp_path):
    base = base_in(tmp_path / "base")
    hidden = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    before = base.get_output_embeddings()(hidden)
    model = adapted(base, ["embed_tokens"])
    assert torch.equal(unwrap(model).get_output_embeddings()(hidden), before)


@pytest.mark.parametrize("variant", [PLAIN, Variant(use_rslora=True), Variant(use_rslora=True, use_dora=True)])
@pytest.mark.parametrize("targets", [("ALL",), ("ALL+head",)])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_saved_adapter_and_saved_merge_have_the_logits_of_the_trained_model(tmp_path, kind, tied, targets, variant):
    model = adapted(base_in(tmp_path / "base", kind, tied), targets, variant=variant)
    wanted = logits(model)
    save_adapter(model, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), wanted)

    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(reloaded), wanted, rtol=1e-5, atol=1e-5)
    assert reloaded.config.tie_word_embeddings is False
    assert not any("lora" in name for name, _ in reloaded.named_parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_rows_of_tokens_are_trained_in_embedding_and_head_saved_and_merged(tmp_path, kind, tied):
    tokens = (4, 9, 100)
    base = base_in(tmp_path / "base", kind, tied)
    ends = [base.get_input_embeddings().weight.detach().clone(), base.get_output_embeddings().weight.detach().clone()]
    modules = resolve_targets(base, ["ALL"], ends=False).modules
    model = attach_adapter(base, modules=modules, rank=4, alpha=8, dropout=0.0, seed=3, variant=Variant(tokens=tokens))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    rows = {name: weight for name, weight in trained.items() if "lora_" not in name}
    assert [tuple(weight.shape) for weight in rows.values()] == [(3, 32)] * (1 if tied else 2)

    with torch.no_grad():
        for number, weight in enumerate(trained.values()):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    wanted = logits(model.eval())
    changed = (wanted - logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))).abs().amin(dim=(0, 1))
    assert changed[list(tokens)].min() > 0
    save_adapter(model, tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert sum(tensor.numel() for name, tensor in stored.items() if "lora_" not in name) == len(rows) * 3 * 32
    with quiet_peft():
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), wanted)

    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(reloaded), wanted, rtol=1e-5, atol=1e-5)
    assert reloaded.config.tie_word_embeddings is tied
    others = [row for row in range(128) if row not in tokens]
    for end, before in zip((reloaded.get_input_embeddings(), reloaded.get_output_embeddings()), ends, strict=True):
        assert torch.equal(end.weight[others], before[others])


def test_rows_of_tokens_are_fp32_on_a_base_that_is_not(tmp_path):
    base_in(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    rows = base.get_input_embeddings().weight[[4, 9]].clone()
    options = {"modules": ["q_proj"], "rank": 2, "alpha": 4, "dropout": 0, "seed": 0}
    model = attach_adapter(base, **options, variant=Variant(tokens=(4, 9)))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(weight.dtype == torch.float32 for weight in trained.values())
    found = next(weight for name, weight in trained.items() if "trainable_tokens" in name)
    assert torch.equal(found, rows.float())
    assert logits(model).dtype == torch.bfloat16


def test_rows_that_cannot_be_trained_are_refused(tmp_path):
    options = {"modules": ["q_proj"], "rank": 2, "alpha": 4, "dropout": 0, "seed": 0}
    with pytest.raises(ModelError, match="token 128 has no row in the embedding, which has 128"):
        attach_adapter(base_in(tmp_path / "base"), **options, variant=Variant(tokens=(3, 128)))
    model = base_in(tmp_path / "base", tied=False)
    model.lm_head.bias = torch.nn.Parameter(torch.ones(128))
    with pytest.raises(ModelError, match="head of this model has a bias"):
        attach_adapter(model, **options, variant=Variant(tokens=(3,)))


def test_what_peft_refuses_says_what_to_do():
    config = Glm4MoeConfig(**SMALL, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    model = AutoModelForCausalLM.from_config(config)
    names = resolve_targets(model, ["ALL"]).names
    with pytest.raises(ModelError, match="peft refuses these adapters") as caught:
        attach_adapter(model, modules=names, rank=2, alpha=4, dropout=0.1, seed=0)
    assert "--lora_dropout_p 0" in caught.value.fix


@pytest.mark.parametrize("rows", [{"lm_head": [3]}, {"embed_tokens": [3], "lm_head": [4]}])
def test_rows_of_one_side_of_a_shared_matrix_are_not_merged(tmp_path, rows):
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=rows)
    with pytest.raises(ModelError, match="trained rows of one of the two"):
        merge_adapter(peft.get_peft_model(base_in(tmp_path / "base"), config))


def test_merge_without_embedding_stays_tied(tmp_path):
    model = adapted(base_in(tmp_path / "base"), ["q_proj"])
    wanted = logits(model)
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-5, atol=1e-5)
    assert merged.config.tie_word_embeddings is True


def test_an_adapter_is_two_files_without_the_embedding_and_names_its_base(tmp_path):
    model = adapted(base_in(tmp_path / "base"))
    save_adapter(model, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.joinpath("adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["target_modules"] == sorted(config["target_modules"])
    assert all("lora_" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))


def test_a_full_disk_leaves_the_earlier_adapter(tmp_path, monkeypatch):
    model = adapted(base_in(tmp_path / "base"))
    save_adapter(model, tmp_path / "adapter")
    before = (tmp_path / "adapter/adapter_model.safetensors").read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapters, "save_file", full)
    with pytest.raises(CheckpointError, match=r"adapter: the disk is full \(\d+ MiB free"):
        save_adapter(model, tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_the_scale_of_rslora_is_alpha_over_the_root_of_the_rank(tmp_path):
    model = adapted(base_in(tmp_path / "base"), ["q_proj"], variant=Variant(use_rslora=True))
    assert unwrap(model).model.layers[0].self_attn.q_proj.scaling["default"] == 8 / 4**0.5


def test_a_variant_that_is_not_known_is_not_merged(tmp_path):
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[5, 6])
    model = peft.get_peft_model(base_in(tmp_path / "base"), config)
    with pytest.raises(ModelError, match=r"q_proj carries a .*ALora.* no plain LoRA"):
        merge_adapter(model)
