"""A GGUF file read back: by transformers always, by llama.cpp's Python binding where it is installed."""

from __future__ import annotations

import io
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.utils import logging as transformers_logging

from actune.core.errors import ModelError
from actune.exporting.gguf import Written
from actune.modeling.load import load_model
from actune.modeling.merge import probe_ids
from actune.modeling.tokenizer_check import probe_texts
from actune.render.tokenizer import TextTokenizer

# Largest relative difference of logits that the type of the file explains; None: not a bit.
_TOLERANCE = {"f32": 0.0, "bf16": 5e-2, "f16": 1e-2, "q8_0": 1e-1}
# llama.cpp adds up in another order, and its kernels round activations in types below f32.
_LLAMA_CPP = {"f32": 1e-4, "bf16": 5e-2, "f16": 2e-2, "q8_0": 1e-1}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufCheck:
    """What came of reading a GGUF file back.

    `difference` is the largest difference of logits relative to the largest logit, in fp32, between the file and the
    weights that it was written from. `with_config` says that transformers needs the config.json beside it. `tokenizer` is
    the first text that transformers' tokenizer of the file alone encodes otherwise. The last two are None without
    llama.cpp's binding, `llama_cpp_ids` also where it gives the same ids.
    """

    difference: float
    with_config: bool
    tokenizer: str | None
    llama_cpp: float | None = None
    llama_cpp_ids: str | None = None


def check_gguf(written: Written, source: Path, tokenizer: TextTokenizer, *, lossless: bool) -> GgufCheck:
    """Load a GGUF file again and compare it with the safetensors of `source`.

    Raises:
        ModelError: the logits differ by more than the type of the file explains (by anything, if `lossless`), or it
            cannot be loaded.
    """
    ids = probe_ids(int(AutoConfig.from_pretrained(source, local_files_only=True).vocab_size))
    expected = _compute(load_model(source, dtype=torch.float32, device=torch.device("cpu")), ids)
    allowed = 0.0 if lossless else _TOLERANCE[written.type]
    difference, with_config = _read_alone(written.path, ids, expected, allowed), False
    if difference is None:
        difference, with_config = _distance(_compute(load_gguf(written.path, source), ids), expected), True
    if not difference <= allowed:
        raise ModelError(
            f"{written.path.name}, read by transformers, differs from the model: relative difference of logits "
            f"{difference:.1e}, allowed {allowed:.0e} for {written.type}; it is not kept",
            fix="report the config.json",
        )
    found = _compare_tokenizer(written.path, tokenizer)
    if find_spec("llama_cpp") is None:
        return GgufCheck(difference=difference, with_config=with_config, tokenizer=found)
    measured, other = ask_llama_cpp(written.path, ids[0], expected[0], tokenizer)
    if not measured <= _LLAMA_CPP[written.type]:
        raise ModelError(
            f"{written.path.name}, read by llama.cpp, differs from the model: relative difference of logits "
            f"{measured:.1e}, allowed {_LLAMA_CPP[written.type]:.0e} for {written.type}; it is not kept",
            fix="report the config.json and the version of llama-cpp-python",
        )
    return GgufCheck(
        difference=difference, with_config=with_config, tokenizer=found, llama_cpp=measured, llama_cpp_ids=other
    )


def _read_alone(path: Path, ids: torch.Tensor, expected: torch.Tensor, allowed: float) -> float | None:
    """Return the difference when transformers is given nothing but the file; None where it reads another model."""
    try:
        difference = _distance(_compute(load_gguf(path, None), ids), expected)
    except (RuntimeError, ValueError, KeyError):
        return None  # of another size than it says: transformers 5 does not read all keys
    return difference if difference <= allowed else None


def load_gguf(path: Path, source: Path | None) -> torch.nn.Module:
    """Load a GGUF file with transformers in fp32, with the config of `source` or by what the file itself says."""
    options: dict[str, Any] = {}
    if source is not None:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=True)
        if config.model_type == "mistral":  # gguf knows no such architecture; without a window it is Llama
            given = {
                key: value for key, value in config.to_dict().items() if key not in ("model_type", "sliding_window")
            }
            config = LlamaConfig(**given)
        options["config"] = config
    with _quiet():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True, **options
            )
        except ImportError as error:
            raise ModelError(
                f"transformers cannot read GGUF here: {error}", fix="pip install 'actune[gguf]' accelerate"
            ) from error
    return model.eval()


def _compute(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def _distance(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


def _compare_tokenizer(path: Path, tokenizer: TextTokenizer) -> str | None:
    with tempfile.TemporaryDirectory() as name, _quiet():
        alone = Path(name) / path.name
        alone.symlink_to(path.resolve())
        try:
            loaded: Any = AutoTokenizer.from_pretrained(name, gguf_file=path.name, local_files_only=True)
        except Exception as error:  # noqa: BLE001 - what was written is right or not, whatever transformers makes of it
            return f"it is not loaded: {type(error).__name__}: {error}"
        return _find_difference(lambda text: list(loaded(text, add_special_tokens=False)["input_ids"]), tokenizer)


def _find_difference(encode: Callable[[str], list[int]], tokenizer: TextTokenizer) -> str | None:
    for text in probe_texts([tokenizer]):
        if not unicodedata.is_normalized("NFC", text):
            continue  # a notice of its own
        wanted, got = tokenizer.encode(text), encode(text)
        if wanted != got:
            place = next((at for at, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), 0)
            return f"{text[:80]!r} is {got[place : place + 4]} instead of {wanted[place : place + 4]} from token {place} on"
    return None


def ask_llama_cpp(
    path: Path, ids: torch.Tensor, expected: torch.Tensor, tokenizer: TextTokenizer
) -> tuple[float, str | None]:
    """Return (relative difference of the logits of `ids` [n], first text with other ids) as llama.cpp has them.

    `expected` are logits [n, vocabulary] in fp32.

    Raises:
        ModelError: llama.cpp does not load the file.
    """
    import numpy as np

    llama_cpp: Any = import_module("llama_cpp")  # not in any extra: it is built from source

    f32 = 0  # ggml_type; keys and values are kept in f16 otherwise
    try:
        model: Any = llama_cpp.Llama(
            str(path), n_ctx=len(ids), logits_all=True, verbose=False, type_k=f32, type_v=f32, flash_attn=False
        )
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"llama.cpp does not load {path.name}: {error}", fix="report the config.json") from error
    try:
        model.eval(ids.tolist())
        logits = torch.from_numpy(np.array(model.scores[: len(ids)]))
        other = _find_difference(
            lambda text: list(model.tokenize(text.encode(), add_bos=False, special=True)), tokenizer
        )
    finally:
        model.close()
    return _distance(logits, expected), other


@contextmanager
def _quiet() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            yield
    finally:
        transformers_logging.set_verbosity(before)
