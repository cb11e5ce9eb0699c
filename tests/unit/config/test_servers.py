"""What vLLM refuses is said, what it serves is not."""

from __future__ import annotations

import json

import pytest

from actune.config.servers import serving_notices
from actune.config.settings import TuningSettings


def notices(folder, architecture, **tuning):
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return serving_notices(TuningSettings(**tuning), folder)


@pytest.mark.parametrize(
    ("architecture", "tuning", "words"),
    [
        ("Qwen3ForCausalLM", {}, None),
        ("LlamaForCausalLM", {"lora_target_modules": ("ALL+head",), "use_rslora": True, "lora_rank": 16}, None),
        ("Qwen2ForCausalLM", {}, "embedding or the head of Qwen2ForCausalLM"),
        ("Qwen2ForCausalLM", {"lora_target_modules": ("DEFAULT",)}, None),
        ("Qwen2ForCausalLM", {"lora_target_modules": ("q_proj", "model.embed_tokens")}, "embedding"),
        ("CohereForCausalLM", {"lora_target_modules": ("ALL+head",)}, "head of CohereForCausalLM"),
        ("CohereForCausalLM", {}, None),
        ("GPT2LMHeadModel", {"lora_target_modules": ("DEFAULT",)}, "without adapters"),
        ("Qwen3ForCausalLM", {"use_dora": True}, "refuses DoRA"),
        ("Qwen2ForCausalLM", {"trainable_tokens": ("<a>",)}, "refuses adapters with trained rows of tokens"),
        ("Qwen3ForCausalLM", {"lora_rank": 200}, "--max-lora-rank 256"),
        ("Qwen3ForCausalLM", {"lora_rank": 513}, "up to rank 512"),
        ("Qwen2ForCausalLM", {"sft_type": "full", "use_dora": True}, None),
    ],
)
def test_refusals(tmp_path, architecture, tuning, words):
    found = notices(tmp_path, architecture, **tuning)
    assert len(found) == (words is not None), found
    assert words is None or words in found[0]
    assert words is None or "--max-lora-rank" in found[0] or "actune export --to merged" in found[0]


@pytest.mark.parametrize("text", ["", "[]", '{"architectures": null}', '{"architectures": []}'])
def test_a_config_that_says_nothing(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert serving_notices(TuningSettings(), tmp_path) == []
