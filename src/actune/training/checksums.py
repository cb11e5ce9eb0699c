"""`checksums.json` of a checkpoint: the SHA-256 of every other file, written last; what is wrong when they differ."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

FILE = "checksums.json"
_VERSION = 1
# Hashing releases the lock of the interpreter; more threads than this wait for the disk.
_THREADS = 4


def write_checksums(folder: Path) -> None:
    """Hash every file of a folder into its `checksums.json`: `{"version", "files": {NAME: {"sha256", "bytes"}}}`.

    Raises:
        OSError: a file cannot be read, or this one not written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != FILE]
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(_hash, [folder / name for name in names]))
    files = {
        name: {"sha256": digest, "bytes": (folder / name).stat().st_size}
        for name, digest in zip(names, sums, strict=True)
    }
    text = json.dumps({"version": _VERSION, "files": files}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def find_damage(folder: Path) -> tuple[str, ...]:
    """Say what of a folder is not as its `checksums.json` has it; empty: all is.

    Files that are not listed are not looked at. A second call in one process reads nothing again unless a file's
    size or time of change is another one.
    """
    return _find_damage(folder, _sign(folder))


@lru_cache(maxsize=16)
def _find_damage(folder: Path, _signature: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            return (f"{FILE} has version {content['version']}, known is {_VERSION}",)
        files = [(name, str(entry["sha256"]), int(entry["bytes"])) for name, entry in content["files"].items()]
    except FileNotFoundError:
        return (f"{FILE} is missing",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return (f"{FILE} cannot be read: {error!r}",)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda entry: _compare(folder, *entry), files)
    return tuple(problem for problem in found if problem is not None)


def _compare(folder: Path, name: str, digest: str, size: int) -> str | None:
    path = folder / name
    try:
        actual = path.stat().st_size
        if actual != size:
            return f"{name} has {actual:,} bytes, not {size:,}"
        return None if _hash(path) == digest else f"{name} has other content than was written (SHA-256)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sign(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = []
    for path in folder.rglob("*"):
        try:
            values = path.stat()
        except OSError:
            continue
        found.append((str(path), values.st_size, values.st_mtime_ns))
    return tuple(sorted(found))
