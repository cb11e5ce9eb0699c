"""From a folder to a model on a device: safetensors only, nothing initialised at random, no remote code unasked."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from actune.core.errors import ConfigError, ModelError
from actune.modeling.quantize import Quantization, mark_quantized, refuse_quantized, require_bitsandbytes

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def pick_device(index: int = 0) -> torch.device:
    """Return the accelerator torch finds (device `index` of this machine), else the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    if kind is None:
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if index >= count:
        raise ConfigError(
            f"process {index} of this machine has no {kind.type} device: there are {count}",
            fix=f"start at most {count} processes a machine (torchrun --nproc_per_node {count})",
        )
    return torch.device(kind.type, index)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of setting `dtype`; AUTO is bf16 where the accelerator has it, else fp32.

    Raises:
        ConfigError: fp16 on the CPU, where products of fp16 numbers overflow or are not implemented.
    """
    if name == "AUTO":
        return torch.bfloat16 if device.type != "cpu" and _has_bf16(device) else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("dtype fp16 needs an accelerator; this run is on the CPU", fix="use --dtype fp32 or bf16")
    return _DTYPES[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return bool((ones @ ones).float().sum().item() == 8)
    except (RuntimeError, TypeError):
        return False


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """Load a causal language model from a folder, in evaluation mode.

    With `quantization` its linear layers are quantised while they are read, and the rest has the dtype that it names.

    Switches off the progress bars of transformers for this process, here and for saving: in a log they are noise.

    Raises:
        ModelError: no config, no safetensors weights, an architecture that transformers does not have, remote code
            that was not asked for, weights that do not fill the model, or that are quantised already.
        ConfigError, MissingExtraError: this device, or this installation, has no 4-bit weights.
    """
    _check_config(folder, trust_remote_code=trust_remote_code)
    _check_weights(folder)
    options: dict[str, Any] = {"dtype": dtype}
    if quantization is not None:
        refuse_quantized(folder)
        require_bitsandbytes(device)
        options = {
            "dtype": quantization.torch_dtype,
            "quantization_config": quantization.to_config(),
            "device_map": {"": device},
        }
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    model, report = loaded
    _check_complete(folder, report)
    if quantization is not None:
        mark_quantized(model, quantization)
        return model.eval()
    return model.to(device).eval()


def outline_model(folder: Path, *, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build a model without its weights from `config.json` alone: every shape, no number (device `meta`).

    Raises:
        ModelError: no config, an architecture that transformers does not have, or remote code that was not asked for.
    """
    _check_config(folder, trust_remote_code=trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} describes no model that can be built: {error}") from error
    return model


def _check_config(folder: Path, *, trust_remote_code: bool) -> None:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"no model in {folder}: config.json is missing", fix="give the folder that holds config.json and weights"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    known = kind in CONFIG_MAPPING
    if known or (trust_remote_code and "auto_map" in config):
        return
    if isinstance(config, dict) and "auto_map" in config:
        raise ModelError(
            f"the model in {folder} ({kind}) comes with its own Python code, which is not run unasked",
            fix="use a model that transformers has itself, or read its code and set --trust_remote_code true",
        )
    raise ModelError(
        f"transformers {transformers.__version__} has no architecture {kind!r} (model_type in {path})",
        fix="use a newer transformers, or another model",
    )


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"the weights in {folder} are pickles ({pickles[0]}), which can run code when read; only safetensors are read",
            fix="convert them once, in a place you trust, with save_pretrained of transformers",
        )
    raise ModelError(f"no weights in {folder}: no file ends in .safetensors", fix="complete the download of the model")


def _check_complete(folder: Path, report: Any) -> None:  # noqa: ANN401 - a dict or an object, by version of transformers
    def read(name: str) -> list[Any]:
        return sorted(report.get(name) or () if isinstance(report, dict) else getattr(report, name, ()))

    missing, mismatched = read("missing_keys"), read("mismatched_keys")
    if missing or mismatched:
        first = missing[0] if missing else mismatched[0]
        raise ModelError(
            f"the weights in {folder} do not fill the model: {len(missing)} missing, {len(mismatched)} of another shape, "
            f"first {first}; transformers would fill them with random numbers",
            fix="complete the download, or check that config.json belongs to these weights",
        )


def release_memory() -> None:
    """Give back what no model uses any more, so that the next one has room."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
