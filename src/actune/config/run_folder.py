"""The folder of a run: who may write into it, what stands in run.json, and how later commands find their way back."""

from __future__ import annotations

import datetime
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from actune import __version__
from actune.core.errors import ConfigError
from actune.core.files import atomic_text

FILE = "run.json"
VERSION = 1
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "jinja2")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What run.json says about a run: where the base model lies, and how its text was written."""

    folder: Path
    model_dir: Path
    settings: Mapping[str, Any]
    date: datetime.date

    @property
    def adapter(self) -> Path | None:
        """The adapter folder, None after full fine-tuning."""
        folder = self.folder / "adapter"
        return folder if folder.is_dir() else None


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a new run, or check that an old one may be continued.

    Raises:
        ConfigError: the folder is not empty and neither `resume` nor `overwrite` is set, or `overwrite` would remove
            something that is no run.
    """
    if folder.is_file():
        raise ConfigError(f"output_dir {folder} is a file", fix="give a folder with --output_dir")
    if folder.is_dir() and any(folder.iterdir()):
        if resume and (folder / FILE).is_file():
            return
        if not overwrite:
            raise ConfigError(
                f"output_dir {folder} is not empty" + (f" and holds no {FILE} to go on from" if resume else ""),
                fix="give another --output_dir, continue it with --resume auto, or replace it with --overwrite",
            )
        if not (folder / FILE).is_file():
            raise ConfigError(
                f"output_dir {folder} holds no {FILE}, so it is not a run of actune and is not removed",
                fix="empty it yourself, or give another --output_dir",
            )
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir {folder} cannot be made: {error}", fix="give another --output_dir") from error


def write_run(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    model_dir: Path,
    date: datetime.date,
    fingerprint: str,
    sources: Sequence[Mapping[str, Any]],
    notices: Sequence[str],
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
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} cannot be read: {error!r}", fix="give the model folder instead of the run"
        ) from error
