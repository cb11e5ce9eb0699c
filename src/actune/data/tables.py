"""Rows of tables: csv and parquet, each by its number; nested columns are JSON text, or structs, lists and maps."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from actune.core.errors import ConfigError, DataError
from actune.data.json_rows import load_cell
from actune.formats.padding import ARGUMENTS, Padded, drop_padding

if TYPE_CHECKING:
    import pyarrow as pa

# Columns that hold nested values; a csv table can only hold them as text.
_NESTED = ("messages", "conversations", "tools", "functions", "history")
_MAX_CELL = 1 << 30  # bytes; the csv module's own limit of 128 KiB is less than a long conversation
_BATCH = 256  # rows
_BAD_BYTES = range(0xDC80, 0xDD00)  # what `surrogateescape` makes of bytes that are no UTF-8


# --- csv --------------------------------------------------------------------------------------------------------------


def scan_csv(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    """Yield (number, row or DataError), the header not counted; an empty cell is an absent key.

    Raises:
        ConfigError: the header names a column twice.
    """
    csv.field_size_limit(_MAX_CELL)
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            number += 1
            yield number, _csv_fault(f"line {begins}", str(error))
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _check_header(cells)
            continue
        number += 1
        yield number, _csv_row(header, cells, number, begins)


def _csv_fault(where: str, what: str) -> DataError:
    lost = "unexpected end" in what
    return DataError(
        f"{where}: {'a quote that is never closed; the rows after it are not read' if lost else what}",
        code="csv-invalid",
        fix="close the quote; a quote inside of a quoted cell is written twice",
    )


def _csv_row(header: Sequence[str], cells: Sequence[str], number: int, line: int) -> object:
    if len(cells) != len(header):
        return DataError(
            f"row {number} has {len(cells)} cells, the header {len(header)}",
            code="csv-columns",
            fix="put cells with commas or line breaks in double quotes",
        )
    for key, cell in zip(header, cells, strict=True):
        if not cell.isascii() and any(ord(character) in _BAD_BYTES for character in cell):
            return DataError(
                f"invalid UTF-8 in the row that begins in line {line}, column {key!r}",
                code="utf8-invalid",
                field=key,
                fix="convert the file to UTF-8 (for example: iconv -f GB18030 -t UTF-8)",
            )
    return _decode_cells({key: cell for key, cell in zip(header, cells, strict=True) if cell}, number)


def _check_header(names: Sequence[str]) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"the column {twice!r} stands twice in the table", fix="rename or remove one of them")
    return list(names)


def _decode_cells(row: dict[str, Any], number: int) -> dict[str, Any] | DataError:
    """Return a row with the JSON text of its nested columns decoded, also where it stands in a list."""
    for key in _NESTED:
        cell = row.get(key)
        where = f"row {number}, column {key!r}"
        if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
            value = load_cell(cell, where)
        elif isinstance(cell, list) and cell and all(isinstance(item, str) and item[:1] == "{" for item in cell):
            value = [load_cell(item, f"{where}, entry {index + 1}") for index, item in enumerate(cell)]
            value = next((item for item in value if isinstance(item, DataError)), value)
        else:
            continue
        if isinstance(value, DataError):
            return DataError(value.message, code=value.code, field=key, fix=value.fix)
        row[key] = value
    return row


# --- parquet ----------------------------------------------------------------------------------------------------------


def scan_parquet(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    """Yield (number, row or DataError) of a parquet file that can be sought in.

    Rows are of values that JSON has: structs and maps are objects, JSON columns their values; see `padding` for nulls.

    Raises:
        ConfigError: the file is damaged or no parquet file, or names a column twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(stream)
        _check_header(table.schema_arrow.names)
        readers = {field.name: _reader(field.type) for field in table.schema_arrow}
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH):
            for row in _rows(batch):
                number += 1
                yield number, row if isinstance(row, DataError) else _convert(row, readers, number)
    except pa.ArrowException as error:
        raise ConfigError(f"the parquet file cannot be read: {error}", fix="fetch it again") from error


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | DataError]:
    """Yield the rows of a batch; one with a value that has no Python form costs no other."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, ImportError):  # no UTF-8, a time beyond what Python has, nanoseconds
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield DataError(f"invalid UTF-8 in a text column: {error}", code="utf8-invalid", fix="write UTF-8 text")
        except (ValueError, OverflowError, ImportError) as error:
            yield DataError(
                f"a value of the row cannot be read: {error}", code="cell-unreadable", fix="write it as text"
            )


class _CellError(Exception):
    """A value of a table that cannot be read; `error` says what is wrong."""

    def __init__(self, error: DataError) -> None:
        super().__init__(error)
        self.error = error


_Reader = Callable[[Any, str], Any]


def _convert(row: dict[str, Any], readers: Mapping[str, _Reader | None], number: int) -> dict[str, Any] | DataError:
    """Return a row of the values that JSON has; a key with null may be absent from the row."""
    try:
        for key, reader in readers.items():
            if reader is not None and row[key] is not None:
                row[key] = reader(row[key], key)
        decoded = _decode_cells(row, number)
        return decoded if isinstance(decoded, DataError) else drop_padding(decoded)
    except (_CellError, DataError) as problem:
        error = problem.error if isinstance(problem, _CellError) else problem
        return DataError(f"row {number}: {error.message}", code=error.code, field=error.field, fix=error.fix)
    except RecursionError:
        return DataError(f"row {number} is nested too deeply", code="row-too-deep", fix="flatten its values")


def _reader(kind: pa.DataType) -> _Reader | None:
    """Return what makes a value of an Arrow type one that JSON has; None where it is that already."""
    import pyarrow.types as types

    if isinstance(kind, types.lib.BaseExtensionType):
        return _read_json if kind.extension_name == "arrow.json" else _reader(kind.storage_type)
    if types.is_dictionary(kind):
        return _reader(kind.value_type)
    if types.is_struct(kind):
        return _struct_reader({field.name: _reader(field.type) for field in kind})
    if types.is_map(kind):
        return _map_reader(_reader(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type)
        return None if inner is None else _list_reader(inner)
    if types.is_floating(kind):
        return _read_float
    plain = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    plain = plain or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)
    return None if plain else _read_other


def _read_float(value: float, place: str) -> object:
    return value if math.isfinite(value) else _read_other(value, place)


def _read_other(value: object, place: str) -> object:
    """Return an object in place of a value that JSON does not have: no reader takes it for a text or a number.

    Arguments may be any object, so there it is an error.
    """
    kind = type(value).__name__
    if any(part in ARGUMENTS for part in place.replace("[", ".").split(".")):
        raise _CellError(
            DataError(
                f"{place} is {value!r} ({kind}), which JSON does not have",
                code="arguments-unreadable",
                field=place,
                fix="write it as a text or a number",
            )
        )
    return {kind: str(value)}


def _read_json(value: str, place: str) -> object:
    read = load_cell(value, place)
    if isinstance(read, DataError):
        raise _CellError(DataError(read.message, code=read.code, field=place, fix=read.fix))
    return read


def _struct_reader(readers: Mapping[str, _Reader | None]) -> _Reader:
    def read(value: Mapping[str, Any], place: str) -> Padded:
        return Padded(
            {
                key: item if reader is None or item is None else reader(item, f"{place}.{key}")
                for (key, item), reader in zip(value.items(), readers.values(), strict=True)
            }
        )

    return read


def _map_reader(inner: _Reader | None) -> _Reader:
    def read(value: Sequence[tuple[Any, Any]], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value:
            if not isinstance(key, str):
                what = f"{place}: the key {key!r} is no text"
                raise _CellError(DataError(what, code="cell-unreadable", field=place, fix="write it as JSON text"))
            if key in found:
                what = f"{place}: the key {key!r} stands twice in one object"
                raise _CellError(DataError(what, code="json-duplicate-key", field=place, fix="keep one of them"))
            found[key] = item if inner is None or item is None else inner(item, f"{place}.{key}")
        return found

    return read


def _list_reader(inner: _Reader) -> _Reader:
    def read(value: Sequence[Any], place: str) -> Sequence[Any]:
        if inner is _read_float and all(item is None or math.isfinite(item) for item in value):
            return value  # a vector of thousands of numbers, say
        return [item if item is None else inner(item, f"{place}[{index}]") for index, item in enumerate(value)]

    return read
