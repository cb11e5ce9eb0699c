"""The batch of a step whose loss or gradients are no finite numbers, in a folder `broken-step-N/` to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from actune.core.errors import CheckpointError, TrainingError
from actune.core.files import atomic_folder
from actune.data.pack import Batch
from actune.render.tree import TokenTree
from actune.training.checkpoint import latest
from actune.training.ranks import Ranks
from actune.training.step import StepInput, TrainStep

_FIELDS = ("input_ids", "positions", "end", "target_positions", "target_ids", "target_weights")
_NAMED = 20

Judge = Callable[[int], tuple[float, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenStep:
    """A step (counted from 1) and its rows; `plan[rank][micro_batch]` holds places in `rows`.

    `suspects`: rows of micro-batches of this process whose loss is not finite. `weights`: names of trained weights with
    gradients that are not finite.
    """

    step: int
    reason: Literal["loss", "gradients"]
    rows: Sequence[int]
    plan: Sequence[Sequence[Sequence[int]]]
    suspects: frozenset[int]
    weights: Sequence[str] = ()


def report_broken(
    broken: BrokenStep, trees: Sequence[TokenTree], *, judge: Judge, ranks: Ranks, run_dir: Path
) -> TrainingError:
    """Write `broken-step-N/` and return the error that names it; all processes call this together.

    `judge(row)` computes one row by itself, without dropout: its loss, and whether its gradients are finite. Each
    process judges the rows dealt to it.
    """
    own = {place for group in broken.plan[ranks.rank] for place in group}
    judged = [_judge(judge, row) if place in own else (0.0, 0.0) for place, row in enumerate(broken.rows)]
    count = len(broken.rows)
    marks = ranks.sum([float(row in broken.suspects) for row in broken.rows])
    found = ranks.sum([value for pair in judged for value in pair])
    losses, odd = found[0::2], [value > 0 for value in found[1::2]]
    suspects = [place for place in range(count) if odd[place]] or [place for place in range(count) if marks[place]]
    folder = run_dir / f"broken-step-{broken.step}"
    written = f"{folder} holds the batch"
    if ranks.leads:
        try:
            _write(folder, broken, trees, losses=losses, odd=odd)
        except CheckpointError as error:
            written = f"the batch could not be written ({error.message})"
    what = "the loss is no finite number" if broken.reason == "loss" else "the gradients are no finite numbers"
    named = [str(trees[broken.rows[place]].source) for place in suspects or range(count)]
    if any(odd):
        blame = "it comes from these rows"
    elif suspects:
        blame = "it comes from these rows or some of them, though each by itself and without dropout is well"
    else:
        blame = "each of its rows by itself and without dropout is well"
    return TrainingError(
        f"step {broken.step}: {what}; {blame}: {', '.join(named[:_NAMED])}{' ...' if len(named) > _NAMED else ''}. "
        f"{written}; no weight was changed by this step",
        fix="look at those rows (actune inspect); then start again without them, with a lower --learning_rate or with "
        "--dtype fp32. --resume auto goes on from the last checkpoint, which is intact, and comes to the same step",
    )


def explain_odd_step(reason: Literal["loss", "gradients"], *, step: int, sources: Sequence[str]) -> TrainingError:
    """Return the error for a step whose rows cannot be tried one by one: weights are spread over processes."""
    what = "the loss is no finite number" if reason == "loss" else "the gradients are no finite numbers"
    return TrainingError(
        f"step {step}: {what}; its rows: {', '.join(sources[:_NAMED])}{' ...' if len(sources) > _NAMED else ''}. No weight "
        "was changed by this step",
        fix="look at those rows (actune inspect); --fsdp false tries them one by one. Start again without them, with a "
        "lower --learning_rate or with --dtype fp32",
    )


def judge_row(
    module: TrainStep, batches: Iterable[Batch], parameters: Mapping[str, nn.Parameter], *, packed: bool, weight: float
) -> tuple[float, bool]:
    """Return the loss of a row by itself, without dropout, and whether its gradients are finite.

    `weight`: its sum of loss weights.
    """
    module.eval()
    losses = []
    for batch in batches:
        total, _ = module(StepInput.of(batch, next(module.parameters()).device, packed=packed))
        (total / weight).backward()
        losses.append(float(total.detach()))
    well = not find_odd_gradients(parameters)
    for parameter in parameters.values():
        parameter.grad = None
    return math.fsum(losses) / (weight or 1.0), well


def find_odd_gradients(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Return the names of weights whose gradients hold something that is no finite number."""
    return [
        name
        for name, weight in parameters.items()
        if weight.grad is not None and not bool(torch.isfinite(weight.grad).all())
    ]


def refuse_odd_weights(parameters: Mapping[str, Tensor], *, step: int, run_dir: Path) -> None:
    """Keep trained weights that are no finite numbers out of checkpoints, which would take the place of good ones.

    Raises:
        TrainingError: there are such weights.
    """
    odd = [name for name, weight in parameters.items() if not bool(torch.isfinite(weight).all())]
    if odd:
        newest = latest(run_dir)
        raise TrainingError(
            f"after step {step} {len(odd)} trained weights hold no finite numbers, {odd[0]} for one; they are not "
            f"saved. {f'The last checkpoint is {newest}' if newest is not None else 'There is no checkpoint'}",
            fix="start again with a lower --learning_rate or with --dtype fp32",
        )


def _judge(judge: Judge, row: int) -> tuple[float, float]:
    """Loss of a row, and 1 where it or a gradient is no finite number."""
    try:
        loss, well = judge(row)
    except (RuntimeError, MemoryError):  # the step is lost anyway; what is known of it is still written
        return math.nan, 0.0
    return loss, float(not well or not math.isfinite(loss))


def _write(
    folder: Path, broken: BrokenStep, trees: Sequence[TokenTree], *, losses: Sequence[float], odd: Sequence[bool]
) -> None:
    where = {
        place: (rank, micro)
        for rank, groups in enumerate(broken.plan)
        for micro, group in enumerate(groups)
        for place in group
    }
    rows = []
    for place, row in enumerate(broken.rows):
        tree = trees[row]
        rank, micro = where[place]
        rows.append(
            {
                "source": {"file": tree.source.file, "line": tree.source.line},
                "tensors": str(place),
                "process": rank,
                "micro_batch": micro,
                "tokens": len(tree),
                "targets": len(tree.target_ids),
                "loss": _say_number(losses[place]),
                "finite": not odd[place],
            }
        )
    content: dict[str, Any] = {
        "version": 1,
        "step": broken.step,
        "reason": broken.reason,
        "settings": "../run.json",
        "odd_gradients": list(broken.weights),
        "rows": rows,
    }
    tensors = {
        f"{place}/{name}": np.ascontiguousarray(getattr(trees[row], name))
        for place, row in enumerate(broken.rows)
        for name in _FIELDS
    }
    with atomic_folder(folder) as partial:
        save_file(tensors, partial / "rows.safetensors")
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        (partial / "batch.json").write_text(text + "\n", encoding="utf-8")


def _say_number(value: float) -> float | str:
    """JSON has no NaN and no infinity; they are written as text."""
    return value if math.isfinite(value) else str(value)
