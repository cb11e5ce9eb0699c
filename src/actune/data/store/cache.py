"""Where read and encoded rows are kept between runs: folders named by what is in them, written whole or not at all.

A name is a hash of everything that the content depends on: the bytes of the data file, the tokenizer, the template, the
settings, and the code of actune that read and wrote it. So nothing here is ever out of date, and all of it may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actune.core.errors import ConfigError

ENVIRONMENT = "ACTUNE_CACHE"
META = "meta.json"
# Packages of actune, and others', whose code decides what a row becomes.
_OWN = ("core", "formats", "render", "data")
_LIBRARIES = ("tokenizers", "jinja2", "jsonschema", "numpy", "pyarrow")
_TOUCHED = ".used"
_GIB = 2**30


class Cache:
    """A folder of entries `<kind>/<key>/`; `limit` bytes are kept, what was not used for longest goes first."""

    def __init__(self, root: Path, *, limit: int = 20 * _GIB) -> None:
        """Use a folder; it is made when something is put into it."""
        self.root = root
        self.limit = limit
        self._opened = time.time() - 1  # clocks of file systems are coarse
        self._held: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def temporary(cls) -> Cache:
        """Return a cache that goes when this object, or the process, does."""
        held = tempfile.TemporaryDirectory(prefix="actune-")
        made = cls(Path(held.name))
        made._held = held
        return made

    def find(self, kind: str, key: str) -> Path | None:
        """Return the folder of an entry that is there, and note that it was used."""
        folder = self.root / kind / key
        if not (folder / META).is_file():
            return None
        with contextlib.suppress(OSError):  # a cache that others own can be read all the same
            (folder / _TOUCHED).touch()
        return folder

    @contextmanager
    def put(self, kind: str, key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes the entry when the block ends without an error.

        Two processes may make the same entry at once: the first one stays, and both are equal.

        Raises:
            ConfigError: the folder cannot be written.
        """
        final = self.root / kind / key
        with self.scratch() as folder:
            yield folder
            (folder / META).write_text(json.dumps(dict(meta), ensure_ascii=False), encoding="utf-8")
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(final)
            except OSError:
                if not (final / META).is_file():  # left by a disk that was full, say
                    shutil.rmtree(final, ignore_errors=True)
                    folder.rename(final)

    def parts(self, kind: str, key: str) -> list[Path]:
        """Return the folders of an entry that grows, in a fixed order, and note that it was used."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return []
        with contextlib.suppress(OSError):
            (folder / _TOUCHED).touch()
        return sorted(meta.parent for meta in folder.glob(f"*/{META}"))

    def keep_part(self, kind: str, key: str, folder: Path) -> Path:
        """Move a folder of `scratch` into an entry that grows; return where it is now.

        Raises:
            ConfigError: the folder of the cache cannot be written.
        """
        final = self.root / kind / key / uuid.uuid4().hex
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(final)
            (final.parent / _TOUCHED).touch()
        except OSError as error:
            raise self._fault(error) from error
        return final

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder beside the entries that goes when the block ends.

        Raises:
            ConfigError: the folder of the cache cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds the rows of its owner
            folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        except OSError as error:
            raise self._fault(error) from error
        try:
            yield folder
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._fault(error) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fault(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"the folder for prepared rows, {self.root}, cannot be written: {error.strerror or error}",
            fix=f"free some room, or give another folder with --cache_dir or ${ENVIRONMENT}",
        )

    def prune(self) -> None:
        """Remove what was not used for longest, until the rest is within the limit, and what broken runs left.

        What was used through this object stays in any case: its rows may still be read.
        """
        if not self.root.is_dir():
            return
        now = time.time()
        for left in self.root.glob(".new-*"):
            if now - left.stat().st_mtime > 7 * 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)
        entries = [(_last_use(folder), _size(folder), folder) for folder in self.root.glob("*/*") if folder.is_dir()]
        total = sum(size for _, size, _ in entries)
        for used, size, folder in sorted(entries):
            if total <= self.limit or used >= self._opened:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def default_root() -> Path | None:
    """Return the cache's folder of this user: $ACTUNE_CACHE, else below $XDG_CACHE_HOME or ~/.cache; None without a home."""
    if (named := named_root()) is not None:
        return named
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "actune"
    except RuntimeError:
        return None


def named_root() -> Path | None:
    """Return the folder that $ACTUNE_CACHE names."""
    own = os.environ.get(ENVIRONMENT)
    return Path(own) if own else None


def make_key(*parts: object) -> str:
    """Return the name of an entry: a hash of plain values and of the code that makes it."""
    text = json.dumps([*parts, _hash_code()], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def hash_file(path: Path, advance: Callable[[int], None] = lambda _bytes: None) -> str:
    """Return a hash of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def code_files() -> list[Path]:
    """Return the files of actune whose code decides what a row becomes."""
    root = Path(__file__).parents[2]
    return [path for package in _OWN for path in sorted((root / package).rglob("*.py"))]


@cache
def _hash_code() -> str:
    digest = hashlib.sha256(platform.python_version().encode())
    for path in code_files():
        digest.update(path.name.encode() + path.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def _last_use(folder: Path) -> float:
    for name in (_TOUCHED, META):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
