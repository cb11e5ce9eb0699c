"""Writing a model folder as one GGUF file, weight by weight, on the `gguf` package.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names, keys and the order of rows are those that
llama.cpp's own converter writes (`conversion/{base,llama,qwen}.py`), so that llama.cpp and transformers read the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.config.extras import require_package
from actune.core.errors import ConfigError, ModelError
from actune.exporting.families import Outline
from actune.exporting.gguf_tokenizer import GgufTokenizer
from actune.exporting.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
TYPES: tuple[GgufType, ...] = ("f32", "f16", "bf16", "q8_0")
_NEAREST: dict[str, GgufType] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # enum llama_ftype of llama.h
_BLOCK = 32  # numbers that share a scale in q8_0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What stands under `general.`: names for people; absent ones are not written."""

    name: str
    license: str | None = None
    base_model: str | None = None
    base_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A GGUF file as it was written: its type, and the weights that could not have it (their rows are no whole blocks)."""

    path: Path
    type: GgufType
    wider: tuple[str, ...] = ()


def nearest_type(weights: Weights) -> GgufType:
    """Return the type that holds the stored numbers as they are, f32 for any other dtype."""
    return _NEAREST.get(weights.dtype("model.embed_tokens.weight"), "f32")


def check_weights(outline: Outline, weights: Weights, *, advice: str) -> None:
    """Check that the weights are exactly those of the family.

    Raises:
        ConfigError: one is missing, one more is there, or one has another shape.
    """
    expected = {name: shape for name, (_, shape) in outline.weights().items()}
    found = {name for name in weights.names() if not name.endswith("rotary_emb.inv_freq")}  # computed from the config
    if outline.tied:
        found.discard("lm_head.weight")
    for what, names in (("lacks", set(expected) - found), ("has", found - set(expected))):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise ConfigError(
                f"the model is no plain {outline.model_type}: it {what} {len(names)} weights of it ({shown})"
                if what == "lacks"
                else f"the model is no plain {outline.model_type}: it {what} {len(names)} more weights ({shown})",
                fix=advice,
            )
    for name, shape in expected.items():
        if weights.shape(name) != shape:
            raise ConfigError(f"{name} has the shape {weights.shape(name)}, its config.json says {shape}", fix=advice)
    if outline.tied and "lm_head.weight" in weights.names():
        import torch

        if not torch.equal(weights.read("lm_head.weight"), weights.read("model.embed_tokens.weight")):
            raise ConfigError(
                "config.json says that the head is the embedding, and the weights hold two different ones", fix=advice
            )


def write_gguf(
    path: Path,
    outline: Outline,
    weights: Weights,
    tokenizer: GgufTokenizer,
    *,
    kind: GgufType,
    labels: Labels,
    templates: Mapping[str, str],
) -> Written:
    """Write a model as GGUF; one weight at a time is in memory. `templates` are Jinja texts, `default` and perhaps others.

    Vectors (norms, biases) are f32 always, as llama.cpp wants them.

    Raises:
        MissingExtraError: the `gguf` package is not installed.
        ModelError: a weight does not fit the type (f16 holds numbers up to 65504).
    """
    require_package("gguf", extra="gguf", what="GGUF")
    from gguf import GGUFWriter

    writer = GGUFWriter(path, outline.architecture)
    _write_labels(writer, labels, kind)
    _write_outline(writer, outline)
    _write_tokenizer(writer, tokenizer, templates)
    plan = [(name, target, shape, _type_of(shape, kind)) for name, (target, shape) in outline.weights().items()]
    factors = _rope_factors(outline)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for _, target, shape, stored in plan:
        _announce(writer, target, shape, stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for name, target, _, stored in plan:
            weight = weights.read(name)
            if outline.permuted and target.endswith(("attn_q.weight", "attn_k.weight")):
                weight = _permute(weight, outline.heads if ".attn_q." in target else outline.kv_heads)
            writer.write_tensor_data(_convert(weight, stored, name))
    finally:
        writer.close()
    wider = tuple(target for _, target, shape, stored in plan if len(shape) > 1 and stored != kind)
    return Written(path=path, type=kind, wider=wider)


def _type_of(shape: tuple[int, ...], kind: GgufType) -> GgufType:
    if len(shape) == 1:
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % _BLOCK else kind


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: GgufType) -> None:  # noqa: ANN401 - gguf is optional
    import numpy as np
    from gguf import GGMLQuantizationType

    count = math.prod(shape)
    if kind == "q8_0":
        rows = (*shape[:-1], shape[-1] // _BLOCK * (_BLOCK + 2))  # a scale in f16 before 32 numbers of one byte
        writer.add_tensor_info(name, rows, np.dtype(np.uint8), math.prod(rows), raw_dtype=GGMLQuantizationType.Q8_0)
    elif kind == "bf16":
        writer.add_tensor_info(name, shape, np.dtype(np.uint16), 2 * count, raw_dtype=GGMLQuantizationType.BF16)
    else:
        dtype = np.dtype(np.float32 if kind == "f32" else np.float16)
        writer.add_tensor_info(name, shape, dtype, dtype.itemsize * count)


def _convert(weight: torch.Tensor, kind: GgufType, name: str) -> np.ndarray:
    import torch

    if kind == "bf16":
        return weight.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    if kind == "f16":
        half = weight.to(torch.float16)
        if bool(torch.isinf(half).any()) and not bool(torch.isinf(weight).any()):
            raise ModelError(f"{name} holds numbers above 65504, which f16 cannot", fix="use --gguf_type bf16 or f32")
        return half.contiguous().numpy()
    full = weight.to(torch.float32).contiguous().numpy()
    if kind == "f32":
        return full
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(full, GGMLQuantizationType.Q8_0)


def _permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Bring the two halves of each head's rows together in pairs: llama.cpp rotates (0, 1), (2, 3) ... here."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def _rope_factors(outline: Outline) -> np.ndarray | None:
    """Return what each frequency is divided by under Llama 3's scaling, [head_dim / 2], None for other kinds.

    The formula is transformers' `_compute_llama3_parameters`.
    """
    if outline.rope.kind != "llama3":
        return None
    import numpy as np

    given = outline.rope.settings
    factor, low, high = given["factor"], given["low_freq_factor"], given["high_freq_factor"]
    original = given["original_max_position_embeddings"]
    exponents = np.arange(0, outline.head_dim, 2, dtype=np.float32) / np.float32(outline.head_dim)
    lengths = 2 * math.pi * (outline.rope.theta**exponents)
    smooth = (original / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(lengths < original / high, 1.0, np.where(lengths > original / low, factor, between))
    return factors.astype(np.float32)


# --- keys ---


def _write_labels(writer: Any, labels: Labels, kind: GgufType) -> None:  # noqa: ANN401 - gguf is optional
    writer.add_type("model")
    # transformers takes a Llama file that is named so for an architecture that gguf does not know.
    writer.add_name("mistral-model" if labels.name == "mistral" else labels.name)
    if labels.license is not None:
        writer.add_license(labels.license)
    if labels.base_model is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, labels.base_model)
        if labels.base_url is not None:
            writer.add_base_model_repo_url(0, labels.base_url)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(2)  # GGML_QNT_VERSION


def _write_outline(writer: Any, outline: Outline) -> None:  # noqa: ANN401 - gguf is optional
    writer.add_vocab_size(outline.vocabulary)
    writer.add_context_length(outline.context)
    writer.add_embedding_length(outline.hidden)
    writer.add_block_count(outline.layers)
    writer.add_feed_forward_length(outline.feed_forward)
    writer.add_head_count(outline.heads)
    writer.add_head_count_kv(outline.kv_heads)
    writer.add_key_length(outline.head_dim)
    writer.add_value_length(outline.head_dim)
    writer.add_layer_norm_rms_eps(outline.epsilon)
    writer.add_rope_dimension_count(outline.head_dim)
    rope = outline.rope
    writer.add_rope_freq_base(rope.theta)
    if rope.kind in ("linear", "yarn"):
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType(rope.kind))
        writer.add_rope_scaling_factor(rope.settings["factor"])
    if rope.kind == "yarn":
        original = rope.settings.get("original_max_position_embeddings", outline.context / rope.settings["factor"])
        writer.add_rope_scaling_orig_ctx_len(int(original))
        for key, add in (
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if key in rope.settings:
                add(rope.settings[key])


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer, templates: Mapping[str, str]) -> None:  # noqa: ANN401 - gguf is optional
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(list(tokenizer.tokens))
    writer.add_token_types(list(tokenizer.kinds))
    if tokenizer.scores:
        writer.add_token_scores(list(tokenizer.scores))
    if tokenizer.merges or tokenizer.model == "gpt2":
        writer.add_token_merges(list(tokenizer.merges))
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "eot": writer.add_eot_token_id,
        "pad": writer.add_pad_token_id,
        "unk": writer.add_unk_token_id,
    }
    for key, number in tokenizer.ids.items():
        adders[key](number)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(False)
    if tokenizer.add_space_prefix is not None:
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    if len(templates) == 1:
        writer.add_chat_template(templates["default"])
    elif templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])
