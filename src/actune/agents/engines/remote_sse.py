"""Server-sent events out of bytes that come in pieces: the lines of a stream, never more of them than a bound.

The format is that of the HTML standard, section "Server-sent events"; of its fields only `data` is used by OpenAI's API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# The longest line: the ids of a prompt of half a million tokens in one event still fit.
LINE_BYTES = 8 * 2**20
DONE = "[DONE]"


class BadStreamError(Exception):
    """What came is no stream of events of JSON objects; the text says what is wrong."""


class Events:
    """Takes bytes in and gives the objects that are whole."""

    def __init__(self) -> None:
        """Begin with an empty stream."""
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self.done = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that this piece completes; after `[DONE]` there are none.

        Raises:
            BadStreamError: a line or event that is too long, is no UTF-8 or no JSON object.
        """
        searched = len(self._rest)
        self._rest += piece
        begin = 0
        while not self.done:
            at = self._rest.find(b"\n", max(begin, searched))
            if at < 0:
                break
            line = bytes(self._rest[begin:at]).removesuffix(b"\r")
            begin = at + 1
            yield from self._take(line)
        del self._rest[:begin]
        if len(self._rest) > LINE_BYTES:
            raise BadStreamError(f"a line of more than {LINE_BYTES:,} bytes")

    def finish(self) -> list[dict[str, Any]]:
        """Return the object of a last event that no blank line closes.

        Raises:
            BadStreamError: it is no JSON object.
        """
        line, self._rest = bytes(self._rest).removesuffix(b"\r"), bytearray()
        return [] if self.done else [*(self._take(line) if line else []), *self._take(b"")]

    def _take(self, line: bytes) -> list[dict[str, Any]]:
        if line.startswith(b"data:"):
            part = line[5:].removeprefix(b" ")
            self._size += len(part)
            if self._size > LINE_BYTES:
                raise BadStreamError(f"an event of more than {LINE_BYTES:,} bytes")
            self._data.append(part)
            return []
        if line or not self._data:
            return []  # comments that keep a connection open, and fields that say nothing here
        data, self._data, self._size = b"\n".join(self._data), [], 0
        if data.strip() == DONE.encode():
            self.done = True
            return []
        return [read_object(data)]


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes.

    Raises:
        BadStreamError: they hold none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadStreamError(f"no JSON ({error}): {_shorten(data)}") from None
    if not isinstance(value, dict):
        raise BadStreamError(f"no JSON object: {_shorten(data)}")
    return value


def _shorten(data: bytes, limit: int = 120) -> str:
    return repr(data[:limit].decode("utf-8", "replace")) + ("..." if len(data) > limit else "")
