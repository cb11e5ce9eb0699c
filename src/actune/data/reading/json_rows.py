"""Rows out of JSON text: one line of a jsonl file, or a whole .json document; what is wrong costs as few rows as it can."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from actune.core.errors import DataError
from actune.core.json_text import DuplicateKeyError, NotJsonError, find_end, make_reader, read_json
from actune.formats.fields import kind as kind_of

BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[ \t\r\n]*")
BAD_BYTE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are no UTF-8
_SURROGATE = re.compile(rb"\\u[dD]")
_SURROGATE_TEXT = re.compile(r"\\u[dD]")
_LISTS = ("data", "rows")
# Objects that are the rows of a file are looked for in so many of its first lines.
_PROBED = 3


def check_row(row: object) -> Mapping[str, Any] | DataError:
    """Return a row that is an object as it is; anything else is an error."""
    if isinstance(row, (Mapping, DataError)):
        return row
    return DataError(
        f"the row is {kind_of(row)}, not an object", code="row-not-object", fix="make each row a JSON object"
    )


def read_line(raw: bytes, line: int) -> Mapping[str, Any] | DataError | None:
    """Return the value of one line of a jsonl file, or a DataError; None for a blank line."""
    bom = line == 1 and raw.startswith(BOM)
    if bom:
        raw = raw[3:]
    if not raw or raw.isspace():
        return None
    text = decode_line(raw, line, 3 if bom else 0)
    if isinstance(text, DataError):
        return text
    value = load_text(text, line)
    if _SURROGATE.search(raw) is not None:
        value = _refuse_surrogates(value, line)
    return check_row(value)


def decode_line(raw: bytes, line: int, offset: int = 0) -> str | DataError:
    """Return the text of a line; `offset` is the number of its bytes that stand before `raw`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return bad_bytes(line, error.start + 1 + offset, error.object[error.start : error.end])


def bad_bytes(line: int, byte: int, found: bytes) -> DataError:
    """Return the error of bytes that are no UTF-8."""
    return DataError(
        f"invalid UTF-8 in line {line}, byte {byte}: {found!r}",
        code="utf8-invalid",
        fix="convert the file to UTF-8 (for example: iconv -f GB18030 -t UTF-8)",
    )


def load_text(text: str, line: int) -> object:
    """Return the JSON value of a text that stands in line `line`, or a DataError."""
    try:
        return read_json(text)
    except json.JSONDecodeError as error:
        return _syntax_error(error.msg, line + error.lineno - 1, error.colno)
    except (ValueError, RecursionError) as error:
        return _value_error(error, f"line {line}")


def _syntax_error(what: str, line: int, column: int) -> DataError:
    return DataError(
        f"wrong JSON in line {line}, column {column}: {what}",
        code="json-invalid",
        fix="one JSON object a line; strings in double quotes, no comma after the last entry",
    )


def _value_error(error: Exception, where: str) -> DataError:
    """Return the error of JSON whose syntax is right, or that is too much to read."""
    if isinstance(error, DuplicateKeyError):
        return DataError(
            f"{where}: {error}", code="json-duplicate-key", fix="keep one of the two: readers take either, silently"
        )
    if isinstance(error, NotJsonError):
        return DataError(f"{where}: {error}", code="json-number", fix="write a number, null, or a text in quotes")
    if isinstance(error, RecursionError):
        return DataError(f"{where} is nested too deeply", code="json-invalid", fix="flatten the row, or remove it")
    return DataError(f"{where}: {error}", code="json-invalid", fix="correct it, or remove the row")


def load_cell(text: str, where: str) -> object:
    """Return the value of a table's cell that holds JSON text, or a DataError; `where` names the cell."""
    try:
        return read_json(text)
    except json.JSONDecodeError as error:
        return DataError(f"{where}: wrong JSON: {error}", code="json-invalid", fix="write the cell as JSON")
    except (ValueError, RecursionError) as error:
        return _value_error(error, where)


def _refuse_surrogates(value: object, line: int) -> object:
    """Return an error in place of a value that holds half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return DataError(
            f"line {line} has half of a surrogate pair (\\ud...), which is no character",
            code="surrogate-alone",
            fix="write the whole pair, or the character itself",
        )
    except (TypeError, RecursionError):  # an error already, or nested as deeply as can just be read
        return value
    return value


# --- whole documents --------------------------------------------------------------------------------------------------


def scan_document(raw: bytes) -> Iterator[tuple[int, object]]:
    """Yield (line, row or DataError) of a .json file.

    It holds an array of rows, an object with such an array under `data` or `rows`, an object of rows by their ids, one
    row, or an object a line. A wrong element is one error; reading goes on at the next element where its place is
    certain, else the error says that the rest is not read.
    """
    document = _Document(raw.removeprefix(BOM).decode("utf-8", "surrogateescape"))
    start = document.skip(0)
    if start == len(document.text):
        return
    opening = document.text[start]
    if opening == "{" and document.is_lines(start):
        for line, part in enumerate(io.BytesIO(raw), 1):
            value = read_line(part, line)
            if value is not None:
                yield line, value
    elif opening == "{":
        yield from document.scan_object(start)
    elif opening == "[":
        yield from document.scan_array(start, whole=True)
    else:
        line = document.line(start)
        yield line, _syntax_error("an array of objects is needed", line, 1)


class _Document:
    """The text of a .json file; bytes that are no UTF-8 are single surrogates in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._damaged = BAD_BYTE.search(text) is not None
        self._read = make_reader(text)
        self._line, self._counted = 1, 0

    def skip(self, place: int) -> int:
        """Return the next place that is not blank."""
        match = _BLANK.match(self.text, place)
        return match.end() if match is not None else place

    def line(self, place: int) -> int:
        """Return the line of a place; places are asked for in ascending order."""
        if place < self._counted:
            return 1 + self.text.count("\n", 0, place)
        self._line += self.text.count("\n", self._counted, place)
        self._counted = place
        return self._line

    def column(self, place: int) -> int:
        """Return the column of a place, from 1."""
        return place - self.text.rfind("\n", 0, place)

    def is_lines(self, start: int) -> bool:
        """Whether the file holds one object a line."""
        lines = itertools.islice(
            (line for line in io.StringIO(self.text[start:], newline="\n") if line.strip()), _PROBED
        )
        probed = list(lines)
        if len(probed) < 2 or probed[0].strip() == "{":
            return False
        return any(isinstance(load_text(line, 1), dict) for line in probed)

    def read(self, place: int) -> tuple[object, int | None]:
        """Return the value at a place, or a DataError, and where it ends; None where that cannot be known."""
        line = self.line(place)
        end: int | None = None
        try:
            value, end = self._read(self.text, place)
        except json.JSONDecodeError as error:
            return _syntax_error(error.msg, error.lineno, error.colno), None
        except (ValueError, RecursionError) as error:
            try:
                end = find_end(self.text, place)
            except (ValueError, RecursionError):
                end = None
            return _value_error(error, f"line {line}"), end
        if self._damaged:
            bad = BAD_BYTE.search(self.text, place, end)
            if bad is not None:
                before = self.text[self.text.rfind("\n", 0, bad.start()) + 1 : bad.start()]
                byte = len(before.encode("utf-8", "surrogateescape")) + 1
                return bad_bytes(self.line(bad.start()), byte, bad.group().encode("utf-8", "surrogateescape")), end
        if _SURROGATE_TEXT.search(self.text, place, end) is not None:
            value = _refuse_surrogates(value, line)
        return value, end

    def scan_array(self, start: int, *, whole: bool) -> Iterator[tuple[int, object]]:
        """Yield the elements of the array that opens at `start`; `whole`: nothing may follow it."""
        first = place = self.skip(start + 1)
        count = 0
        while self.text[place : place + 1] != "]" or count:
            line = self.line(place)
            value, end = self.read(place)
            follows = self.skip(end) if end is not None else place
            mark = self.text[follows : follows + 1]
            if end is not None and mark == ",":
                yield line, value
                place, count = self.skip(follows + 1), count + 1
                continue
            if end is not None and mark == "]":
                yield line, value
                place = follows
                break
            if end is not None:  # the element is whole, what follows it is in the wrong place
                yield line, value
                count += 1
                line, place = self.line(follows), follows
                value = _syntax_error("',' or ']' expected after an element", line, self.column(follows))
            after = self._next_element(first, place, count)
            yield line, value if after is not None else _unfinished(value)
            if after is None:
                return
            place, count = after, count + 1
        rest = self.skip(place + 1)
        if whole and rest < len(self.text):
            line = self.line(rest)
            yield line, _unfinished(_syntax_error("text after the end of the array", line, self.column(rest)))

    def _next_element(self, first: int, place: int, count: int) -> int | None:
        """Return where the next element begins, after `count` elements and a wrong one at `place`; None if uncertain.

        Elements that begin a line, all with the indentation of the first, are certain where nothing inside of an
        element begins a line so: a line break never stands in a string of JSON.
        """
        begin = self.text.rfind("\n", 0, first) + 1
        indent = self.text[begin:first]
        if not begin or indent.strip(" \t") or self.text[first : first + 1] != "{":
            return None
        mark = f"\n{indent}{{"
        lines = self.text.count(mark, begin - 1, place)
        if lines != count or not (count or indent):
            return None
        after = self.text.find(mark, max(place, first))
        return after + len(mark) - 1 if after >= 0 else None

    def scan_object(self, start: int) -> Iterator[tuple[int, object]]:
        """Yield the rows of a top-level object: see `scan_document`."""
        line = self.line(start)
        entries: list[tuple[str, int, object]] = []
        place, fault = start, None
        while fault is None and self.text[place : place + 1] in ("{", ","):
            place = self.skip(place + 1)
            if self.text[place : place + 1] == "}" and not entries:
                break
            key, end = self.read(place)
            place = self.skip(end) if end is not None else place
            if not isinstance(key, str) or self.text[place : place + 1] != ":":
                fault = key if isinstance(key, DataError) else self._expected("a key and ':'", place)
                break
            place = self.skip(place + 1)
            if key in _LISTS and self.text[place : place + 1] == "[":
                yield from self.scan_array(place, whole=False)
                return
            at = self.line(place)
            value, end = self.read(place)
            entries.append((key, at, value))
            if end is None:
                fault = value
            place = self.skip(end) if end is not None else place
        if fault is None and self.text[place : place + 1] != "}":
            fault = self._expected("',' or '}'", place)
        if fault is None and self.skip(place + 1) < len(self.text):
            fault = self._expected("nothing more", self.skip(place + 1))
        yield from _rows_of(entries, line, fault)

    def _expected(self, what: str, place: int) -> DataError:
        return _syntax_error(f"{what} expected", self.line(place), self.column(place))


def _rows_of(entries: list[tuple[str, int, object]], line: int, fault: object | None) -> Iterator[tuple[int, object]]:
    """Yield the rows of an object's entries: each entry, where all are objects; else the object itself."""
    by_id = bool(entries) and all(isinstance(value, (dict, DataError)) for _, _, value in entries)
    if by_id and any(isinstance(value, dict) for _, _, value in entries):
        for key, at, value in entries:
            if value is not fault:
                yield at, {"id": key} | value if isinstance(value, dict) else value
        if fault is not None:
            yield line if not entries else entries[-1][1], _unfinished(fault)
        return
    wrong = fault if fault is not None else next((v for _, _, v in entries if isinstance(v, DataError)), None)
    names = [key for key, _, _ in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if wrong is None and twice is not None:
        wrong = _value_error(DuplicateKeyError(twice), f"line {line}")
    yield line, {key: value for key, _, value in entries} if wrong is None else wrong


def _unfinished(error: object) -> object:
    if not isinstance(error, DataError):
        return error
    return DataError(
        f"{error.message}; the rows after it are not read",
        code=error.code,
        fix="correct it (in a jsonl file only the one line would be lost)",
    )
