"""Files and folders that are there whole or not at all: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from actune.core.errors import CheckpointError, ConfigError

_PARTIAL = ".partial"
_OLD = f".old{_PARTIAL}"


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; it takes the place of `final` when the block ends without an error.

    Raises:
        CheckpointError: the folder cannot be written; what was at `final` before is still there.
    """
    partial = final.with_name(f".{final.name}{_PARTIAL}")
    try:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            _flush(partial)
            _swap(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise explain_write(final, error) from error
    except Exception as error:
        # safetensors reports what the system said in its own class: "I/O error: No space left on device (os error 28)".
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise explain_write(final, OSError(int(number.group(1)), os.strerror(int(number.group(1))))) from error


@contextmanager
def atomic_file(final: Path) -> Iterator[TextIO]:
    """Yield a text file to write; it takes the place of `final` when the block ends without an error.

    Raises:
        ConfigError: its folder does not exist.
        CheckpointError: the file cannot be written; an earlier one is still there.
    """
    if not final.parent.is_dir():
        raise ConfigError(f"{final} cannot be written: there is no folder {final.parent}", fix="make the folder first")
    partial = final.with_name(f".{final.name}{_PARTIAL}")
    try:
        try:
            # Lone surrogates, which JSON texts may hold, are no UTF-8; they are written as they were escaped.
            with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                yield file
            flush_file(partial)
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise explain_write(final, error) from error


def atomic_text(path: Path, text: str) -> None:
    """Replace a text file whole.

    Raises:
        CheckpointError: the file cannot be written; the earlier one is still there.
    """
    with atomic_file(path) as file:
        file.write(text)


def remove_partials(folder: Path) -> None:
    """Remove what an interrupted process left half-written in a folder; what it was about to replace comes back."""
    for old in folder.glob(f".*{_OLD}"):
        final = folder / old.name.removeprefix(".").removesuffix(_OLD)
        if not final.exists():
            old.rename(final)
    for partial in folder.glob(f".*{_PARTIAL}"):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def explain_write(path: Path, error: OSError) -> CheckpointError:
    """Return the error to show when `path` cannot be written: why, and how much room its disk has."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = f"{shutil.disk_usage(place).free / 2**20:.0f} MiB free on its disk"
    except OSError:
        free = "its disk cannot be read"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CheckpointError(
        f"cannot write {path}: {'the disk is full' if full else error.strerror or error} ({free}); "
        "nothing half-written is left there and what was complete before is intact",
        fix="free some room or write elsewhere; a training run goes on with --resume auto" if full else None,
    )


def flush_file(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush(folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in sorted(folder.rglob("*")):
        if path.is_file():  # some writers make files that only their owner can read
            path.chmod(0o666 & ~mask)
        flush_file(path)
    flush_file(folder)


def _swap(partial: Path, final: Path) -> None:
    if final.exists():
        old = final.with_name(f".{final.name}{_OLD}")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        try:
            partial.rename(final)
        except OSError:
            old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)
    if os.name != "nt":
        flush_file(final.parent)
