"""Which files a dataset's name stands for: a file, a folder, a glob, a registry name, a hub id."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actune.core.errors import ConfigError
from actune.data.reading.hub import download_dataset, is_hub_id, near_entries
from actune.data.reading.rows import SUFFIXES, file_kind

REGISTRY: Mapping[str, str] = {"ms-agent": "ms:iic/ms_agent", "ms-bench": "ms:iic/ms_bench"}
"""Names of the reference recipe and the datasets they stand for; a local file of the same name wins."""

# Files that describe data, or that commands of actune write beside it.
_DESCRIBING = (
    "dataset_infos.json", "dataset_info.json", "state.json", "configuration.json", "config.json",
    "quarantine.jsonl", "*.quarantine.jsonl", "*.repairs.jsonl",
)  # fmt: skip
_GLOB = re.compile(r"[*?[]")
_SHOWN = 5  # names listed in a notice or an error


def find_files(name: str) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return the files of a dataset with the name that errors give each, and notices of what was passed over.

    An existing path is taken as it is, even one with `*` or `[` in its name. A folder stands for the data files directly
    in it, a glob (`*`, `?`, `[...]`, `**` for any folders) for those that it matches, in the order of their names.
    Passed over with a notice: hidden entries, other types, folders, files that describe data, text files beside data of
    another type, and further names of the same file.

    Raises:
        ConfigError: there is no such dataset, or it has no file that can be read.
        MissingExtraError: `ms:` without modelscope-hub.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _choose(name, _in_folder(path), str(path / "**" / "*.jsonl"))
    if name and path.exists():
        return [(path, name)], []
    name = REGISTRY.get(name, name)
    if is_hub_id(name):
        download = download_dataset(name)
        base = "/".join(name.split("@")[0].split("/")[:2])
        shown = [f"{base}/{file.relative_to(download.root).as_posix()}" for file in download.files]
        return list(zip(download.files, shown, strict=True)), list(download.notices)
    if is_glob(name):
        return _choose(name, _match(path), None)
    near = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = near_entries(path) or (f"did you mean {near[0]!r}? " if near else "")
    raise ConfigError(
        f"there is no dataset {name!r}: neither a file, folder or glob nor a registry name",
        fix=f"{hint}give a path, one of {', '.join(REGISTRY)}, or a hub id (hf:owner/name, ms:owner/name)",
    )


def is_glob(name: str) -> bool:
    """Whether a dataset's name is a pattern of files, which no path and no id of a hub is."""
    return _GLOB.search(name) is not None and not is_hub_id(name) and not Path(name).expanduser().exists()


# --- what is there ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """Entries by what became of them; `literal` is whether a glob names its files without a wildcard."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    literal: bool = False
    folder: Path = Path()


def _entries(folder: Path, found: _Found) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        found.unreadable.append(f"{folder} ({error.strerror})")
        return []


def _in_folder(folder: Path) -> _Found:
    found = _Found(folder=folder)
    for entry in _entries(folder, found):
        kept = found.hidden if entry.name.startswith(".") else found.folders if entry.is_dir() else found.files
        kept.append(entry)
    return found


def _match(pattern: Path) -> _Found:
    """Return what a glob matches; hidden entries only where its part begins with a dot, as in a shell."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if _GLOB.search(part))
    base, rest = Path(*parts[:first]), list(parts[first:])
    if rest[-1] == "**":
        rest.append("*")
    found = _Found(literal=not _GLOB.search(rest[-1]), folder=base)
    seen: set[Path] = set()
    if base.is_dir():
        for entry in _walk(base, rest, found, frozenset({base.resolve()})):
            if entry not in seen:  # `**` next to `**` comes the same way twice
                seen.add(entry)
                (found.folders if entry.is_dir() else found.files).append(entry)
    found.hidden = list(dict.fromkeys(found.hidden))
    found.unreadable = list(dict.fromkeys(found.unreadable))
    found.files.sort()
    return found


def _walk(folder: Path, parts: Sequence[str], found: _Found, above: frozenset[Path]) -> Iterator[Path]:
    """Yield the entries under `folder` that the parts of a glob match; `above` are the real folders on the way."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walk(folder, rest, found, above)
    for entry in _entries(folder, found):
        if part != "**" and not fnmatch.fnmatch(entry.name, part):
            continue
        if entry.name.startswith(".") and not part.startswith("."):
            found.hidden += [entry] if entry.is_dir() or not rest or part == "**" else []
        elif part != "**" and not rest:
            yield entry
        elif entry.is_dir() and (real := entry.resolve()) not in above:  # a link back up would never end
            yield from _walk(entry, parts if part == "**" else rest, found, above | {real})


# --- what is used -----------------------------------------------------------------------------------------------------


def _choose(name: str, found: _Found, deeper: str | None) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return the files to read and the notices; `deeper` is the glob that reaches into the folders of a folder."""
    data = [file for file in found.files if file_kind(file) in SUFFIXES and file.is_file()]
    others = [file for file in found.files if file not in set(data)]
    describing = [] if found.literal else [file for file in data if _describes(file)]
    data = [file for file in data if file not in set(describing)]
    texts = [file for file in data if file_kind(file).startswith(".txt")]
    if len(texts) < len(data):
        data = [file for file in data if file not in set(texts)]
    else:
        texts = []
    if not data:
        raise _nothing(name, found, deeper)
    used, notices = _without_twins(data)
    notices += _passed_over("hidden entries", found.hidden)
    notices += _passed_over("files of types that cannot be read", others)
    notices += _passed_over("files that describe data", describing)
    notices += _passed_over("text files (name them, or give *.txt, to read them)", texts)
    inside = f" (give {deeper} to read what is in them)" if deeper is not None else ""
    notices += _passed_over(f"folders{inside}", found.folders)
    notices += _passed_over("folders that cannot be opened", found.unreadable)
    return [(file, str(file)) for file in used], [f"{name}: {notice}" for notice in notices]


def _describes(file: Path) -> bool:
    return any(fnmatch.fnmatch(file.name, pattern) for pattern in _DESCRIBING)


def _without_twins(files: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return each real file once, and notices: of further names of one file, and of names that differ in type only."""
    used: dict[tuple[int, int], Path] = {}
    notices = []
    stems: dict[Path, Path] = {}
    for file in files:
        status = file.stat()
        key = (status.st_dev, status.st_ino)
        if key in used:
            notices.append(f"{file} is the same file as {used[key]}, which is read once")
            continue
        used[key] = file
        stem = file.with_name(file.name[: -len(file_kind(file))])
        if stem in stems:
            notices.append(f"{stems[stem]} and {file} may hold the same rows; both are read")
        stems.setdefault(stem, file)
    return list(used.values()), notices


def _passed_over(what: str, entries: Sequence[Path | str]) -> list[str]:
    return [f"passed over, {what}: {_list(entries)}"] if entries else []


def _list(entries: Sequence[Path | str]) -> str:
    shown = ", ".join(entry.name if isinstance(entry, Path) else entry for entry in entries[:_SHOWN])
    return shown + (f" and {len(entries) - _SHOWN:,} more" if len(entries) > _SHOWN else "")


def _nothing(name: str, found: _Found, deeper: str | None) -> ConfigError:
    types = f"types: {', '.join(SUFFIXES)}"
    passed = [*found.files, *found.folders, *found.hidden]
    has = "matches" if deeper is None else "has"
    there = f"; it {has} {_list(passed)}" if passed else ""
    if found.unreadable:
        return ConfigError(f"{found.unreadable[0]} cannot be opened", fix="check its permissions")
    if deeper is not None:
        inside = f"give {deeper} to read what is in its folders; " if found.folders else ""
        return ConfigError(f"the folder {name} has no data file{there}", fix=inside + types)
    if passed:
        return ConfigError(f"no file that {name!r} matches can be read{there}", fix=types)
    folder = found.folder
    if not folder.is_dir():
        return ConfigError(
            f"nothing matches {name!r}: there is no folder {str(folder)!r}",
            fix=f"{near_entries(folder)}check the path",
        )
    listed = _list([entry for entry in _entries(folder, found) if not entry.name.startswith(".")]) or "nothing"
    return ConfigError(
        f"nothing matches {name!r}",
        fix=f"{os.fspath(folder)} holds {listed}; put the pattern in quotes so that the shell leaves it alone",
    )
