"""`actune check --fix OUT`: the rows again, repaired where that is safe; nothing is lost without a word.

Rows in = rows of OUT + rows of OUT.quarantine.jsonl + duplicates, which OUT.repairs.jsonl names. A row without a repair is
copied as it stands in its file, byte for byte out of a jsonl file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_file
from actune.core.json_text import write_json
from actune.core.types import Conversation, Source
from actune.data.checks.repairs import Repair
from actune.data.checks.rewrite import rewrite_row, write_row
from actune.data.reading.files import find_files
from actune.data.reading.rows import file_kind, scan_lines
from actune.data.reading.sources import Quarantined, find_file_format, read_file, split_count, write_quarantine
from actune.formats import registry
from actune.recipes.examine import Examination, Mended
from actune.recipes.writing import check_out, stderr


@dataclass(slots=True, kw_only=True)
class Fixed:
    """What `--fix` wrote: counts, the rows left out, and every repair as it stands in OUT.repairs.jsonl."""

    out: Path
    format: str
    rows: int = 0
    written: int = 0
    removed: int = 0
    left_out: list[Quarantined] = field(default_factory=list)
    repairs: list[dict[str, Any]] = field(default_factory=list)
    unwritten: list[Quarantined] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return the numbers for the JSON report."""
        return {
            "file": str(self.out),
            "format": self.format,
            "rows": self.rows,
            "written": self.written,
            "quarantined": len(self.left_out),
            "removed": self.removed,
        }

    def summary(self) -> Iterator[str]:
        """Yield the lines that tell a person what was written where."""
        yield f"{self.written:,} of {self.rows:,} rows written to {self.out}"
        if self.removed:
            yield f"{self.removed:,} rows that stand twice removed"
        if self.left_out:
            yield f"{len(self.left_out):,} rows left out, listed with reasons in {_beside(self.out, 'quarantine')}"
        if self.repairs:
            yield f"{len(self.repairs):,} repairs, listed in {_beside(self.out, 'repairs')}"
        if self.unwritten:
            first = self.unwritten[0]
            yield (
                f"{len(self.unwritten):,} rows stay as they are, because their repair cannot be written as {self.format}; "
                f"the first: {first.source}: {first.reason}"
            )


def check_outputs(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Refuse files that cannot be written, before any work.

    Raises:
        ConfigError: OUT is no jsonl file, would replace an input or, without `overwrite`, any file; or only some rows of
            a dataset are asked for.
    """
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(
            f"--fix writes one row a line; {out} is not named so", fix=f"name it {out.with_suffix('.jsonl')}"
        )
    for spec in inputs:
        if split_count(spec)[1] is not None:
            raise ConfigError(f"--fix writes whole files, not {spec!r}", fix="leave #N out")
    for path in (out, _beside(out, "quarantine"), _beside(out, "repairs")):
        check_out(path, inputs)
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} is there already", fix="give another file or --overwrite")


def write_fixed(out: Path, data: Sequence[str], format_name: str | None, examined: Examination) -> Fixed:
    """Read the rows once more and write them as the examination of them says.

    Raises:
        CheckpointError: a file cannot be written; OUT is then as it was.
        ConfigError: the rows are not the ones that were examined.
    """
    files = [found for spec in data for found in find_files(spec)[0]]
    formats = [format_name or find_file_format(path, shown=shown) for path, shown in files]
    target = _choose_format({name for name in formats if name})
    fixed = Fixed(out=out, format=target.name)
    with atomic_file(out) as stream:
        for (path, shown), name in zip(files, formats, strict=True):
            for source, raw, line in _read_twice(path, shown):
                _write_row(stream, fixed, examined, source, raw, line, name, target)
        if fixed.rows != examined.rows:
            raise ConfigError("the data changed while it was checked", fix="run the command again")
    for kind in ("quarantine", "repairs"):
        _beside(out, kind).unlink(missing_ok=True)
    if fixed.left_out:
        write_quarantine(_beside(out, "quarantine"), fixed.left_out)
    if fixed.repairs:
        with atomic_file(_beside(out, "repairs")) as stream:
            stream.writelines(json.dumps(repair, ensure_ascii=False) + "\n" for repair in fixed.repairs)
    return fixed


def _beside(out: Path, kind: str) -> Path:
    return out.with_name(f"{out.name}.{kind}.jsonl")


def _choose_format(names: set[str]) -> registry.Format:
    """Return the format to write: that of the rows where all are of one that can be written, else openai."""
    if len(names) == 1:
        form = registry.get(next(iter(names)))
        if form.write is not None:
            return form
    if names:
        why = "can be read, not written" if len(names) == 1 else "are different formats"
        stderr().print(f"note: {', '.join(sorted(names))} {why}; the rows are written as openai", markup=False)
    return registry.get("openai")


def _read_twice(path: Path, shown: str) -> Iterator[tuple[Source, Mapping[str, Any] | DataError, str | None]]:
    """Yield the rows of a file, with the very text of each where it stands in a line of its own."""
    kind = file_kind(path)
    lines = scan_lines(path, kind) if kind.startswith(".jsonl") else None
    for source, raw in read_file(path, shown=shown):
        number, line = (0, None) if lines is None else next(lines)
        assert line is None or number == source.line
        yield source, raw, None if line is None or isinstance(raw, DataError) else line.decode("utf-8")


def _write_row(
    stream: TextIO,
    fixed: Fixed,
    examined: Examination,
    source: Source,
    raw: Mapping[str, Any] | DataError,
    line: str | None,
    name: str,
    target: registry.Format,
) -> None:
    number = fixed.rows
    fixed.rows += 1
    if number in examined.left_out:
        fixed.left_out.append(examined.left_out[number])
        return
    if number in examined.doubles:
        place, why = examined.doubles[number]
        fixed.removed += 1
        repair = Repair(code="duplicate-row", field="messages", before=why, after=None)
        fixed.repairs.append(_repair_json(place, repair))
        return
    assert not isinstance(raw, DataError)
    text = line if line is not None else write_json(raw)
    mended = examined.mended.get(number)
    if mended is not None:
        text = _write_mended(fixed, raw, text, mended, name, target)
    elif name != target.name:
        text = _write_other(fixed, registry.read_row(raw, source, name), target)
    if text is not None:
        stream.write(text + "\n")
        fixed.written += 1


def _write_mended(
    fixed: Fixed, raw: Mapping[str, Any], text: str, mended: Mended, name: str, target: registry.Format
) -> str | None:
    """Return a repaired row as text; where it cannot be written, the row as it was, or None if that had an error."""
    row = mended.conversation
    try:
        written = rewrite_row(raw, row, target) if name == target.name else write_row(row, target)
        again = write_json(written)
    except (DataError, RenderError) as error:
        problem = Quarantined.of(row.source, error)
        if mended.error is not None or name != target.name:
            fixed.left_out.append(mended.error or problem)
            return None
        fixed.unwritten.append(problem)
        return text
    fixed.repairs += [_repair_json(row.source, repair) for repair in mended.repairs]
    return again


def _write_other(fixed: Fixed, row: Conversation, target: registry.Format) -> str | None:
    """Return a row in another format than its own."""
    try:
        return write_json(write_row(row, target))
    except (DataError, RenderError) as error:
        fixed.left_out.append(Quarantined.of(row.source, error))
        return None


def _repair_json(source: Source, repair: Repair) -> dict[str, Any]:
    entry = {
        "file": source.file,
        "line": source.line,
        "code": repair.code,
        "field": repair.field,
        "before": repair.before,
        "after": repair.after,
    }
    return {key: value for key, value in entry.items() if value is not None}
