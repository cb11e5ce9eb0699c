"""Export of a merged model: adapter worked into the weights, written as an ordinary model folder, compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from actune.core.errors import ModelError
from actune.core.files import atomic_folder
from actune.modeling.adapters import load_adapter, merge_adapter, quiet_peft
from actune.modeling.load import load_model, pick_device, release_memory
from actune.modeling.quantize import dequantize, read_quantization

# Largest relative difference of logits that rounding explains, by stored number format.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def export_merged(
    base: Path, adapter: Path, out: Path, *, verify: bool, copy_tokenizer: Callable[[Path], None]
) -> float | None:
    """Merge the adapter of a folder into its base model and write the result to `out`, in the base's own dtype.

    An adapter that was trained on a quantised base is merged into what that base computes as: its 4-bit weights written
    out, in the dtype it was trained in. Into the full weights it would not fit exactly.

    With `verify`, the written folder is loaded again and its logits are compared with those of base + adapter;
    returns the largest difference relative to the largest logit, else None.

    Raises:
        ModelError: base or adapter cannot be loaded, or the logits differ by more than rounding explains.
    """
    quantization = read_quantization(adapter)
    dtype = _stored_dtype(base) if quantization is None else quantization.torch_dtype
    # Quantised again where it is trained, since other devices may round a few weights otherwise.
    device = torch.device("cpu") if quantization is None else pick_device()
    model = load_model(base, dtype=dtype, device=device, quantization=quantization)
    adapted = load_adapter(model, adapter, base=base)
    probe = _probe(int(model.config.get_text_config().vocab_size)).to(device)
    with torch.no_grad():
        expected = adapted.eval()(input_ids=probe, use_cache=False).logits.float() if verify else None
    if quantization is not None:
        del adapted, model  # two models need not fit side by side
        release_memory()
        model = dequantize(load_model(base, dtype=dtype, device=device, quantization=quantization))
        adapted = load_adapter(model, adapter, base=base)
    with quiet_peft():
        merged = merge_adapter(adapted)
    with atomic_folder(out) as partial, quiet_peft():
        merged.save_pretrained(partial)
        copy_tokenizer(partial)
    if expected is None:
        return None
    with torch.no_grad():
        written = load_model(out, dtype=dtype, device=device)(input_ids=probe, use_cache=False).logits.float()
    difference = float((written - expected).abs().max() / expected.abs().max())
    if not difference <= _TOLERANCE[dtype]:
        raise ModelError(
            f"the merged model in {out} differs from the adapter model: relative difference of logits {difference:.1e}, "
            f"allowed {_TOLERANCE[dtype]:.0e} for {dtype}",
            fix="do not use it; report the model type and the adapter_config.json",
        )
    return difference


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that a model's config names, fp32 where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return torch.float32  # load_model explains what is wrong with the file
    name = config.get("dtype") or config.get("torch_dtype") if isinstance(config, dict) else None
    found = getattr(torch, str(name), None)
    return found if found in _TOLERANCE else torch.float32


def _probe(vocabulary: int) -> torch.Tensor:
    """Return ids [2, 32] spread over the vocabulary; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (2, 32), generator=generator)
