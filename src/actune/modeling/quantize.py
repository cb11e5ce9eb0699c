"""QLoRA: frozen base weights in 4 bits (NF4, arXiv:2305.14314) through bitsandbytes, and what was trained on top of them.

A base in 4 bits is another model than the one it was made from. So an adapter that was trained on it says so in a file of
its own, and whoever loads or merges the adapter gets the base that it was trained on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from actune.config.extras import require_package
from actune.config.settings import TuningSettings
from actune.core.errors import ConfigError, ModelError

FILE = "base_quantization.json"
_VERSION = 1
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Linear layers of the blocks in 4 bits (NF4, blocks of 64 weights), everything else in `dtype`.

    Products are computed in `dtype` too. `double_quant`: the scales of the blocks are quantised as well, which saves
    0.4 bits a weight.
    """

    dtype: str
    double_quant: bool = True

    @classmethod
    def of(cls, tuning: TuningSettings, dtype: torch.dtype) -> Quantization | None:
        """Return what the settings ask for, None for a base that is not quantised."""
        if not tuning.quant_bits:
            return None
        return cls(dtype=str(dtype).removeprefix("torch."), double_quant=tuning.bnb_4bit_use_double_quant)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return _DTYPES[self.dtype]

    def to_config(self) -> BitsAndBytesConfig:
        """Return it as transformers wants it."""
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=self.torch_dtype,
        )


def require_bitsandbytes(device: torch.device) -> Any:  # noqa: ANN401 - a module
    """Return the bitsandbytes module, which must be able to compute on a device.

    Raises:
        MissingExtraError: it is not installed.
        ConfigError: it does not know this kind of device.
    """
    require_package("bitsandbytes", extra="qlora", what="a base model in 4 bits")
    bitsandbytes: Any = import_module("bitsandbytes")
    known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if device.type not in known:
        raise ConfigError(
            f"bitsandbytes {bitsandbytes.__version__} has no 4-bit products for {device.type}; it has them for "
            f"{', '.join(sorted(known))}",
            fix="leave --quant_bits out, or use another device",
        )
    return bitsandbytes


def refuse_quantized(folder: Path) -> None:
    """Check that the weights of a model folder are not quantised already.

    Raises:
        ModelError: they are, so that they cannot be quantised again.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # loading says what is wrong
    found = config.get("quantization_config") if isinstance(config, dict) else None
    if found:
        kind = found.get("quant_method", "unknown") if isinstance(found, dict) else "unknown"
        raise ModelError(
            f"the weights in {folder} are quantised already ({kind})",
            fix="leave --quant_bits out, or use the model with full weights",
        )


def mark_quantized(model: PreTrainedModel, quantization: Quantization) -> None:
    """Note on a freshly loaded model how it was quantised, and keep bitsandbytes from rounding it further.

    On processors with bfloat16 units, bitsandbytes repacks weights at the first forward pass without gradients, with the
    scales of the blocks rounded to bfloat16: the model that is measured would no longer be the one that was trained.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    model.actune_quantization = quantization  # type: ignore[assignment]


def quantization_of(model: nn.Module) -> Quantization | None:
    """Return how a model was quantised when it was loaded, None if it was not."""
    found = getattr(model, "actune_quantization", None)
    return found if isinstance(found, Quantization) else None


def count_weights(model: nn.Module) -> int:
    """Return the number of weights of a model; those in 4 bits are packed by two."""
    return sum(weight.numel() * (2 if _is_packed(weight) else 1) for weight in model.parameters())


def _is_packed(weight: torch.Tensor) -> bool:
    return type(weight).__name__ == "Params4bit" and weight.dtype == torch.uint8


def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a quantised model into the plain model it computes as: the 4-bit weights written out in its dtype."""
    quantization = quantization_of(model)
    assert quantization is not None
    functional = require_bitsandbytes(model.device).functional
    for name, layer in [(name, layer) for name, layer in model.named_modules() if _is_quantized(layer)]:
        packed: Any = layer
        weight = functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state)
        transposed = getattr(packed, "source_cls", nn.Linear) is Conv1D
        with torch.device("meta"):
            plain: Any = (
                Conv1D(packed.out_features, packed.in_features)
                if transposed
                else nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
            )
        weight = weight.to(quantization.torch_dtype)
        plain.weight = nn.Parameter(weight.T.contiguous() if transposed else weight)
        plain.bias = packed.bias
        model.set_submodule(name, plain)
    # What would make transformers and peft take it for a quantised one.
    for name in ("hf_quantizer", "is_loaded_in_4bit", "is_quantized", "quantization_method", "actune_quantization"):
        if name in vars(model):
            delattr(model, name)
    for config in (model.config, model.config.get_text_config()):
        if "quantization_config" in vars(config):
            delattr(config, "quantization_config")
    return model


def _is_quantized(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and _is_packed(layer.weight)


def write_quantization(folder: Path, quantization: Quantization) -> None:
    """Say beside an adapter which base it was trained on."""
    content = {"version": _VERSION, "quant_method": "bnb", "quant_bits": 4, "quant_type": "nf4", **asdict(quantization)}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_quantization(folder: Path) -> Quantization | None:
    """Return how the base of a saved adapter was quantised, None if it was not.

    Raises:
        ModelError: the file is damaged or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = {name: content[name] for name in ("version", "quant_method", "quant_bits", "quant_type")}
        found = Quantization(dtype=content["dtype"], double_quant=content["double_quant"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error!r}", fix="restore it from a copy of the adapter") from error
    known = {"version": _VERSION, "quant_method": "bnb", "quant_bits": 4, "quant_type": "nf4"}
    if kind != known or found.dtype not in _DTYPES or not isinstance(found.double_quant, bool):
        raise ModelError(f"{path} names a quantisation that this version does not know", fix="use a newer actune")
    return found
