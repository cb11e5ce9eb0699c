"""Rows of tables: csv and parquet, each by its number; nested columns are JSON text, or structs, lists and maps."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from actune.core.errors import ConfigError, DataError
from actune.data.reading.json_rows import load_cell
from actune.formats.padding import ARGUMENTS, TOOLS, Padded, drop_padding

if TYPE_CHECKING:
    import pyarrow as pa

# Columns that hold nested values; a csv table can only hold them as text.
_NESTED = ("messages", "conversations", "tools", "functions", "history")
_MAX_CELL = 1 << 30  # bytes; the csv module's own limit of 128 KiB is less than a long conversation
_BATCH = 256  # rows


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
        if not cell.isascii() and _has_bad_bytes(cell):
            return DataError(
                f"invalid UTF-8 in the row that begins in line {line}, column {key!r}",
                code="utf8-invalid",
                field=key,
                fix="convert the file to UTF-8 (for example: iconv -f GB18030 -t UTF-8)",
            )
    return _decode_cells({key: cell for key, cell in zip(header, cells, strict=True) if cell}, number)


def _has_bad_bytes(cell: str) -> bool:
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:  # single surrogates, which stand for bytes that are no UTF-8
        return True
    return False


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
        schema = table.schema_arrow
        padded = any(_pads(field, field.name in TOOLS) for field in schema)
        readers = {field.name: _reader(field.type, padded=padded) for field in schema}
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH):
            for row in _rows(batch):
                number += 1
                yield number, row if isinstance(row, DataError) else _convert(row, readers, number, padded=padded)
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
    """A value of a table that cannot be read; `place` grows on the way out of nested values."""

    def __init__(self, code: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.code, self.what, self.fix = code, what, fix
        self.place = ""

    def inside(self, outer: str) -> _CellError:
        """Return the error as that of the value around it."""
        self.place = outer + (f".{self.place}" if self.place and self.place[0] != "[" else self.place)
        return self

    def error(self, number: int) -> DataError:
        """Return what is said of the row."""
        return DataError(
            f"row {number}: {self.place} {self.what}", code=self.code, field=self.place or None, fix=self.fix
        )


_Reader = Callable[[Any], Any]


def _pads(field: pa.Field, inside: bool) -> bool:
    """Whether a column has structs among tools or arguments (`inside`), whose nulls may be no keys."""
    import pyarrow.types as types

    inside = inside or field.name in ARGUMENTS
    if types.is_struct(field.type) and inside:
        return True
    inner = range(field.type.num_fields) if types.is_nested(field.type) else ()
    return any(_pads(field.type.field(index), inside) for index in inner)


def _convert(
    row: dict[str, Any], readers: Mapping[str, _Reader | None], number: int, *, padded: bool
) -> dict[str, Any] | DataError:
    """Return a row of the values that JSON has; a key with null may be absent from the row."""
    key = ""
    try:
        for key, reader in readers.items():
            if reader is not None and row[key] is not None:
                row[key] = reader(row[key])
        decoded = _decode_cells(row, number)
        return drop_padding(decoded) if padded and not isinstance(decoded, DataError) else decoded
    except _CellError as problem:
        return problem.inside(key).error(number)
    except DataError as error:
        return DataError(f"row {number}: {error.message}", code=error.code, field=error.field, fix=error.fix)
    except RecursionError:
        return DataError(f"row {number} is nested too deeply", code="row-too-deep", fix="flatten its values")


def _reader(kind: pa.DataType, *, padded: bool, strict: bool = False) -> _Reader | None:
    """Return what makes a value of an Arrow type one that JSON has; None where it is that already.

    `strict`: of arguments, which may be any JSON, so that nothing may stand for a value that JSON does not have.
    `padded`: structs are marked as `Padded`.
    """
    import pyarrow as pa
    import pyarrow.types as types

    if isinstance(kind, pa.BaseExtensionType):
        return (
            _read_json
            if kind.extension_name == "arrow.json"
            else _reader(kind.storage_type, padded=padded, strict=strict)
        )
    if types.is_dictionary(kind):
        return _reader(kind.value_type, padded=padded, strict=strict)
    if types.is_struct(kind):
        named = {f.name: _reader(f.type, padded=padded, strict=strict or f.name in ARGUMENTS) for f in kind}
        return _struct_reader(named) if padded or any(named.values()) else None
    if types.is_map(kind):
        return _map_reader(_reader(kind.item_type, padded=padded, strict=strict))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _reader(kind.value_type, padded=padded, strict=strict)
        return None if inner is None else _list_reader(inner)
    if types.is_floating(kind):
        return _refuse_infinite if strict else _name_infinite
    plain = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    plain = plain or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)
    return None if plain else (_refuse if strict else _name)


def _name(value: object) -> object:
    """Return an object in place of a value that JSON does not have: no reader takes it for a text or a number."""
    return {type(value).__name__: str(value)}


def _refuse(value: object) -> object:
    raise _CellError(
        "arguments-unreadable",
        f"is {value!r} ({type(value).__name__}), which JSON does not have",
        "write it as a text or a number",
    )


def _name_infinite(value: float) -> object:
    return value if math.isfinite(value) else _name(value)


def _refuse_infinite(value: float) -> object:
    return value if math.isfinite(value) else _refuse(value)


def _read_json(value: str) -> object:
    read = load_cell(value, "holds JSON text that cannot be read")
    if isinstance(read, DataError):
        raise _CellError(read.code, read.message, str(read.fix))
    return read


def _struct_reader(readers: Mapping[str, _Reader | None]) -> _Reader:
    nested = [(key, reader) for key, reader in readers.items() if reader is not None]

    def read(value: dict[str, Any]) -> Padded:
        made = Padded(value)
        for key, reader in nested:
            item = value[key]
            if item is not None:
                try:
                    made[key] = reader(item)
                except _CellError as error:
                    raise error.inside(key) from None
        return made

    return read


def _map_reader(inner: _Reader | None) -> _Reader:
    def read(value: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value:
            if not isinstance(key, str):
                raise _CellError("cell-unreadable", f"has the key {key!r}, which is no text", "write it as JSON text")
            if key in found:
                raise _CellError("json-duplicate-key", f"has the key {key!r}, which stands twice", "keep one of them")
            try:
                found[key] = item if inner is None or item is None else inner(item)
            except _CellError as error:
                raise error.inside(key) from None
        return found

    return read


def _list_reader(inner: _Reader) -> _Reader:
    def read(value: list[Any]) -> list[Any]:
        made = []
        for index, item in enumerate(value):
            try:
                made.append(item if item is None else inner(item))
            except _CellError as error:
                raise error.inside(f"[{index}]") from None
        return made

    return read
