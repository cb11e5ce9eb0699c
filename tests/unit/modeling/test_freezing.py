from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3Config, Qwen3MoeConfig

from actune.config.settings import TuningSettings
from actune.core.errors import ConfigError
from actune.modeling.freezing import freeze

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def build(tied=False, kind=Qwen3Config, **more):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(kind(**SMALL | more, tie_word_embeddings=tied))


def trained(model):
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.requires_grad}


def names(model):
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


def frozen(model, **tuning):
    found = freeze(model, TuningSettings(sft_type="full", **tuning))
    assert set(found.names) == names(model) - trained(model)
    return found


def test_everything_is_trained_unless_asked():
    model = build()
    model.requires_grad_(False)
    assert frozen(model).names == ()
    assert trained(model) == names(model)


def test_a_pattern_is_whole_parts_of_a_name():
    model = build()
    assert all(
        name.startswith("model.layers.1.") for name in frozen(model, freeze_parameters=("model.layers.1",)).names
    )
    assert len(frozen(model, freeze_parameters=("model.layers.1",)).names) == 11
    assert len(frozen(model, freeze_parameters=("model.layers.*.mlp",)).names) == 12 * 3
    assert frozen(model, freeze_parameters=("lm_head.weight",)).names == ("lm_head.weight",)


def test_only_what_is_named_is_trained():
    model = build()
    frozen(model, trainable_parameters=("model.layers.1[01]", "model.norm"))
    assert len(trained(model)) == 2 * 11 + 1


def test_exceptions_from_what_is_frozen():
    model = build()
    frozen(model, freeze_parameters=("model.layers",), trainable_parameters=("model.layers.*.*norm",))
    assert "model.embed_tokens.weight" in trained(model)
    assert len(trained(model)) == 3 + 12 * 4  # a star stands for dots too: norms of queries and keys


@pytest.mark.parametrize("setting", ["freeze_parameters", "trainable_parameters"])
@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens", "model.*"])
def test_a_shared_matrix_has_two_names_or_none(setting, name):
    model = build(tied=True)
    with pytest.raises(ConfigError, match=r"model\.embed_tokens\.weight and lm_head\.weight are one matrix"):
        freeze(model, TuningSettings(sft_type="full", **{setting: (name,)}))
    both = frozen(model, freeze_parameters=("model.embed_tokens", "lm_head"))
    assert both.names == ("lm_head.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("model.layer.0", "did you mean model.layers"),
        ("mlp", r"did you mean \*mlp\*\? It matches model\.layers\.\*\.mlp\.gate_proj\.weight \(12\)"),
        ("embed_token", r"did you mean \*embed_token\*"),
        ("xyz", r"This model has model\.embed_tokens\.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_close_names(pattern, words):
    import re

    with pytest.raises(ConfigError, match=f"{re.escape(repr(pattern))} matches no weight") as caught:
        freeze(build(), TuningSettings(sft_type="full", freeze_parameters=(pattern,)))
    assert re.search(words, caught.value.fix)


def test_nothing_left_to_train():
    with pytest.raises(ConfigError, match="leave no weight to train"):
        freeze(build(), TuningSettings(sft_type="full", freeze_parameters=("*",)))


@pytest.mark.parametrize(
    ("kind", "more", "count"),
    [
        (Qwen3MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}, 12),
        (GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}, 24),
    ],
)
def test_routers_are_trained_only_when_asked(kind, more, count):
    model = build(kind=kind, **more)
    found = frozen(model)
    assert found.names == found.routers
    assert len(found.routers) == count
    assert frozen(model, train_routers=True).names == ()
    # Frozen by name they are no surprise.
    assert frozen(model, freeze_parameters=("model.layers",)).routers == ()
    routers = tuple(name.rpartition(".")[0] for name in found.routers)
    with pytest.raises(ConfigError, match="names routers alone"):
        freeze(model, TuningSettings(sft_type="full", trainable_parameters=routers))
    frozen(model, trainable_parameters=routers, train_routers=True)
    assert trained(model) == set(found.routers)
