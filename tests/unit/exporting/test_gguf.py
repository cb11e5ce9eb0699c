"""GGUF files read back by transformers, and by llama.cpp where its binding is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers

from actune.core.errors import ConfigError, ModelError
from actune.exporting.gguf import Labels
from actune.exporting.gguf_folder import plan_gguf, write_gguf_folder
from actune.render.chat import load_renderer

pytest.importorskip("gguf")
LABELS = Labels(name="tiny", license="apache-2.0", base_model="base", base_url="https://example.org/base")
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 16
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8}
# transformers 5.17 fails on the tokenizer of every GGUF file: its skeleton has no bos_token_id.
TOKENIZERS_LOAD = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24)
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


def export(folder: Path, target: Path, kind: str | None = None, *, lossless: bool = True):
    from actune.exporting.gguf_check import check_gguf

    target.mkdir()
    renderer = load_renderer(folder)
    written, _ = write_gguf_folder(folder, target, renderer, kind=kind, labels=LABELS, advice="script")
    return written, check_gguf(written, folder, renderer.tokenizer, lossless=lossless)


@pytest.mark.parametrize(
    ("kind", "changes", "alone"),
    [
        ("llama", {}, True),
        ("llama", {"tie_word_embeddings": True, "head_dim": 16, "num_key_value_heads": 1}, True),
        ("mistral", {}, True),
        ("mistral", {"rope_parameters": LINEAR}, False),
        ("qwen2", {}, True),
        ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}, True),
        ("qwen3", {"head_dim": 128}, True),
        # What transformers does not read of a GGUF file is in the config.json beside it.
        ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}, False),
        ("llama", {"rope_parameters": LLAMA3}, False),
        ("qwen3", {"head_dim": 8, "rope_parameters": YARN}, False),
    ],
)
def test_families_are_read_back_without_a_difference(
    export_kit: ModuleType, tools_folder: Path, tmp_path: Path, kind: str, changes: dict, alone: bool
):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, kind, **changes)
    _, found = export(folder, tmp_path / "out")
    assert found.difference == 0.0
    assert found.with_config is not alone
    if TOKENIZERS_LOAD:
        assert found.tokenizer is None
    if find_spec("llama_cpp") is not None:
        assert found.llama_cpp < 1e-4
        assert found.llama_cpp_ids is None


@pytest.mark.parametrize(
    ("stored", "kind", "named", "size", "lossless"),
    [
        (torch.bfloat16, None, "bf16", 2, True),
        (torch.float16, None, "f16", 2, True),
        (torch.float32, None, "f32", 4, True),
        (torch.bfloat16, "f32", "f32", 4, True),
        (torch.float32, "q8_0", "q8_0", 34 / 32, False),
    ],
)
def test_numbers_are_kept_as_stored_or_as_asked(
    export_kit: ModuleType,
    tools_folder: Path,
    tmp_path: Path,
    stored,
    kind: str | None,
    named: str,
    size: float,
    lossless: bool,
):
    from gguf import GGUFReader

    folder = export_kit.write_model(tmp_path / "model", tools_folder, dtype=stored, head_dim=128, intermediate_size=64)
    written, found = export(folder, tmp_path / "out", kind, lossless=lossless)
    assert written.path.name == f"model-{named}.gguf"
    assert (found.difference == 0.0) is lossless
    assert found.difference < 0.1
    tensors = {tensor.name: tensor for tensor in GGUFReader(written.path).tensors}
    assert tensors["blk.0.attn_q.weight"].n_bytes == 512 * 32 * size
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"


def test_rows_that_are_no_whole_blocks_are_wider(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, head_dim=128)  # 48 columns in the down projection
    written, _ = export(folder, tmp_path / "out", "q8_0", lossless=False)
    assert written.wider == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")


def test_numbers_that_f16_does_not_hold_are_an_error(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, initializer_range=3e5)
    with pytest.raises(ModelError, match="65504"):
        export(folder, tmp_path / "out", "f16")


@pytest.mark.parametrize(
    ("kind", "changes", "edit", "words"),
    [
        ("qwen3", {}, {"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
        ("llama", {}, {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama", {"attention_bias": True}, {}, "attention_bias"),
        ("llama", {"hidden_act": "gelu"}, {}, "gelu"),
        ("qwen2", {"head_dim": 16}, {}, "16 dimensions"),
        ("qwen3", {"rope_parameters": LLAMA3}, {}, "'llama3'"),
        ("llama", {"rope_parameters": YARN | {"attention_factor": 1.5}}, {}, "attention_factor"),
        ("llama", {}, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("llama", {}, {"num_hidden_layers": 3}, "lacks 9 weights"),
        ("llama", {}, {"num_hidden_layers": 1}, "9 more weights"),
        ("llama", {}, {"intermediate_size": 40}, "has the shape"),
    ],
)
def test_what_is_not_written_exactly_is_refused_with_the_command_for_it(
    export_kit: ModuleType, tools_folder: Path, tmp_path: Path, kind: str, changes: dict, edit: dict, words: str
):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, kind, **changes)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(ConfigError, match=words) as caught:
        plan_gguf(folder, load_renderer(folder), advice="use the script")
    assert caught.value.fix == "use the script"


def test_a_sliding_window_shortens_the_longest_text(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, "mistral", sliding_window=64)
    plan = plan_gguf(folder, load_renderer(folder), advice="")
    assert plan.outline.context == 64
    assert "64 tokens" in plan.notices[0]


def test_labels_template_and_ids_stand_in_the_file(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    from gguf import GGUFReader

    folder = export_kit.write_model(tmp_path / "model", tools_folder)
    written, _ = export(folder, tmp_path / "out")
    fields = {name: field.contents() for name, field in GGUFReader(written.path).fields.items()}
    renderer = load_renderer(folder)
    assert fields["general.license"] == "apache-2.0"
    assert fields["general.base_model.0.repo_url"] == "https://example.org/base"
    assert fields["tokenizer.chat_template"] == renderer.templates.plain
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[fields["tokenizer.ggml.eot_token_id"]] == "<|im_end|>"
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    kinds = dict(zip(tokens, fields["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["<tool_call>"], kinds["a"], kinds[tokens[-1]]) == (3, 4, 1, 5)
    assert fields["tokenizer.ggml.add_bos_token"] is False


def test_weights_in_several_files_are_read_and_a_missing_file_is_said(
    export_kit: ModuleType, tools_folder: Path, tmp_path: Path
):
    from safetensors.torch import load_file, save_file

    folder = export_kit.write_model(tmp_path / "model", tools_folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    table = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    _, found = export(folder, tmp_path / "out")
    assert found.difference == 0.0
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        plan_gguf(folder, load_renderer(folder), advice="")


def test_tied_weights_that_are_not_the_same_are_refused(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = export_kit.write_model(tmp_path / "model", tools_folder, tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    for factor, fault in ((1.0, False), (2.0, True)):
        head = weights["model.embed_tokens.weight"] * factor
        save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
        if fault:
            with pytest.raises(ConfigError, match="two different ones"):
                plan_gguf(folder, load_renderer(folder), advice="")
        else:
            assert plan_gguf(folder, load_renderer(folder), advice="").outline.tied


@pytest.mark.parametrize(
    "edit", [{"hidden_size": 0}, {"num_attention_heads": "many"}, {"num_attention_heads": 0}, {"vocab_size": -1}]
)
def test_a_config_that_makes_no_sense_is_an_error_of_the_file(
    export_kit: ModuleType, tools_folder: Path, tmp_path: Path, edit: dict
):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, "llama")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises((ConfigError, ModelError)):
        plan_gguf(folder, load_renderer(folder), advice="")


def test_a_folder_named_as_a_family_is_still_read(export_kit: ModuleType, tools_folder: Path, tmp_path: Path):
    folder = export_kit.write_model(tmp_path / "model", tools_folder, "mistral")
    from actune.exporting.gguf_check import check_gguf

    renderer = load_renderer(folder)
    written, _ = write_gguf_folder(folder, tmp_path, renderer, kind=None, labels=Labels(name="mistral"), advice="")
    assert check_gguf(written, folder, renderer.tokenizer, lossless=True).with_config is False
