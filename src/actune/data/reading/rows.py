"""Raw rows out of a file, one by one, each with its line: jsonl, json, txt, csv and parquet, plain or packed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from actune.core.errors import ConfigError, DataError
from actune.core.types import Source
from actune.data.reading.json_rows import BOM, check_row, decode_line, read_line, scan_document
from actune.data.reading.tables import scan_csv, scan_parquet

__all__ = ["SUFFIXES", "Row", "check_row", "file_kind", "read_line", "scan_file"]

Row = tuple[Source, Mapping[str, Any] | DataError]

_PACKED = (".gz", ".zst")


def scan_file(path: Path, kind: str, dataset: str, shown: str) -> Iterator[Row]:
    """Yield (source, raw row or DataError) of an existing file of type `kind` (a key of SUFFIXES).

    Raises:
        ConfigError: the file as a whole cannot be read (a damaged gz, zst or parquet file, UTF-16 text).
    """
    scan = SUFFIXES[kind]
    try:
        with path.open("rb") as plain:
            stream = _unpack(plain, kind)
            if not kind.startswith(".parquet"):
                _refuse_utf16(stream)
            for line, row in scan(stream):
                yield Source(file=shown, line=line, dataset=dataset), check_row(row)
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error.message}", fix=error.fix) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{shown} cannot be read: {error}", fix="the file is damaged; fetch it again") from error


def scan_lines(path: Path, kind: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a jsonl file, plain or packed, with their numbers and without their ends; no blank ones."""
    with path.open("rb") as plain:
        for line, raw in enumerate(_unpack(plain, kind), 1):
            raw = raw.removeprefix(BOM) if line == 1 else raw
            if raw and not raw.isspace():
                yield line, raw.removesuffix(b"\n").removesuffix(b"\r")


def file_kind(path: Path) -> str:
    """Return the type of a file as its name says it: a key of SUFFIXES for files that can be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _PACKED
    return "".join(suffixes[-2:] if packed else suffixes[-1:])


def _unpack(plain: io.BufferedReader, kind: str) -> io.BufferedReader:
    if kind.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=plain))  # pyrefly: ignore[bad-argument-type]
    if kind.endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(plain, "zstd"))  # pyrefly: ignore[bad-argument-type]
    return plain


def _refuse_utf16(stream: io.BufferedReader) -> None:
    """Refuse what begins like UTF-16 text: every line of it would be an error of its own."""
    opening = stream.peek(4)[:4]
    zeros = [byte == 0 for byte in opening]
    # Without a byte order mark, every second byte of what JSON and CSV begin with is zero.
    if opening[:2] in (b"\xff\xfe", b"\xfe\xff") or zeros in ([False, True] * 2, [True, False] * 2):
        raise ConfigError(
            "the file is UTF-16 text, UTF-8 is needed", fix="convert it, for example: iconv -f UTF-16 -t UTF-8"
        )


def _scan_jsonl(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    for line, raw in enumerate(stream, 1):
        value = read_line(raw, line)
        if value is not None:
            yield line, value


def _scan_json(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    yield from scan_document(stream.read())


def _scan_txt(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    """Yield each line that is not blank as a row `{"text": ...}`."""
    for line, raw in enumerate(stream, 1):
        raw = raw.removeprefix(BOM) if line == 1 else raw
        if raw and not raw.isspace():
            text = decode_line(raw.removesuffix(b"\n").removesuffix(b"\r"), line)
            yield line, text if isinstance(text, DataError) else {"text": text}


def _scan_parquet(stream: BinaryIO) -> Iterator[tuple[int, object]]:
    seekable = isinstance(cast("io.BufferedReader", stream).raw, io.FileIO)
    # Seeking in a packed file would unpack it anew each time.
    yield from scan_parquet(stream if seekable else io.BytesIO(stream.read()))


_SCANNERS: dict[str, Callable[[BinaryIO], Iterator[tuple[int, object]]]] = {
    ".jsonl": _scan_jsonl,
    ".json": _scan_json,
    ".csv": scan_csv,
    ".parquet": _scan_parquet,
    ".txt": _scan_txt,
}
SUFFIXES = _SCANNERS | {f"{suffix}{packed}": scan for packed in _PACKED for suffix, scan in _SCANNERS.items()}
