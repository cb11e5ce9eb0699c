from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config, Qwen3MoeConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actune.core.errors import ConfigError
from actune.modeling.targets import resolve_targets

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Qwen3Config(**SMALL, tie_word_embeddings=True))


def test_all_is_every_linear_of_the_blocks_and_the_embedding(model):
    modules = resolve_targets(model, ["ALL"]).modules
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers.")
    }
    assert set(modules) == linear | {"model.embed_tokens"}
    assert len(modules) == 2 * 7 + 1
    assert list(modules) == sorted(modules)


def test_all_and_head(model):
    extra = set(resolve_targets(model, ["ALL+head"]).modules) - set(resolve_targets(model, ["ALL"]).modules)
    assert extra == {"lm_head"}


def test_where_rows_are_trained_embedding_and_head_carry_no_adapter(model):
    everything = set(resolve_targets(model, ["ALL"]).modules)
    targets = resolve_targets(model, ["ALL"], ends=False)
    assert set(targets.modules) == everything - {"model.embed_tokens"}
    assert "embed_tokens" not in targets.names
    for names in (["ALL+head"], ["q_proj", "embed_tokens"], ["ALL", "lm_head"]):
        with pytest.raises(ConfigError, match=f"lora_target_modules has {names[-1].replace('+', '.')}, of which"):
            resolve_targets(model, names, ends=False)


def test_default_is_query_key_value(model):
    leaves = {name.rpartition(".")[2] for name in resolve_targets(model, ["DEFAULT"]).modules}
    assert leaves == {"q_proj", "k_proj", "v_proj"}


def test_short_names_are_used_only_where_they_mean_the_same(model):
    targets = resolve_targets(model, ["ALL"])
    assert targets.names == (
        "down_proj", "embed_tokens", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    )  # fmt: skip
    first = resolve_targets(model, ["0.self_attn.q_proj"])
    assert first.names == first.modules == ("model.layers.0.self_attn.q_proj",)


def test_names_match_as_suffixes_of_dotted_names(model):
    assert len(resolve_targets(model, ["q_proj", "1.mlp.up_proj"]).modules) == 3
    with pytest.raises(ConfigError, match="matches nothing"):
        resolve_targets(model, ["proj"])


def test_a_name_that_matches_nothing_is_an_error_with_close_names(model):
    with pytest.raises(ConfigError, match="did you mean q_proj"):
        resolve_targets(model, ["q_proj", "q_prj"])


def test_a_module_that_cannot_carry_an_adapter_is_named(model):
    with pytest.raises(ConfigError, match="Qwen3RMSNorm"):
        resolve_targets(model, ["input_layernorm"])


def test_routers_are_left_out_and_fused_experts_are_said():
    config = Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    targets = resolve_targets(AutoModelForCausalLM.from_config(config), ["ALL"])
    assert not any(name.endswith(".gate") for name in targets.modules)
    assert "carry no adapter" in targets.notices[0]


@pytest.mark.parametrize(
    ("kind", "router"),
    [("hunyuan_v1_moe", "mlp.gate.wg"), ("afmoe", "mlp.router.gate"), ("longcat_flash", "mlp.router.classifier")],
)
def test_a_linear_layer_inside_of_a_router_is_left_out_too(kind, router):
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    config = CONFIG_MAPPING[kind]()
    changes = SMALL | {"num_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 8, "num_layers": 2}
    for name, value in (changes | {"num_hidden_layers": 4, "q_lora_rank": 8, "kv_lora_rank": 8}).items():
        if hasattr(config, name):
            setattr(config, name, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:4]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    routers = {name for name in linear if name.endswith(router)}
    assert routers
    assert not routers & set(resolve_targets(model, ["ALL"]).modules)
    assert set(resolve_targets(model, [router]).modules) == routers


def test_transposed_linear_layers_count():
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    modules = resolve_targets(AutoModelForCausalLM.from_config(config), ["ALL"]).modules
    assert {name.rpartition(".")[2] for name in modules} == {"c_attn", "c_proj", "c_fc", "wte"}
