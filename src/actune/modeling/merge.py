"""Export of a merged model: adapter worked into the weights, written as an ordinary model folder, compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actune.core.errors import ModelError
from actune.core.files import atomic_folder
from actune.modeling.adapters import load_adapter, merge_adapter, quiet_peft
from actune.modeling.load import load_model, pick_device, release_memory
from actune.modeling.quantize import dequantize, read_quantization

# Largest relative difference of logits that rounding explains, by stored number format.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a trained model computes: logits [2, 32, vocabulary] in fp32 of the ids [2, 32], and how it was loaded."""

    ids: torch.Tensor
    logits: torch.Tensor
    dtype: torch.dtype
    device: torch.device


def export_merged(
    base: Path, adapter: Path, out: Path, *, verify: bool, copy_tokenizer: Callable[[Path], None]
) -> float | None:
    """Merge the adapter of a folder into its base model as the folder `out`; see `write_merged` and `compare_merged`.

    Returns the largest difference relative to the largest logit with `verify`, else None.

    Raises:
        ModelError: base or adapter cannot be loaded, or the logits differ by more than rounding explains: then nothing is
            written.
    """
    with atomic_folder(out) as partial:
        reference = write_merged(base, adapter, partial, copy_tokenizer=copy_tokenizer, compare=verify)
        return None if reference is None else compare_merged(partial, reference)


def write_merged(
    base: Path, adapter: Path, folder: Path, *, copy_tokenizer: Callable[[Path], None], compare: bool
) -> Reference | None:
    """Merge the adapter of a folder into its base model and write the result into a folder, in the base's own dtype.

    An adapter that was trained on a quantised base is merged into what that base computes as: its 4-bit weights written
    out, in the dtype it was trained in. Into the full weights it would not fit exactly.

    With `compare`, returns what base + adapter compute.

    Raises:
        ModelError: base or adapter cannot be loaded.
    """
    quantization = read_quantization(adapter)
    dtype = stored_dtype(base) if quantization is None else quantization.torch_dtype
    # Quantised again where it is trained, since other devices may round a few weights otherwise.
    device = torch.device("cpu") if quantization is None else pick_device()
    model = load_model(base, dtype=dtype, device=device, quantization=quantization)
    adapted = load_adapter(model, adapter, base=base)
    reference = _refer(adapted, dtype=dtype, device=device) if compare else None
    if quantization is not None:
        del adapted, model  # two models need not fit side by side
        release_memory()
        model = dequantize(load_model(base, dtype=dtype, device=device, quantization=quantization))
        adapted = load_adapter(model, adapter, base=base)
    with quiet_peft():
        merged = merge_adapter(adapted)
        merged.save_pretrained(folder)
    copy_tokenizer(folder)
    return reference


def load_adapted(base: Path, adapter: Path) -> torch.nn.Module:
    """Load a base, quantised as it was trained on, with the adapter of a folder on it."""
    quantization = read_quantization(adapter)
    dtype = stored_dtype(base) if quantization is None else quantization.torch_dtype
    device = torch.device("cpu") if quantization is None else pick_device()
    model = load_model(base, dtype=dtype, device=device, quantization=quantization)
    return load_adapter(model, adapter, base=base).eval()


def refer_to(folder: Path) -> Reference:
    """Return what the model of a folder computes on the CPU in the dtype that it is stored in."""
    dtype, device = stored_dtype(folder), torch.device("cpu")
    return _refer(load_model(folder, dtype=dtype, device=device), dtype=dtype, device=device)


def compare_merged(folder: Path, reference: Reference) -> float:
    """Load a written model and return how far its logits are from the reference, relative to the largest logit.

    Raises:
        ModelError: it cannot be loaded, or they differ by more than rounding explains.
    """
    written = load_model(folder, dtype=reference.dtype, device=reference.device)
    with torch.no_grad():
        logits = written(input_ids=reference.ids, use_cache=False).logits.float()
    difference = float((logits - reference.logits).abs().max() / reference.logits.abs().max())
    if not difference <= _TOLERANCE[reference.dtype]:
        raise ModelError(
            f"the merged model differs from the adapter model: relative difference of logits {difference:.1e}, "
            f"allowed {_TOLERANCE[reference.dtype]:.0e} for {reference.dtype}; it is not kept",
            fix="report the model type and the adapter_config.json",
        )
    return difference


def _refer(model: torch.nn.Module, *, dtype: torch.dtype, device: torch.device) -> Reference:
    config: Any = model.config
    ids = probe_ids(int(config.get_text_config().vocab_size)).to(device)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits.float()
    return Reference(ids=ids, logits=logits, dtype=dtype, device=device)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that a model's config names, fp32 where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return torch.float32  # load_model explains what is wrong with the file
    name = config.get("dtype") or config.get("torch_dtype") if isinstance(config, dict) else None
    found = getattr(torch, str(name), None)
    return found if found in _TOLERANCE else torch.float32


def probe_ids(vocabulary: int) -> torch.Tensor:
    """Return ids [2, 32] spread over the vocabulary; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (2, 32), generator=generator)
