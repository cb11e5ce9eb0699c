"""Raw rows out of a file, one by one, each with its line: jsonl, json, csv and parquet, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from actune.core.errors import ConfigError, DataError
from actune.core.types import Source
from actune.formats.fields import kind as kind_of

Row = tuple[Source, Mapping[str, Any] | DataError]

_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[ \t\r\n]*")
# Columns that hold nested values; a table can only hold them as text.
_NESTED = ("messages", "conversations", "tools", "functions", "history")
_MAX_CELL = 1 << 30  # bytes; the csv module's own limit of 128 KiB is less than a long conversation


def scan_file(path: Path, kind: str, dataset: str, shown: str) -> Iterator[Row]:
    """Yield (source, raw row or DataError) of an existing file of type `kind` (a key of SUFFIXES).

    Raises:
        ConfigError: the file as a whole cannot be read (a damaged gz or parquet file, UTF-16 text).
    """
    scan = SUFFIXES[kind]
    try:
        with path.open("rb") as plain:
            stream: BinaryIO = gzip.GzipFile(fileobj=plain) if kind.endswith(".gz") else plain  # pyrefly: ignore[bad-assignment]
            for line, row in scan(_refuse_utf16(stream)):
                yield Source(file=shown, line=line, dataset=dataset), check_row(row)
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error.message}", fix=error.fix) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{shown} cannot be read: {error}", fix="the file is damaged; fetch it again") from error


def file_kind(path: Path) -> str:
    """Return the type of a file as its name says it: a key of SUFFIXES for files that can be read."""
    suffixes = path.suffixes
    packed = bool(suffixes) and suffixes[-1].lower() == ".gz"
    return "".join(suffixes[-2:] if packed else suffixes[-1:]).lower()


def _refuse_utf16(stream: BinaryIO) -> BinaryIO:
    """Return the stream at its start; every line of UTF-16 text would be an error of its own."""
    opening = stream.read(2)
    if opening in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(
            "the file is UTF-16 text, UTF-8 is needed", fix="convert it, for example: iconv -f UTF-16 -t UTF-8"
        )
    stream.seek(0)
    return stream


def check_row(row: object) -> Mapping[str, Any] | DataError:
    """Return a row that is an object as it is; anything else is an error."""
    if isinstance(row, (Mapping, DataError)):
        return row
    return DataError(
        f"the row is {kind_of(row)}, not an object", code="row-not-object", fix="make each row a JSON object"
    )


# --- JSON -------------------------------------------------------------------------------------------------------------


def _decode(raw: bytes, line: int, offset: int = 0) -> str | DataError:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return DataError(
            f"invalid UTF-8 in line {line}, byte {error.start + 1 + offset}: {error.object[error.start : error.end]!r}",
            code="utf8-invalid",
            fix="convert the file to UTF-8 (for example: iconv -f GB18030 -t UTF-8)",
        )


def _load(text: str, line: int) -> object:
    """Return the JSON value of one line, or a DataError."""
    try:
        value = json.loads(text)
    except RecursionError:
        return DataError(f"line {line} is nested too deeply", code="json-invalid", fix="flatten the row, or remove it")
    except json.JSONDecodeError as error:
        return _syntax_error(error.msg, line, error.colno)
    except ValueError as error:  # an integer of thousands of digits
        return DataError(f"line {line}: {error}", code="json-invalid", fix="correct the line, or remove it")
    return _refuse_surrogates(value, text, line)


def _refuse_surrogates(value: object, text: str, line: int) -> object:
    if "\\ud" not in text and "\\uD" not in text:
        return value
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return DataError(
            f"line {line} has half of a surrogate pair (\\ud...), which is no character",
            code="surrogate-alone",
            fix="write the whole pair, or the character itself",
        )
    return value


def _syntax_error(what: str, line: int, column: int) -> DataError:
    return DataError(
        f"wrong JSON in line {line}, column {column}: {what}",
        code="json-invalid",
        fix="one JSON object a line; strings in double quotes, no comma after the last entry",
    )


def _scan_jsonl(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    for line, raw in enumerate(stream, 1):
        value = read_line(raw, line)
        if value is not None:
            yield line, value


def read_line(raw: bytes, line: int) -> Mapping[str, Any] | DataError | None:
    """Return the value of one line of a jsonl file, or a DataError; None for a blank line."""
    bom = line == 1 and raw.startswith(_BOM)
    text = _decode(raw[3:] if bom else raw, line, 3 if bom else 0)
    if isinstance(text, DataError):
        return text
    return check_row(_load(text, line)) if text.strip() else None


def _scan_json(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    raw = stream.read()
    text = _decode_whole(raw.removeprefix(_BOM), 3 if raw.startswith(_BOM) else 0)
    if isinstance(text, tuple):
        yield text
        return
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] == "{":
        if _is_lines(text, start):
            yield from _scan_jsonl(io.BytesIO(raw))
            return
        place = _find_rows(text, start)
        if place is None:
            line = 1 + text.count("\n", 0, start)
            yield line, _load_from(text, start, line)
            return
        start = place
    if text[start] != "[":
        yield 1, _syntax_error("an array of objects is needed", 1 + text.count("\n", 0, start), 1)
        return
    yield from _scan_array(text, start)


def _decode_whole(raw: bytes, offset: int) -> str | tuple[int, DataError]:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        start = raw.rfind(b"\n", 0, error.start) + 1
        fault = _decode(raw, line, offset if line == 1 else -start)
        return line, fault if isinstance(fault, DataError) else _syntax_error("invalid UTF-8", line, 1)


def _scan_array(text: str, start: int) -> Iterator[tuple[int, object]]:
    """Yield the elements of the array that opens at `start`, each with its line; stops at the first wrong element."""
    decoder = json.JSONDecoder()
    place = _skip(text, start + 1)
    line, counted = 1 + text.count("\n", 0, place), place
    if place < len(text) and text[place] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = decoder.raw_decode(text, place)
        except RecursionError:
            yield line, DataError(f"line {line} is nested too deeply", code="json-invalid", fix="flatten the row")
            return
        except json.JSONDecodeError as error:
            yield line, _unfinished(_syntax_error(error.msg, error.lineno, error.colno))
            return
        yield line, _refuse_surrogates(value, text[place:end], line)
        place = _skip(text, end)
        if text[place : place + 1] == "]":
            return
        if text[place : place + 1] != ",":
            at = 1 + text.count("\n", 0, place)
            column = place - (text.rfind("\n", 0, place) + 1) + 1
            yield at, _unfinished(_syntax_error("',' or ']' expected after an element", at, column))
            return
        place = _skip(text, place + 1)


def _unfinished(error: DataError) -> DataError:
    return DataError(
        f"{error.message}; the rows after it are not read",
        code=error.code,
        fix="correct it (in a jsonl file only the one line would be lost)",
    )


def _is_lines(text: str, start: int) -> bool:
    """Whether a file named .json holds one object a line."""
    end = text.find("\n", start)
    if end < 0 or _skip(text, end) == len(text):
        return False
    try:
        return isinstance(json.loads(text[start:end]), dict)
    except (ValueError, RecursionError):
        return False


def _find_rows(text: str, start: int) -> int | None:
    """Return where the list under "data" or "rows" of a top-level object opens; None when it has none."""
    decoder = json.JSONDecoder()
    place = start
    try:
        while text[place : place + 1] in ("{", ","):
            key, place = decoder.raw_decode(text, _skip(text, place + 1))
            place = _skip(text, place)
            if text[place : place + 1] != ":":
                return None
            place = _skip(text, place + 1)
            if key in ("data", "rows") and text[place : place + 1] == "[":
                return place
            _, place = decoder.raw_decode(text, place)
            place = _skip(text, place)
    except (ValueError, RecursionError):
        return None
    return None


def _load_from(text: str, start: int, line: int) -> object:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return _syntax_error(error.msg, error.lineno, error.colno)
    except (ValueError, RecursionError) as error:
        return DataError(f"line {line}: {error}", code="json-invalid", fix="correct the file")
    return _refuse_surrogates(value, text[start:], line)


def _skip(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match is not None else place


# --- tables -----------------------------------------------------------------------------------------------------------


def _scan_csv(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    """Yield rows by number (the header is none); cells of nested columns are JSON text, empty cells are absent."""
    csv.field_size_limit(_MAX_CELL)
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        try:
            cells = next(reader, None)
        except UnicodeDecodeError as error:
            yield (
                number + 1,
                DataError(
                    f"invalid UTF-8 after line {reader.line_num}: {error.reason}; the rows after it are not read",
                    code="utf8-invalid",
                    fix="convert the file to UTF-8",
                ),
            )
            return
        except csv.Error as error:
            yield number + 1, DataError(f"line {reader.line_num}: {error}", code="csv-invalid", fix="correct the line")
            return
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
            continue
        number += 1
        if len(cells) != len(header):
            yield (
                number,
                DataError(
                    f"row {number} has {len(cells)} cells, the header {len(header)}",
                    code="csv-columns",
                    fix="put cells with commas or line breaks in double quotes",
                ),
            )
            continue
        yield number, _decode_cells({key: cell for key, cell in zip(header, cells, strict=True) if cell}, number)


def _scan_parquet(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        packed = isinstance(stream, gzip.GzipFile)  # seeking in it would unpack it anew each time
        table = pq.ParquetFile(io.BytesIO(stream.read()) if packed else stream)
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield number, _decode_cells(row, number)
    except pa.ArrowException as error:
        raise ConfigError(f"the parquet file cannot be read: {error}", fix="fetch it again") from error


def _decode_cells(row: dict[str, Any], number: int) -> dict[str, Any] | DataError:
    """Return a table row with the JSON text of its nested columns decoded."""
    for key in _NESTED:
        cell = row.get(key)
        if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
            try:
                row[key] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                return DataError(
                    f"row {number}, column {key!r}: wrong JSON: {error}",
                    code="json-invalid",
                    field=key,
                    fix="write the cell as JSON",
                )
    return row


_SCANNERS: dict[str, Callable[[BinaryIO], Iterator[tuple[int, object]]]] = {
    ".jsonl": _scan_jsonl,
    ".json": _scan_json,
    ".csv": _scan_csv,
    ".parquet": _scan_parquet,
}
SUFFIXES = _SCANNERS | {f"{suffix}.gz": scan for suffix, scan in _SCANNERS.items()}
