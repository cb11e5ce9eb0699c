"""Finds the rows of a file: read once, in several processes if it is large, and kept for later runs.

What is found is kept (`data.cache`) under the hash of the file, so that a second run of any mixture looks rows up instead
of reading them. Rows of other files than plain jsonl, which cannot be entered in the middle, are kept beside it as jsonl.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actune.core.errors import DataError
from actune.core.json_text import write_json
from actune.core.types import Source
from actune.data.reading.rows import scan_file
from actune.data.reading.sources import Quarantined, check_file, find_file_format
from actune.data.store.arrays import load_arrays, save_arrays
from actune.data.store.cache import Cache, hash_file, make_key
from actune.data.store.parts import PartWriter
from actune.data.store.store import EncodingRecipe, RowStore
from actune.data.store.table import FACTS, PROMPTS, Facts, RowTable, TableFacts, ToolSet, map_file, read_conversation
from actune.data.store.workers import work

_KIND = "rows"
_ROWS, _LINES, _TABLES, _ENCODED = "rows.jsonl", "row-lines.npy", "tables.json", "encoded"
# A process takes this many bytes of a file at a time: enough to be worth a task, few enough to share out evenly.
_CHUNK = 1 << 20

_Refused = tuple[int, dict[str, Any]]
"""A line and the parts of its error."""


def open_table(
    path: Path,
    *,
    name: str,
    shown: str,
    format_name: str | None,
    cache: Cache,
    processes: int,
    store: RowStore | None = None,
    advance: Callable[[int], None] = lambda _bytes: None,
) -> RowTable:
    """Return the rows of a file, read now or kept from an earlier run; `advance` is told of bytes that were read.

    With a `store` the rows are encoded for it while they are read, which spares a second reading where all are needed.

    Raises:
        ConfigError: the file cannot be read, or its format is not known.
    """
    kind = check_file(path)
    key = make_key(_KIND, hash_file(path), kind, format_name)
    folder = cache.find(_KIND, key)
    if folder is not None:
        try:
            return _load(folder, path, kind, key, name=name, shown=shown)
        except (OSError, ValueError):  # damaged: read anew
            shutil.rmtree(folder, ignore_errors=True)
    format_name = find_file_format(path, shown=shown, given=format_name)
    with cache.scratch() as scratch, cache.put(_KIND, key, {"kind": kind, "format": format_name}) as building:
        rows, lines, refused = path, None, []
        if kind != ".jsonl":
            rows, lines = building / _ROWS, building / _LINES
            refused = _write_rows(path, kind, shown, rows, lines)
        writing = None
        if store is not None:
            writing = asdict(replace(store.writing, expected=rows.stat().st_size // processes))
        tasks = [
            {
                "do": "index", "path": str(rows), "span": (begin, end), "first": first,
                "lines": None if lines is None else str(lines), "format_name": format_name,
                "writing": writing, "out": str(scratch / f"part-{begin}"),
            }
            for begin, end, first in _find_ranges(rows)
        ]  # fmt: skip
        answers = work(tasks, processes=processes, advance=advance)
        folders = [Path(task["out"]) for task in tasks]
        counts = _join(folders, answers, building, format_name, refused)
        if store is not None:
            store.keep(key, [(folder / _ENCODED, before) for folder, before in zip(folders, counts, strict=True)])
    return _load(cache.root / _KIND / key, path, kind, key, name=name, shown=shown)


def _load(folder: Path, path: Path, kind: str, key: str, *, name: str, shown: str) -> RowTable:
    tables = json.loads((folder / _TABLES).read_text(encoding="utf-8"))
    return RowTable(
        name=name,
        shown=shown,
        format_name=tables["format"],
        facts=TableFacts(
            columns=load_arrays(folder, (*FACTS, *PROMPTS)), toolsets=tuple(_read_toolsets(tables["toolsets"]))
        ),
        quarantined=[
            Quarantined(source=Source(file=shown, line=line, dataset=name), **parts)
            for line, parts in tables["refused"]
        ],
        path=path if kind == ".jsonl" else folder / _ROWS,
        key=key,
    )


def count_lines(path: Path) -> int:
    """Return about how many rows a file has, without reading them; 0 where that cannot be told."""
    if check_file(path) != ".jsonl":
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_CHUNK), b""))


def index_range(
    *,
    path: str,
    span: tuple[int, int],
    first: int,
    lines: str | None,
    format_name: str,
    writing: Mapping[str, Any] | None,
    out: str,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Find the rows of a jsonl file between the two bytes of `span`, and encode them if it is said how; what a worker does.

    `first` is the number of the first line, counted from 0; `lines` a file with the number that stands for each line
    where the rows came from another file. The arrays go to the folder `out`, the rest is returned.
    """
    numbers = None if lines is None else np.load(lines, mmap_mode="r")
    begin, end = span
    found, refused = Facts(), []
    way = None if writing is None else EncodingRecipe(**writing)
    encoded = PartWriter()
    view = map_file(Path(path))
    view.seek(begin)
    line, at = first, begin
    while at < end:
        raw = view.readline()
        number = line + 1 if numbers is None else int(numbers[line])
        source = Source(file="", line=number)
        try:
            conversation = read_conversation(raw, source, format_name, starts_file=at == 0)
            if conversation is not None:
                if way is not None:
                    encoded.add(len(found), way.encode(conversation))
                found.add(conversation, offset=at, size=len(raw))
        except DataError as error:
            refused.append(
                (number, {"code": error.code, "message": error.message, "field": error.field, "fix": error.fix})
            )
        at, line = at + len(raw), line + 1
    folder = Path(out)
    folder.mkdir()
    save_arrays(folder, found.arrays())
    if way is not None:
        encoded.save(folder / _ENCODED)
    advance(end - begin)
    return {"toolsets": _write_toolsets(found.toolsets), "refused": refused}


# --- building ---------------------------------------------------------------------------------------------------------


def _join(
    folders: Sequence[Path],
    answers: Sequence[Mapping[str, Any]],
    out: Path,
    format_name: str,
    refused: list[_Refused],
) -> list[int]:
    """Write what was found in the parts of a file as its index; return how many rows stand before each part."""
    toolsets: dict[ToolSet, int] = {}
    parts = []
    for folder, answer in zip(folders, answers, strict=True):
        part = load_arrays(folder, (*FACTS, *PROMPTS))
        places = [toolsets.setdefault(tools, len(toolsets)) for tools in _read_toolsets(answer["toolsets"])]
        part["toolsets"] = np.array(places, dtype=np.int32)[part["toolsets"]]
        parts.append(part)
        refused += [(line, fields) for line, fields in answer["refused"]]
    save_arrays(out, _join_facts(parts))
    tables = {
        "format": format_name,
        "toolsets": _write_toolsets(list(toolsets)),
        "refused": sorted(refused, key=lambda item: item[0]),
    }
    (out / _TABLES).write_text(json.dumps(tables), encoding="utf-8")
    return list(itertools.accumulate((len(part["lines"]) for part in parts[:-1]), initial=0))[: len(parts)]


def _join_facts(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the facts of parts one after the other; offsets count from the start of all."""
    joined = {}
    for name, none in Facts().arrays().items():
        if name.endswith("_offsets"):
            lengths = [np.diff(part[name]) for part in parts]
            joined[name] = np.concatenate([none, np.cumsum(np.concatenate([none[:0], *lengths]))])
        else:
            joined[name] = np.concatenate([none, *(part[name] for part in parts)])
    return joined


def _find_ranges(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, lines before) of parts of a file that end with a line."""
    if path.stat().st_size == 0:
        return
    view = map_file(path)
    begin = first = 0
    while begin < len(view):
        end = view.find(b"\n", min(begin + _CHUNK, len(view) - 1)) + 1 or len(view)
        yield begin, end, first
        first += view[begin:end].count(b"\n")
        begin = end


def _write_rows(path: Path, kind: str, shown: str, rows: Path, lines: Path) -> list[_Refused]:
    """Write the rows of any file as jsonl, and the number of each; return what cannot be read."""
    numbers: list[int] = []
    refused: list[_Refused] = []
    with rows.open("w", encoding="utf-8", newline="\n") as file:
        for source, row in scan_file(path, kind, "", shown):
            if isinstance(row, DataError):
                parts = {"code": row.code, "message": row.message, "field": row.field, "fix": row.fix}
                refused.append((source.line, parts))
                continue
            file.write(write_json(row) + "\n")
            numbers.append(source.line)
    np.save(lines, np.array(numbers, dtype=np.int64))
    return refused


def _write_toolsets(toolsets: Sequence[ToolSet]) -> list[tuple[list[str], bool]]:
    return [(sorted(names), offered) for names, offered in toolsets]


def _read_toolsets(listed: Sequence[tuple[Sequence[str], bool]]) -> list[ToolSet]:
    return [(frozenset(names), offered) for names, offered in listed]
