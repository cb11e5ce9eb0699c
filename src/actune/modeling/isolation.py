"""Whether a model keeps packed rows and branches apart: tried on the model itself, not looked up by name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from actune.core.errors import ModelError
from actune.core.types import Source
from actune.data.pack import Batch, pack
from actune.modeling.attention import ATTENTION, Layout, use_attention
from actune.modeling.varlen import give_up_kernel
from actune.render.tree import TokenTree

# Parents of the tokens of three rows: a line, a tree with two levels of branches, a line.
_ROWS = (
    (-1, 0, 1, 2, 3, 4, 5),
    (-1, 0, 1, 2, 3, 4, 3, 6, 7, 1, 9, 10),
    (-1, 0, 1, 2, 3, 4, 5, 6),
)
# Largest relative difference (Euclidean norm) that rounding may cause. Alone and packed use other shapes and kernels,
# so bf16 and fp16 (8 and 11 bits) round differently in every layer; with the same shapes nearly nothing differs.
_ALONE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ALONE_HALF = 5e-2
_SAME_SHAPE = {torch.float32: 1e-5, torch.float64: 1e-5}
_SAME_SHAPE_HALF = 1e-2


def prepare_packing(model: PreTrainedModel) -> str | None:
    """Switch a model to packed attention if it keeps packed rows apart; else leave it as it is and return why not.

    Two things are tried on three short rows, one of them branching: each sequence has the same logits packed as alone
    under the model's own attention, and changing one row or branch leaves all others as they were.
    """
    training = model.training
    model.eval()
    try:
        reason = _try_out(model)
        # The kernel of an accelerator is one way to the same result; without it there is another.
        if reason is not None and model.device.type != "cpu" and give_up_kernel():
            reason = _try_out(model)
    finally:
        model.train(training)
    if reason is None:
        use_attention(model, ATTENTION)
    return reason


def _try_out(model: PreTrainedModel) -> str | None:
    try:
        return _find_leak(model)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        return f"the packed forward pass fails: {error}"


def probe_batch(model: PreTrainedModel) -> Batch:
    """Return three short rows of random tokens, one of them branching, side by side, with a target on each token."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    return pack([_row(parents, seed, vocabulary) for seed, parents in enumerate(_ROWS)])


@torch.no_grad()
def _find_leak(model: PreTrainedModel) -> str | None:
    vocabulary = int(model.config.get_text_config().vocab_size)
    batch = probe_batch(model)
    paths = [np.flatnonzero((np.arange(len(batch)) <= leaf) & (batch.end > leaf)) for leaf in _leaves(batch)]
    alone = [_run(model, batch.input_ids[path], None, None) for path in paths]
    own = use_attention(model, ATTENTION)
    try:
        layout = Layout.of(batch, model.device)
        packed = _run(model, batch.input_ids, batch.positions, layout)
        if len(layout.windows) == 0:
            return "its attention layers do not use the packed attention function"
        if (fault := _find_window_fault(model, layout)) is not None:
            return fault
        bound = _ALONE.get(model.dtype, _ALONE_HALF)
        for path, reference in zip(paths, alone, strict=True):
            if (gap := _distance(packed[path], reference)) > bound:
                return f"a packed row differs from the same row alone by {gap:.1e} (at most {bound:.0e})"
        bound = _SAME_SHAPE.get(model.dtype, _SAME_SHAPE_HALF)
        for start, stop in ((0, len(_ROWS[0])), (len(_ROWS[0]) + 4, len(_ROWS[0]) + 6)):
            ids = batch.input_ids.copy()
            ids[start:stop] = (ids[start:stop] + 1) % vocabulary
            others = np.r_[0:start, stop : len(batch)]
            if (gap := _distance(_run(model, ids, batch.positions, layout)[others], packed[others])) > bound:
                return f"a packed row changes by {gap:.1e} with the content of another (at most {bound:.0e})"
    finally:
        use_attention(model, own)
    return None


def _find_window_fault(model: PreTrainedModel, layout: Layout) -> str | None:
    """Compare the windows that layers asked for with the config: the rows tried are too short to show them."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    for layer, asked in layout.windows.items():
        kind = kinds[layer] if kinds is not None else ("sliding_attention" if window else "full_attention")
        if kind not in ("full_attention", "sliding_attention"):
            return f"layer {layer} uses {kind}, which packed attention does not have"
        if asked != (window if kind == "sliding_attention" else None):
            return f"layer {layer} asks for a window of {asked}, its config says {window} ({kind})"
    if getattr(config, "attention_chunk_size", None) and kinds is None:
        return "it attends in chunks, which packed attention does not have"
    return None


def _row(parents: tuple[int, ...], seed: int, vocabulary: int) -> TokenTree:
    count = len(parents)
    positions, end = np.zeros(count, np.int32), np.arange(1, count + 1, dtype=np.int32)
    for token in range(1, count):
        positions[token] = positions[parents[token]] + 1
    for token in reversed(range(1, count)):
        end[parents[token]] = max(end[parents[token]], end[token])
    everywhere = np.arange(count, dtype=np.int32)  # a target on each token: nothing is trimmed
    return TokenTree(
        input_ids=np.random.default_rng(seed).integers(0, vocabulary, count, dtype=np.int32),
        positions=positions,
        end=end,
        target_positions=everywhere,
        target_ids=np.zeros(count, np.int32),
        target_weights=np.ones(count, np.float32),
        source=Source(file="isolation test", line=seed + 1),
    )


def _leaves(batch: Batch) -> list[int]:
    return [int(leaf) for leaf in np.flatnonzero(batch.end == np.arange(1, len(batch) + 1))]


def _run(model: PreTrainedModel, ids: np.ndarray, positions: np.ndarray | None, layout: Layout | None) -> Tensor:
    inputs: dict[str, object] = {"input_ids": torch.from_numpy(ids).long()[None].to(model.device), "use_cache": False}
    if layout is not None and positions is not None:
        inputs["position_ids"] = torch.from_numpy(positions).long()[None].to(model.device)
        inputs["actune_layout"] = layout
    logits = model(**inputs).logits[0].float()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model gives logits that are no finite numbers")
    return logits


def _distance(found: Tensor, reference: Tensor) -> float:
    """The largest relative difference of a position."""
    gap = torch.linalg.vector_norm(found - reference, dim=-1)
    return float((gap / torch.linalg.vector_norm(reference, dim=-1).clamp_min(1e-30)).max())
