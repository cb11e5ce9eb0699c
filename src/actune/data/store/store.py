"""Encoded rows, kept: flat arrays of ids with offsets, mapped into memory, one entry for each part of a file's rows.

A row's entry depends on the file, the tokenizer, the template and how text is written, and on the maximum length only
where over-long rows are cut. So another mixture, another seed or another number of steps finds its rows here, and only
rows that were never encoded are.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actune.core.parts import PartWeights
from actune.core.types import Conversation, Source
from actune.data.encode import Outcome, Truncation, encode_row
from actune.data.store.arrays import load_arrays, save_arrays
from actune.data.store.cache import Cache, hash_file, make_key
from actune.data.store.parts import MemoryPart, PartWriter, Place, StoredPart
from actune.data.store.table import Row, RowTable, map_file, read_conversation
from actune.data.store.workers import work
from actune.render.encoder import Encoder

_KIND = "encoded"
# Rows that a process encodes at a time, and below which starting processes is not worth it.
_PART, _FEW = 1024, 1024
_TOLD = 128  # rows after which progress is told
_MUCH = 48_000_000  # bytes of rows from which a faster library is loaded at once


@dataclass(frozen=True, kw_only=True)
class EncodingRecipe:
    """How rows are written: a model's folder and the arguments of `Encoder.from_folder`, as plain JSON.

    `max_length` and `truncation` say what becomes of over-long rows. `expected` is about how many bytes of rows one process
    will encode; it changes no row.
    """

    folder: str
    options: Mapping[str, Any]
    max_length: int
    truncation: Truncation
    expected: int = 0

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that writes so; one for all tasks of a process."""
        encoder = _make_encoder(json.dumps([self.folder, dict(self.options)], sort_keys=True))
        if self.expected > _MUCH:
            encoder.renderer.tokenizer.expect_much()
        return encoder

    def encode(self, conversation: Conversation) -> Outcome:
        """Return what a row becomes."""
        return encode_row(conversation, self.encoder, max_length=self.max_length, truncation=self.truncation)

    def key(self) -> str:
        """Return a hash of everything that decides what is written."""
        folder = Path(self.folder)
        read = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jinja") and path.is_file()]
        template = self.options.get("chat_template")
        files = {path.name: hash_file(path) for path in read if not path.name.endswith(".index.json")}
        options = dict(self.options)
        if template is not None:
            options["chat_template"] = hash_file(Path(template))
        if not _reads_clock(self.encoder):
            options["now"] = None
        cut = [self.max_length, self.truncation] if self.truncation in ("turns", "windows") else []
        return make_key(files, options, cut)


def _reads_clock(encoder: Encoder) -> bool:
    templates = encoder.renderer.templates
    return "strftime_now" in templates.plain or "strftime_now" in templates.tools


@lru_cache(maxsize=4)
def _make_encoder(text: str) -> Encoder:
    folder, options = json.loads(text)
    if options.get("chat_template") is not None:
        options["chat_template"] = Path(options["chat_template"])
    if options.get("now") is not None:
        options["now"] = datetime.date.fromisoformat(options["now"])
    if options.get("weights") is not None:
        options["weights"] = PartWeights(**options["weights"])
    return Encoder.from_folder(Path(folder), **options)


class RowStore:
    """What rows become under one way of writing; encodes what is not there yet."""

    def __init__(self, writing: EncodingRecipe, cache: Cache, *, processes: int) -> None:
        """Use `processes` processes where there is much to do."""
        self.writing, self._cache, self._processes = writing, cache, processes
        self._key = writing.key()
        self._places: dict[RowTable, dict[int, Place]] = {}

    def find(self, rows: Iterable[Row], advance: Callable[[int], None] = lambda _rows: None) -> list[Place]:
        """Return where each row's encoding is, after encoding what is not there; `advance` is told how many rows are done.

        Raises:
            ConfigError: the cache cannot be written, or a process ended by itself.
        """
        rows = list(rows)
        wanted: dict[RowTable, dict[int, Row]] = {}
        for row in rows:
            wanted.setdefault(row.table, {})[row.number] = row
        for table, numbers in wanted.items():
            known = self._known(table)
            missing = sorted(number for number in numbers if number not in known)
            advance(len(numbers) - len(missing))
            if table.path is None:
                self._encode_here([numbers[number] for number in missing], known, advance)
            elif missing:
                self._encode(table, np.array(missing, dtype=np.int64), known, advance)
        return [self._places[row.table][row.number] for row in rows]

    def keep(self, table_key: str, parts: Iterable[tuple[Path, int]]) -> None:
        """Keep parts of the table of that key that others wrote; a part's rows are counted from the number beside it."""
        for folder, first in parts:
            save_arrays(folder, {"numbers": load_arrays(folder, ["numbers"])["numbers"] + first})
            self._cache.keep_part(_KIND, make_key(self._key, table_key), folder)

    def _known(self, table: RowTable) -> dict[int, Place]:
        """Return the rows of a table that are encoded, by their numbers."""
        known = self._places.get(table)
        if known is None:
            known = self._places[table] = {}
            for folder in self._cache.parts(_KIND, self._folder(table)) if table.path is not None else ():
                try:
                    part = StoredPart(folder)
                except (OSError, ValueError):  # damaged: its rows are encoded anew
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    _register(part, known)
        return known

    def _folder(self, table: RowTable) -> str:
        return make_key(self._key, table.key)

    def _encode_here(self, rows: Sequence[Row], known: dict[int, Place], advance: Callable[[int], None]) -> None:
        for row in rows:
            known[row.number] = (MemoryPart(self.writing.encode(row.load())), 0)
            advance(1)

    def _encode(
        self, table: RowTable, missing: NDArray[np.int64], known: dict[int, Place], advance: Callable[[int], None]
    ) -> None:
        with self._cache.scratch() as scratch:
            save_arrays(scratch, {name: table.facts[name][missing] for name in ("offsets", "sizes", "lines")})
            save_arrays(scratch, {"numbers": missing})
            writing = replace(self.writing, expected=int(table.facts["sizes"][missing].sum()) // self._processes)
            tasks = [
                {
                    "do": "encode", "path": str(table.path), "rows": str(scratch),
                    "span": (begin, min(begin + _PART, len(missing))), "format_name": table.format_name,
                    "writing": asdict(writing), "out": str(scratch / f"part-{begin}"),
                }
                for begin in range(0, len(missing), _PART)
            ]  # fmt: skip
            work(tasks, processes=self._processes if len(missing) > _FEW else 1, advance=advance)
            for task in tasks:
                folder = self._cache.keep_part(_KIND, self._folder(table), Path(task["out"]))
                _register(StoredPart(folder), known)


def _register(part: StoredPart, known: dict[int, Place]) -> None:
    for place, number in enumerate(part.numbers.tolist()):
        known.setdefault(number, (part, place))


def encode_part(
    *,
    path: str,
    rows: str,
    span: tuple[int, int],
    format_name: str,
    writing: Mapping[str, Any],
    out: str,
    advance: Callable[[int], None],
) -> None:
    """Encode some rows of a jsonl file into the folder `out`; what a worker does.

    `rows` is a folder with the numbers, lines, offsets and sizes of rows, of which those in `span` are meant.
    """
    begin, end = span
    way = EncodingRecipe(**writing)
    view = map_file(Path(path))
    facts = load_arrays(Path(rows), ("numbers", "lines", "offsets", "sizes"))
    part = PartWriter()
    for index in range(begin, end):
        start = int(facts["offsets"][index])
        source = Source(file="", line=int(facts["lines"][index]))
        conversation = read_conversation(
            view[start : start + int(facts["sizes"][index])], source, format_name, starts_file=start == 0
        )
        assert conversation is not None  # blank lines have no number
        part.add(int(facts["numbers"][index]), way.encode(conversation))
        if (index + 1 - begin) % _TOLD == 0:
            advance(_TOLD)
    advance((end - begin) % _TOLD)
    part.save(Path(out))
