"""From folders to an engine in this process: the base, quantised as it was trained on, and its adapter."""

from __future__ import annotations

from pathlib import Path

from actune.agents.engines.local import LocalEngine
from actune.core.errors import ConfigError
from actune.modeling.adapters import load_adapter
from actune.modeling.load import load_model, pick_device, pick_dtype
from actune.modeling.quantize import read_quantization
from actune.render.tokenizer import TextTokenizer


def load_engine(
    model_dir: Path,
    adapter: Path | None = None,
    *,
    dtype: str = "AUTO",
    batch_size: int = 8,
    cache_tokens: int = 16_384,
    trust_remote_code: bool = False,
    base_of: Path | None = None,
) -> LocalEngine:
    """Load a model folder, with an adapter if there is one, on the device that torch finds.

    A base that was quantised for the adapter is quantised again; so is the base alone with `base_of`, the folder of an
    adapter that is not put on it.

    Raises:
        ModelError, ConfigError: something cannot be loaded; the message says what and why.
    """
    device = pick_device()
    tokenizer = TextTokenizer.from_folder(model_dir)
    trained = adapter if adapter is not None else base_of
    quantization = read_quantization(trained) if trained is not None else None
    if quantization is not None and pick_dtype(dtype, device) != quantization.torch_dtype:
        dtype = _agree(dtype, quantization.dtype)
    base = load_model(
        model_dir,
        dtype=pick_dtype(dtype, device),
        device=device,
        trust_remote_code=trust_remote_code,
        quantization=quantization,
    )
    model = base if adapter is None else load_adapter(base, adapter, base=model_dir)
    return LocalEngine(model, tokenizer, batch_size=batch_size, cache_tokens=cache_tokens)


def _agree(dtype: str, trained: str) -> str:
    """Return the name of the dtype that a quantised base has to be loaded in: weights round to others in another."""
    wanted = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[trained]
    if dtype not in ("AUTO", wanted):
        raise ConfigError(
            f"the adapter was trained on a base quantised from {trained}; --dtype {dtype} would give another base",
            fix=f"use --dtype {wanted}, or leave it out",
        )
    return wanted
