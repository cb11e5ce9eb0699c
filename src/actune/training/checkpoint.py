"""Checkpoints: `checkpoint-N/` with weights, optimiser state and `state.json`; whole or not there, no pickles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actune.core.errors import CheckpointError, ModelError
from actune.core.files import atomic_folder
from actune.modeling.adapters import adapter_tensors, unwrap, write_adapter
from actune.modeling.load import load_model
from actune.training.optimizer import read_state, write_state

_VERSION = 1
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`state.json`: `step` steps are done and `rows` rows consumed; `best_step`, `best_loss` of the saved ones."""

    step: int
    rows: int
    step_size: int
    seed: int
    fingerprint: str
    settings: Mapping[str, Any]
    scaler: Mapping[str, Any]
    best_step: int | None = None
    best_loss: float | None = None
    version: int = _VERSION


def write_weights(model: nn.Module, folder: Path, save_extra: Callable[[Path], None]) -> None:
    """Write what was trained into an existing folder: the two adapter files, or the whole model."""
    if isinstance(model, PeftModel):
        write_adapter(model, folder)
    else:
        unwrap(model).save_pretrained(folder)
    save_extra(folder)


def save_checkpoint(
    run_dir: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    state: State,
    limit: int,
    save_extra: Callable[[Path], None],
) -> Path:
    """Write `checkpoint-<step>/`, point `last` and `best` at it, and remove what is over the limit.

    Raises:
        CheckpointError: it cannot be written; the earlier ones are intact.
    """
    final = run_dir / f"checkpoint-{state.step}"
    with atomic_folder(final) as partial:
        weights = partial if isinstance(model, PeftModel) else partial / "model"
        weights.mkdir(exist_ok=True)
        write_weights(model, weights, save_extra)
        save_file(read_state(optimizer, parameters), partial / "optimizer.safetensors", metadata={"format": "pt"})
        text = json.dumps(asdict(state), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "state.json").write_text(text + "\n", encoding="utf-8")
    _point(run_dir / "last", final.name)
    if state.best_step is not None:
        _point(run_dir / "best", f"checkpoint-{state.best_step}")
    _remove_old(run_dir, keep=state.best_step, limit=limit)
    return final


def latest(run_dir: Path) -> Path | None:
    """Return the checkpoint with the most steps, or None."""
    found = _list(run_dir)
    return found[max(found)] if found else None


def read_checkpoint(folder: Path) -> State:
    """Read `state.json` of a checkpoint.

    Raises:
        CheckpointError: it is missing, unreadable or of another version.
    """
    path = folder / "state.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no checkpoint: state.json is missing", fix="give a folder named checkpoint-N of a run"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", fix="resume from an earlier checkpoint") from error
    known = {field.name for field in fields(State)}
    if not isinstance(values, dict) or values.get("version") != _VERSION or set(values) != known:
        raise CheckpointError(f"{path} was written by another version of actune", fix="resume with that version")
    return State(**values)


def load_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> State:
    """Put weights and optimiser state of a checkpoint back; the model must be built the same way.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit this model.
    """
    state = read_checkpoint(folder)
    if isinstance(model, PeftModel):
        tensors = _read(folder / "adapter_model.safetensors")
        _check_same(adapter_tensors(model), tensors, folder / "adapter_model.safetensors")
        set_peft_model_state_dict(model, tensors)
    else:
        try:
            source = load_model(folder / "model", dtype=torch.float32, device=torch.device("cpu")).state_dict()
        except ModelError as error:
            raise CheckpointError(error.message, fix="resume from an earlier checkpoint") from error
        _check_same(unwrap(model).state_dict(), source, folder / "model")
        unwrap(model).load_state_dict(source)
    path = folder / "optimizer.safetensors"
    write_state(optimizer, parameters, _read(path), str(path))
    return state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", fix="resume from an earlier checkpoint") from error


def _check_same(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    odd = sorted(set(wanted) ^ set(found))
    if odd:
        side = "lacks" if odd[0] in wanted else "has, unlike this model,"
        raise CheckpointError(
            f"{path} {side} {odd[0]} ({len(odd)} such)", fix="resume with the model and LoRA settings of that run"
        )
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, this model's is {tuple(tensor.shape)}",
                fix="resume with the model and LoRA settings of that run",
            )


def _list(run_dir: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in run_dir.glob("checkpoint-*") if path.is_dir())
    return {int(match.group(1)): path for match, path in matches if match is not None}


def _point(link: Path, name: str) -> None:
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(name)
        partial.replace(link)
    except OSError:
        # A file system without links: state.json of the newest checkpoint names the best one.
        partial.unlink(missing_ok=True)


def _remove_old(run_dir: Path, *, keep: int | None, limit: int) -> None:
    found = _list(run_dir)
    for step in sorted(found, reverse=True)[limit:]:
        if step != keep:
            # Renamed first, so that an interrupted removal leaves nothing that looks like a checkpoint.
            doomed = found[step].rename(run_dir / f".{found[step].name}.partial")
            shutil.rmtree(doomed, ignore_errors=True)
