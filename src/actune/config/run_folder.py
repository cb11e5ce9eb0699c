"""The folder of a run: who may write into it, what stands in run.json, and how later commands find their way back."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from actune import __version__
from actune.core.errors import ConfigError
from actune.core.files import atomic_text
from actune.core.types import Style

FILE = "run.json"
QUARANTINE = "quarantine.jsonl"
VERSION = 1
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "jinja2")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What run.json says about a run: where the base model lies, and how its text was written.

    `style` is the dialect of most rows with tools, None when there were none.
    """

    folder: Path
    model_dir: Path
    settings: Mapping[str, Any]
    date: datetime.date
    style: Style | None = None

    @property
    def adapter(self) -> Path | None:
        """The adapter folder, None after full fine-tuning."""
        folder = self.folder / "adapter"
        return folder if folder.is_dir() else None


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check, and change nothing, that a run may write into a folder.

    Raises:
        ConfigError: the folder is not empty and neither `resume` nor `overwrite` is set, `overwrite` would remove
            something that is no run, or nothing can be written there.
    """
    if folder.is_file():
        raise ConfigError(f"output_dir {folder} is a file", fix="give a folder with --output_dir")
    if folder.is_dir() and any(folder.iterdir()) and not ((resume or overwrite) and _is_cut_start(folder)):
        resumed = resume and (folder / FILE).is_file()
        if not overwrite and not resumed:
            raise ConfigError(
                f"output_dir {folder} is not empty" + (f" and holds no {FILE} to go on from" if resume else ""),
                fix="give another --output_dir, continue it with --resume auto, or replace it with --overwrite",
            )
        if overwrite and not (folder / FILE).is_file():
            raise ConfigError(
                f"output_dir {folder} holds no {FILE}, so it is not a run of actune and is not removed",
                fix="empty it yourself, or give another --output_dir",
            )
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(
            f"output_dir {folder} cannot be written: {place} is {'not writable' if place.is_dir() else 'a file'}",
            fix="give another --output_dir",
        )


def _is_cut_start(folder: Path) -> bool:
    """Whether a folder holds only what a run writes before its run.json: it was killed then, and nothing is lost."""
    names = [entry.name for entry in folder.iterdir()]
    return all(name == QUARANTINE or (name.startswith(".") and name.endswith(".partial")) for name in names)


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a run; with `overwrite`, and not to go on with it, an earlier run in it is removed.

    Raises:
        ConfigError: as `check_folder`.
    """
    check_folder(folder, resume=resume, overwrite=overwrite)
    if overwrite and not resume and folder.is_dir():
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir {folder} cannot be made: {error}", fix="give another --output_dir") from error


@contextmanager
def discard_failed_start(folder: Path, *, resume: bool) -> Iterator[None]:
    """Empty the folder of a new run again when the block fails before training wrote anything.

    So the corrected command can be given again as it was; what a resumed run or a training left is never touched.
    """
    try:
        yield
    except BaseException:
        entries = list(folder.iterdir()) if folder.is_dir() else []
        if not resume and {entry.name for entry in entries} <= {FILE, QUARANTINE}:
            for entry in entries:
                entry.unlink(missing_ok=True)
        raise


def write_run(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    model_dir: Path,
    date: datetime.date,
    fingerprint: str,
    sources: Sequence[Mapping[str, Any]],
    notices: Sequence[str],
    style: Style | None = None,
) -> None:
    """Write run.json at once or not at all."""
    versions = {"actune": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    content = {
        "version": VERSION,
        "date": date.isoformat(),
        "seed": settings["training"]["seed"],
        "model_dir": str(model_dir.resolve()),
        "settings": settings,
        **({"style": style} if style is not None else {}),
        "data": {"fingerprint": fingerprint, "sources": list(sources)},
        "notices": list(notices),
        "versions": versions,
        "platform": platform.platform(),
    }
    atomic_text(folder / FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_run(folder: Path) -> RunInfo | None:
    """Return what run.json of a folder says, None when there is none.

    Raises:
        ConfigError: the file is damaged or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ConfigError(f"{path} has version {content['version']}, known is {VERSION}", fix="use a newer actune")
        return RunInfo(
            folder=folder,
            model_dir=Path(content["model_dir"]),
            settings=content["settings"],
            date=datetime.date.fromisoformat(content["date"]),
            style=content.get("style"),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} cannot be read: {error!r}", fix="give the model folder instead of the run"
        ) from error
