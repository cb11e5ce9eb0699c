from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama import modeling_llama

from actune.core.errors import ModelError
from actune.core.types import Source
from actune.data.pack import Batch, pack
from actune.modeling.attention import ATTENTION, Layout, attend, use_attention
from actune.modeling.isolation import prepare_packing
from actune.render.tree import TokenTree

torch.set_num_threads(1)
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def line(count: int, **changes) -> TokenTree:
    index = np.arange(count, dtype=np.int32)
    values = {
        "input_ids": index + 3,
        "positions": index,
        "end": np.full(count, count, np.int32),
        "target_positions": index,
        "target_ids": index,
        "target_weights": np.ones(count, np.float32),
        "source": Source(file="made", line=1),
    }
    return TokenTree(**(values | changes))


def branching() -> TokenTree:
    """A trunk of 2 with branches of 2 and 3 tokens."""
    return line(7, positions=np.array([0, 1, 2, 3, 2, 3, 4], np.int32), end=np.array([7, 7, 4, 4, 7, 7, 7], np.int32))


def reference(batch: Batch, window: int | None) -> torch.Tensor:
    """The rule, pair by pair over the whole pack."""
    count = len(batch)
    seen = torch.zeros(count, count, dtype=torch.bool)
    for q in range(count):
        for k in range(q + 1):
            near = window is None or batch.positions[q] - batch.positions[k] < window
            seen[q, k] = bool(q < batch.end[k] and near)
    return seen


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attend_is_the_rule_pair_by_pair(window, kv_heads):
    generator = torch.Generator().manual_seed(0)
    batch = pack([line(5), branching(), line(4)])
    query = torch.randn(1, 4, len(batch), 8, generator=generator)
    key, value = torch.randn(2, 1, kv_heads, len(batch), 8, generator=generator)
    layout = Layout.of(batch, torch.device("cpu"))
    module = torch.nn.Module()
    found, _ = attend(module, query, key, value, None, scaling=0.3, sliding_window=window, actune_layout=layout)
    scores = (query @ key.repeat_interleave(4 // kv_heads, 1).transpose(2, 3)) * 0.3
    scores = scores.masked_fill(~reference(batch, window), float("-inf"))
    wanted = (scores.softmax(-1) @ value.repeat_interleave(4 // kv_heads, 1)).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}])
def test_requests_that_are_not_implemented_are_refused(extra):
    states = torch.randn(1, 4, 5, 8)
    layout = Layout.of(pack([line(5)]), torch.device("cpu"))
    with pytest.raises(ModelError, match="packed attention does not have"):
        attend(torch.nn.Module(), states, states, states, None, actune_layout=layout, **extra)


def test_a_model_without_the_layout_fails_closed():
    model = build(LlamaConfig(**SMALL))
    use_attention(model, ATTENTION)
    with pytest.raises(ModelError, match="layout"):
        model(input_ids=torch.arange(5)[None], use_cache=False)


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SMALL, head_dim=16),
        LlamaConfig(**SMALL),
        MistralConfig(**SMALL, sliding_window=4),
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ],
    ids=lambda config: config.model_type,
)
def test_plain_attention_models_are_packed(config):
    model = build(config)
    assert prepare_packing(model) is None
    assert model.config._attn_implementation == ATTENTION


def test_a_model_that_leaks_between_rows_is_found_and_left_as_it_was(monkeypatch):
    model = build(LlamaConfig(**SMALL))
    original = modeling_llama.LlamaMLP.forward

    def leak(self, x):
        return original(self, x + 1e-3 * x.mean(dim=1, keepdim=True))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", leak)
    reason = prepare_packing(model)
    assert reason is not None
    assert "differs" in reason or "changes" in reason
    assert model.config._attn_implementation == "sdpa"


def test_short_convolutions_leak_and_are_found():
    config = Lfm2Config(**SMALL, layer_types=["conv", "full_attention"])
    assert "packed row" in (prepare_packing(build(config)) or "")


def test_positions_that_count_through_the_pack_are_found(monkeypatch):
    model = build(LlamaConfig(**SMALL))
    original = modeling_llama.LlamaRotaryEmbedding.forward

    def by_index(self, x, position_ids):
        return original(self, x, torch.arange(x.shape[1])[None])

    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", by_index)
    # Rotary embeddings are relative: only a branch, where index and depth part ways, can show this.
    assert "differs" in (prepare_packing(model) or "")
