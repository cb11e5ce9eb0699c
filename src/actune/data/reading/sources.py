"""Rows of files and hubs: read, located by line, turned into conversations; what cannot be read is quarantined."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_file
from actune.core.types import Conversation, Source
from actune.data.reading.files import find_files
from actune.data.reading.hub import near_entries
from actune.data.reading.rows import SUFFIXES, Row, file_kind, scan_file
from actune.formats import registry

_DETECT_ROWS = 256
"""Rows looked at to tell a file's format: calls may first appear some rows in, and looking is cheap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A row left out, and why: the parts of its error."""

    source: Source
    code: str
    message: str
    field: str | None = None
    fix: str | None = None

    @property
    def reason(self) -> str:
        """What is wrong, with its place in the row where the message does not name it already."""
        return self.message if self.field is None or self.field in self.message else f"{self.field}: {self.message}"

    @classmethod
    def of(cls, source: Source, error: DataError | RenderError) -> Quarantined:
        """Return the entry of a row that raised `error`."""
        return cls(source=source, code=error.code, message=error.message, field=error.field, fix=error.fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The rows of one dataset as the user named it.

    `available` is the number of readable rows before `#N` drew some; `notices` says what else was left out.
    """

    name: str
    conversations: tuple[Conversation, ...]
    quarantined: tuple[Quarantined, ...]
    available: int = 0
    notices: tuple[str, ...] = ()


def read_file(path: Path, *, dataset: str = "", shown: str | None = None) -> Iterator[Row]:
    """Return an iterator over (source, raw row or DataError) of a data file (see `rows.SUFFIXES`).

    Blank lines are skipped. A row that cannot be decoded is a DataError, and reading goes on where the file type
    allows it. `shown` is the name that errors give the file (default: the path as given).

    Raises:
        ConfigError: the file is missing, empty, unreadable or of another type; raised before the first row.
    """
    path = Path(path)
    kind = check_file(path)
    return scan_file(path, kind, dataset, shown if shown is not None else str(path))


def check_file(path: Path) -> str:
    """Return the type of a data file that is there and can be opened: a key of SUFFIXES.

    Raises:
        ConfigError: the file is missing, empty, unreadable or of another type.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a file", fix=f"name a file in it{_some_entries(path)}")
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}", fix=f"{near_entries(path)}check the path")
    kind = file_kind(path)
    if kind not in SUFFIXES:
        raise ConfigError(
            f"{path} is of no type that can be read", fix=f"types: {', '.join(SUFFIXES)}; rename or convert it"
        )
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", fix="check its permissions") from error
    if size == 0:
        raise ConfigError(f"{path} is empty", fix="give a file with at least one row")
    return kind


def find_file_format(path: Path, *, shown: str, given: str | None = None) -> str:
    """Return the name of the format of a file's rows, found from the first of them; "" where no row can be decoded.

    A format that is `given` is taken, if there is one of that name and the file has rows.

    Raises:
        ConfigError: see `check_file`; the file has no rows, or their format is not known.
    """
    if given is not None:
        registry.get(given)
    rows = read_file(path, shown=shown)
    head = list(itertools.islice(rows, _DETECT_ROWS))
    if not head:
        raise ConfigError(f"{shown} has no rows", fix="give a file with at least one row")
    if given is not None:
        return given
    good = [row for _, row in head if not isinstance(row, DataError)]
    if not good:  # none of the first rows could be decoded: the first one that can decides
        others = (row for _, row in rows if not isinstance(row, DataError))
        good = list(itertools.islice(others, 1))
    if not good:
        return ""
    try:
        return registry.detect_format(good)
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error.message}", fix=error.fix) from None


def read_conversations(
    path: Path, *, dataset: str = "", format_name: str | None = None, shown: str | None = None
) -> Iterator[tuple[Source, Conversation | DataError]]:
    """Return an iterator over (source, conversation or DataError), a pair a row, in the order of the file.

    The format is detected from the first rows unless `format_name` is given.

    Raises:
        ConfigError: see `read_file`; the format is unknown or ambiguous.
    """
    name = find_file_format(path, shown=shown or str(path), given=format_name)
    return _convert(read_file(path, dataset=dataset, shown=shown), name)


def _convert(rows: Iterable[Row], format_name: str) -> Iterator[tuple[Source, Conversation | DataError]]:
    for source, row in rows:
        if isinstance(row, DataError):
            yield source, row
            continue
        try:
            yield source, registry.read_row(row, source, format_name)
        except DataError as error:
            yield source, error


def load_conversations(spec: str, *, format_name: str | None = None, seed: int = 42) -> Loaded:
    """Return all rows of a dataset: a file, a folder or glob of files, a registry name, `hf:owner/name` or `ms:owner/name`.

    A suffix `#N` draws N of the readable rows without repetition, by `seed`, in their order.

    Raises:
        ConfigError: the dataset cannot be found or read, or its format is not known.
        MissingExtraError: `ms:` without modelscope-hub.
    """
    name, count = split_count(spec)
    files, notices = find_files(name)
    conversations: list[Conversation] = []
    quarantined: list[Quarantined] = []
    for path, shown in files:
        for source, result in read_conversations(path, dataset=name, format_name=format_name, shown=shown):
            if isinstance(result, DataError):
                quarantined.append(Quarantined.of(source, result))
            else:
                conversations.append(result)
    available = len(conversations)
    if count is not None and count < available:
        chosen = sorted(random.Random(seed).sample(range(available), count))
        conversations = [conversations[index] for index in chosen]
    elif count is not None and count > available:
        notices.append(f"{spec}: {count} rows were asked for, {available} can be read; all are used")
    return Loaded(
        name=name,
        conversations=tuple(conversations),
        quarantined=tuple(quarantined),
        available=available,
        notices=tuple(notices),
    )


def write_quarantine(path: Path, items: Iterable[Quarantined]) -> None:
    """Write quarantine.jsonl: `{"file","line","code","message","field","reason","fix"}` a line.

    "message" is the message concerned (`conversations[2]`), "field" the exact place, "reason" the text; keys that do
    not apply are absent. The file appears whole or not at all.
    """
    with atomic_file(Path(path)) as file:
        for item in items:
            entry: dict[str, Any] = {"file": item.source.file, "line": item.source.line, "code": item.code}
            place = re.match(r"(?:conversations|messages|history)\[\d+\]", item.field or "")
            entry |= {} if place is None else {"message": place.group()}
            entry |= {} if item.field is None else {"field": item.field}
            entry["reason"] = item.message
            entry |= {} if item.fix is None else {"fix": item.fix}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def split_count(spec: str) -> tuple[str, int | None]:
    """Return a dataset's name and, from a suffix `#N`, how many of its rows are meant.

    Raises:
        ConfigError: what stands after `#` is no number of rows.
    """
    name, mark, count = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, None
    if not name or not re.fullmatch(r"[0-9]{1,12}", count) or int(count) == 0:
        raise ConfigError(f"{spec!r}: after '#' stands how many rows to draw", fix="write for example ms-agent#1000")
    return name, int(count)


def _some_entries(folder: Path) -> str:
    entries = sorted(entry.name for entry in folder.iterdir() if file_kind(entry) in SUFFIXES)
    return f": {', '.join(entries[:5])}" if entries else ""
