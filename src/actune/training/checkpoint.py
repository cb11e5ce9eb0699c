"""Checkpoints: `checkpoint-N/` with weights, optimiser state, `state.json` and checksums; whole or not there, no pickles."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actune.core.errors import CheckpointError, ModelError
from actune.core.files import atomic_folder
from actune.modeling.adapters import adapter_tensors, unwrap, write_adapter
from actune.modeling.load import load_model
from actune.training.checksums import FILE as CHECKSUMS
from actune.training.checksums import find_damage, write_checksums
from actune.training.optimizer import place_like, read_state, write_state
from actune.training.shards import Whole

# Version 1 had no checksums, version 2 knew no metric but the loss; both are still read.
_VERSION = 3
# Settings with which another value can go on from a checkpoint. The accumulation may change against the number of
# processes: the step size is compared as a whole.
_FREE = frozenset(
    {
        "fsdp",
        "batch_size",
        "gradient_accumulation_steps",
        "eval_batch_size",
        "gradient_checkpointing",
        "micro_batch_tokens",
    }
)
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`state.json`: `step` steps are done and `rows` rows consumed.

    `best_step`, `best_value`: the best of the saved ones by `metric`; `top` the best value of all evaluations, `stale`
    how many there were since the last that improved (`stopping.Judge`).

    `cuts`: where micro-batches became smaller because they did not fit (`recovery.Cut`).
    """

    step: int
    rows: int
    step_size: int
    seed: int
    fingerprint: str
    settings: Mapping[str, Any]
    scaler: Mapping[str, Any]
    best_step: int | None = None
    best_value: float | None = None
    metric: str = "loss"
    top: float | None = None
    stale: int = 0
    cuts: Sequence[Mapping[str, Any]] = ()
    version: int = _VERSION


def write_weights(
    model: nn.Module, folder: Path, save_extra: Callable[[Path], None], whole: Whole | None = None
) -> None:
    """Write what was trained into an existing folder: the two adapter files, or the whole model.

    `whole`: the weights, where the model is spread over processes.
    """
    if isinstance(model, PeftModel):
        write_adapter(model, folder)
    else:
        unwrap(model).save_pretrained(folder, state_dict=dict(whole.weights) if whole is not None else None)
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
    whole: Whole | None = None,
) -> Path:
    """Write `checkpoint-<step>/`, point `last` and `best` at it, and remove what is over the limit.

    Raises:
        CheckpointError: it cannot be written; the earlier ones are intact.
    """
    final = run_dir / f"checkpoint-{state.step}"
    with atomic_folder(final) as partial:
        weights = partial if isinstance(model, PeftModel) else partial / "model"
        weights.mkdir(exist_ok=True)
        write_weights(model, weights, save_extra, whole)
        moments = dict(whole.optimizer) if whole is not None else read_state(optimizer, parameters)
        save_file(moments, partial / "optimizer.safetensors", metadata={"format": "pt"})
        text = json.dumps(asdict(state), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "state.json").write_text(text + "\n", encoding="utf-8")
        write_checksums(partial)
    _point_all(run_dir, state)
    _remove_old(run_dir, state, limit=limit)
    return final


# --- which one to go on from ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The checkpoint to go on from, None where a run has none yet; `notices` say what was passed over, and why."""

    folder: Path | None
    notices: tuple[str, ...]


def latest(run_dir: Path) -> Path | None:
    """Return the checkpoint with the most steps, sound or not, or None."""
    found = _list(run_dir)
    return found[max(found)] if found else None


def find_newest(run_dir: Path) -> Found:
    """Return the newest sound checkpoint of a run.

    Raises:
        CheckpointError: there are checkpoints, but none is sound: a run never starts again from zero by itself.
    """
    found = _list(run_dir)
    notices: list[str] = []
    for step in sorted(found, reverse=True):
        problems, notice = _inspect(found[step])
        if not problems:
            return Found(folder=found[step], notices=(*notices, *notice))
        notices.append(f"{found[step]} is damaged and passed over: {_shorten(problems)}.")
    if notices:
        raise CheckpointError(
            f"no checkpoint in {run_dir} is sound:\n  " + "\n  ".join(notices),
            fix="restore one from a copy, or start again in another folder (or with --overwrite)",
        )
    return Found(folder=None, notices=())


def require_sound(folder: Path) -> tuple[str, ...]:
    """Check one checkpoint, by its checksums where it has them; returns what there is to say about it.

    Raises:
        CheckpointError: it is damaged or no checkpoint; the message names the sound ones beside it.
    """
    problems, notices = _inspect(folder)
    if problems:
        others = [path.name for _, path in sorted(_list(folder.parent).items()) if path.name != folder.name]
        sound = [name for name in others if not _inspect(folder.parent / name)[0]]
        raise CheckpointError(
            f"{folder} cannot be resumed from: {_shorten(problems)}",
            fix=f"resume from a sound one in {folder.parent}: {', '.join(sound)}"
            if sound
            else f"restore it from a copy; no other checkpoint in {folder.parent} is sound",
        )
    return notices


def go_on_after(run_dir: Path, folder: Path, state: State, *, limit: int) -> list[str]:
    """Make a run folder that of a run resumed from `folder`; returns what there is to say.

    Checkpoints with more steps are renamed: a later `--resume auto` would take them for this run's, and old ones are
    removed by their number. `last` and `best` point at what is resumed, and those over the limit go, in case the run
    was killed when it had come to neither.
    """
    notices = []
    for step, path in sorted(_list(run_dir).items()):
        if step > state.step:
            place = _free_name(run_dir / f"set-aside-{path.name}")
            path.rename(place)
            notices.append(f"{path.name} is later than the step resumed from; it is now {place}. Remove it at will.")
    if folder.resolve() == (run_dir / f"checkpoint-{state.step}").resolve():
        _point_all(run_dir, state)
        _remove_old(run_dir, state, limit=limit)
    return notices


def _inspect(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what makes a checkpoint unusable, and what there is to say about one that can be used."""
    try:
        state = read_checkpoint(folder)
    except CheckpointError as error:
        return (error.message,), ()
    if state.version > 1 or (folder / CHECKSUMS).exists():
        return find_damage(folder), ()
    problems = [f"{name} is missing" for name in ("optimizer.safetensors",) if not (folder / name).exists()]
    weights = [path for path in folder.rglob("*.safetensors") if path.name != "optimizer.safetensors"]
    problems += [] if weights else ["its weights are missing"]
    for path in (*weights, *folder.glob("optimizer.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            problems.append(f"{path.name} cannot be read: {error}")
    return tuple(problems), (f"{folder} was written without checksums; only its form was checked.",)


def _shorten(problems: tuple[str, ...]) -> str:
    return "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


# --- reading --------------------------------------------------------------------------------------------------------


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
    if isinstance(values, dict) and "best_loss" in values:
        values["best_value"] = values.pop("best_loss")
    known = {field.name for field in fields(State)}
    needed = {field.name for field in fields(State) if field.default is MISSING}
    if (
        not isinstance(values, dict)
        or values.get("version") not in range(1, _VERSION + 1)
        or not needed <= set(values) <= known
    ):
        raise CheckpointError(f"{path} was written by another version of actune", fix="resume with that version")
    return State(**(values | {"cuts": tuple(values.get("cuts", ()))}))


def list_differences(saved: State, now: State) -> list[str]:
    """Say which settings that change what a step computes differ between a checkpoint and this run."""
    found = []
    if saved.fingerprint != now.fingerprint:
        found.append("its data are others (fingerprint)")
    if saved.step_size != now.step_size:
        found.append(f"a step took {saved.step_size} rows, now {now.step_size}")
    for group in ("tuning", "training"):
        old, new = saved.settings.get(group), now.settings.get(group)
        old, new = old if isinstance(old, dict) else {}, new if isinstance(new, dict) else {}
        found += [
            f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
            for name in sorted(set(old) | set(new))
            if name not in _FREE and old.get(name) != new.get(name)
        ]
    return found


def load_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> State:
    """Put weights and optimiser state of a checkpoint back; the model must be built the same way.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit this model.
    """
    state = read_checkpoint(folder)
    load_weights(folder, model)
    path = folder / "optimizer.safetensors"
    write_state(optimizer, parameters, _read(path), str(path))
    return state


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint back into a model that is built the same way.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit this model.
    """
    if isinstance(model, PeftModel):
        tensors = _read(folder / "adapter_model.safetensors")
        _check_same(adapter_tensors(model), tensors, folder / "adapter_model.safetensors")
        set_peft_model_state_dict(model, tensors)
    else:
        try:
            source = load_model(folder / "model", dtype=torch.float32, device=torch.device("cpu")).state_dict()
        except ModelError as error:
            raise CheckpointError(error.message, fix="resume from an earlier checkpoint") from error
        present = unwrap(model).state_dict()
        _check_same(present, source, folder / "model")
        unwrap(model).load_state_dict({name: place_like(source[name], weight) for name, weight in present.items()})


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


# --- links and old ones ---------------------------------------------------------------------------------------------


def _point_all(run_dir: Path, state: State) -> None:
    for name, step in (("last", state.step), ("best", state.best_step)):
        target = f"checkpoint-{step}"
        if step is not None and (run_dir / target).is_dir():
            _point(run_dir / name, target)
        elif (run_dir / name).is_symlink():
            (run_dir / name).unlink()


def _point(link: Path, name: str) -> None:
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(name)
        partial.replace(link)
    except OSError:
        # A file system without links: state.json of the newest checkpoint names the best one.
        partial.unlink(missing_ok=True)


def _remove_old(run_dir: Path, state: State, *, limit: int) -> None:
    """Keep the `limit` newest up to the one just written, which is never removed, and the best."""
    found = {step: path for step, path in _list(run_dir).items() if step <= state.step}
    for step in sorted(found, reverse=True)[limit:]:
        if step != state.best_step:
            # Renamed first, so that an interrupted removal leaves nothing that looks like a checkpoint.
            doomed = found[step].rename(run_dir / f".{found[step].name}.partial")
            shutil.rmtree(doomed, ignore_errors=True)


def _free_name(path: Path) -> Path:
    tries = (path if count == 1 else path.with_name(f"{path.name}-{count}") for count in itertools.count(1))
    return next(place for place in tries if not place.exists())
