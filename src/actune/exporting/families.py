"""Which models actune writes as GGUF itself: the dense Llama, Mistral, Qwen2 and Qwen3 family, and nothing like it.

A model is of the family if its config names it, its config sets nothing that llama.cpp computes otherwise, and its weights
are exactly those that the family has. Everything else is refused with llama.cpp's own command for it. What llama.cpp
computes was read from its source of November 2026: `src/models/{llama,qwen2,qwen3}.cpp`, `conversion/{base,llama,qwen}.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from actune.core.errors import ConfigError, ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# general.architecture by model_type; Mistral without a window is computed as Llama.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_PLAIN = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_ADDED = {
    "qwen2": {f"self_attn.{kind}_proj.bias": f"attn_{kind}.bias" for kind in "qkv"},
    "qwen3": {f"self_attn.{kind}_norm.weight": f"attn_{kind}_norm.weight" for kind in "qk"},
}
_SCALINGS = ("default", "linear", "yarn", "llama3")
# Of YaRN these are written; others (`mscale`, `attention_factor`, `truncate` ...) llama.cpp computes otherwise.
_SCALING_KEYS = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding: base, and how it is stretched (`settings` are those of transformers' `rope_parameters`)."""

    theta: float
    kind: Literal["default", "linear", "yarn", "llama3"]
    settings: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A model of the family: sizes, and the shape of every weight under the name it has in safetensors.

    `context` is the longest text in tokens for which llama.cpp computes the same; `window` is the sliding window that
    shortened it. `tied` says that the head is the embedding.
    """

    model_type: str
    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    window: int | None
    epsilon: float
    rope: Rope
    tied: bool

    @property
    def permuted(self) -> bool:
        """Whether llama.cpp rotates neighbouring pairs, so that rows of query and key change places."""
        return self.architecture == "llama"

    def weights(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return name in safetensors -> (name in GGUF, shape), in the order of the file."""
        table = (self.vocabulary, self.hidden)
        found: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("token_embd.weight", table)}
        for layer in range(self.layers):
            for name, target in (_PLAIN | _ADDED.get(self.model_type, {})).items():
                found[f"model.layers.{layer}.{name}"] = (f"blk.{layer}.{target}", self._shape(name))
        found["model.norm.weight"] = ("output_norm.weight", (self.hidden,))
        if not self.tied:
            found["lm_head.weight"] = ("output.weight", table)
        return found

    def _shape(self, name: str) -> tuple[int, ...]:
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        part, _, kind = name.rpartition(".")
        module = part.rpartition(".")[2]
        if module.endswith("layernorm"):
            return (self.hidden,)
        if module in ("q_norm", "k_norm"):
            return (self.head_dim,)
        rows, columns = {
            "q_proj": (query, self.hidden),
            "k_proj": (key, self.hidden),
            "v_proj": (key, self.hidden),
            "o_proj": (self.hidden, query),
            "down_proj": (self.hidden, self.feed_forward),
        }.get(module, (self.feed_forward, self.hidden))
        return (rows,) if kind == "bias" else (rows, columns)


def read_outline(folder: Path, *, advice: str) -> Outline:
    """Return the outline of the model in a folder, if actune writes its family.

    `advice` is the fix of the error: how llama.cpp's own script is called.

    Raises:
        ConfigError: it is another model, or one with a part that is not written exactly.
        ModelError: config.json cannot be read.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # classes of configs check their values each in their own way
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    model_type = str(config.model_type)
    if model_type not in FAMILIES:
        _refuse(f"its model_type is {model_type!r}, known are {', '.join(FAMILIES)}", folder, advice)
    for fault in _find_faults(config, model_type):
        _refuse(fault, folder, advice)
    sizes = (config.hidden_size, config.num_attention_heads, config.num_hidden_layers, config.vocab_size)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        _refuse("its sizes are no positive numbers", folder, advice)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if model_type == "qwen2" and head_dim * config.num_attention_heads != config.hidden_size:
        _refuse(f"its heads have {head_dim} dimensions, llama.cpp takes hidden_size / heads for qwen2", folder, advice)
    if head_dim % 2:
        _refuse(f"its heads have an odd number of dimensions ({head_dim})", folder, advice)
    context = int(config.max_position_embeddings)
    window = _find_window(config, model_type)
    shortened = window is not None and window < context
    return Outline(
        model_type=model_type,
        architecture=_ARCHITECTURES[model_type],
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        feed_forward=int(config.intermediate_size),
        heads=int(config.num_attention_heads),
        kv_heads=int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
        head_dim=int(head_dim),
        vocabulary=int(config.vocab_size),
        context=int(window) if shortened and window is not None else context,
        window=window if shortened else None,
        epsilon=float(config.rms_norm_eps),
        rope=_read_rope(config, model_type, folder, advice),
        tied=bool(config.tie_word_embeddings),
    )


def _find_faults(config: Any, model_type: str) -> list[str]:  # noqa: ANN401 - a config of transformers
    named = (getattr(config, "architectures", None) or [_CLASSES[model_type]])[0]
    faults = []
    if named != _CLASSES[model_type]:
        faults.append(f"it is a {named}, not a {_CLASSES[model_type]}")
    if getattr(config, "quantization_config", None):
        faults.append("its weights are quantised")
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        faults.append(f"its activation is {config.hidden_act!r}, llama.cpp computes silu")
    if getattr(config, "attention_bias", False):
        faults.append("attention_bias is set")
    if getattr(config, "mlp_bias", False):
        faults.append("mlp_bias is set")
    return faults


def _find_window(config: Any, model_type: str) -> int | None:  # noqa: ANN401 - a config of transformers
    """Return the sliding window that any layer has; llama.cpp has none for these families."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    if kinds is None and model_type != "mistral" and not getattr(config, "use_sliding_window", False):
        return None
    return int(window)


def _read_rope(config: Any, model_type: str, folder: Path, advice: str) -> Rope:  # noqa: ANN401 - a config of transformers
    given = dict(getattr(config, "rope_parameters", None) or {})
    theta = given.pop("rope_theta", None)
    kind = given.pop("rope_type", given.pop("type", "default")) or "default"
    given.pop("type", None)
    if given.pop("partial_rotary_factor", 1.0) not in (None, 1.0):
        _refuse("only a part of its heads is rotated (partial_rotary_factor)", folder, advice)
    if kind not in _SCALINGS or (kind == "llama3" and model_type not in ("llama", "mistral")):
        _refuse(
            f"its positions are stretched by {kind!r}, which llama.cpp does not have for {model_type}", folder, advice
        )
    numbers = {key: value for key, value in given.items() if value is not None}
    unknown = sorted(set(numbers) - set(_SCALING_KEYS[kind]))
    if kind == "default":
        numbers, unknown = {}, []
    if unknown or not isinstance(theta, (int, float)):
        what = f"rope_parameters has {', '.join(unknown)}" if unknown else "rope_parameters has no rope_theta"
        _refuse(f"{what}, which is not written exactly", folder, advice)
    return Rope(theta=float(theta), kind=kind, settings={key: float(value) for key, value in numbers.items()})


def _refuse(why: str, folder: Path, advice: str) -> NoReturn:
    raise ConfigError(f"actune does not write the model in {folder} as GGUF: {why}", fix=advice)
