"""A server in a process of its own, spoken to over its stdin and stdout, one JSON message a line.

In place of the library's transport because of three promises: what a server writes to stderr does not reach the display,
a message of any length costs bounded memory and time, and at the end no process of the server is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Bytes of one message; a longer one is not read, and the request that it answers fails.
LONGEST = 16 * 2**20
_CHUNK = 2**16
# Seconds for a server to end by itself once its stdin is closed, then for its group after SIGTERM; then comes SIGKILL.
# The order is that of the MCP specification (2025-11-25, lifecycle, shutdown).
_GRACE = 2.0
_TERM_GRACE = 1.0
_POLL = 0.02
_ID = re.compile(rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,100}")')


class Log:
    """The last lines that a server wrote beside its messages; safe to read from another thread."""

    def __init__(self, lines: int = 200) -> None:
        """Keep so many lines, 500 characters of each."""
        self._lines: deque[str] = deque(maxlen=lines)
        self.at_end = False
        """Whether the server has ended its output by itself."""
        self.exit_code: int | None = None
        """Its exit code, if it ended by itself."""

    def add(self, raw: bytes) -> None:
        """Keep what a piece of output says, a line at a time."""
        for line in raw.decode("utf-8", "replace").splitlines():
            if line.strip():
                self._lines.append(line[:500])

    def tail(self, count: int) -> list[str]:
        """Return the last lines."""
        return list(self._lines)[-count:]


@asynccontextmanager
async def open_process(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Log, groups: set[int]
) -> AsyncIterator[tuple[Any, Any]]:
    """Run a command and give the two streams that the `mcp` library speaks through; ended and reaped at the end.

    Its process group is in `groups` while any of it may live, for whoever has to end it without this event loop.

    Raises:
        OSError: the command cannot be run.
    """
    import anyio
    from mcp.shared.message import SessionMessage

    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is ours; and the whole group can be ended
    )
    groups.add(process.pid)
    to_session, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    reader = asyncio.create_task(_read_messages(process, to_session, log))
    tasks = [
        reader,
        asyncio.create_task(_read_errors(process, log)),
        asyncio.create_task(_write_messages(process, from_session)),
        asyncio.create_task(_watch(process, reader, log)),
    ]
    try:
        yield read_stream, write_stream
    finally:
        ending = asyncio.ensure_future(_end(process, tasks, log, groups))
        # A cancelled caller must not leave the process behind; every wait in there is bounded.
        while not ending.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(ending)
        for stream in (to_session, read_stream, write_stream, from_session):
            stream.close()


async def _read_messages(process: asyncio.subprocess.Process, stream: Any, log: Log) -> None:  # noqa: ANN401 - of anyio
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    assert process.stdout is not None
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async with stream:
            async for line in _split_lines(process.stdout):
                text = line.decode("utf-8", "replace")
                try:
                    message = jsonrpc_message_adapter.validate_json(text, by_name=False)
                except ValueError:
                    log.add(b"(stdout) " + line[:500])
                    continue
                await stream.send(SessionMessage(message))
            log.at_end = True


async def _split_lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Give the lines of a stream; in place of one that is longer than `LONGEST` an error answer to its request."""
    parts: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK):
        pieces = chunk.split(b"\n")
        for number, piece in enumerate(pieces):
            size += len(piece)
            if piece and size <= LONGEST:
                parts.append(piece)
            elif piece:
                parts = [parts[0], piece]  # where the id stands: at its beginning or end
            if number < len(pieces) - 1 and parts:
                yield _refuse(parts, size) if size > LONGEST else b"".join(parts)
                parts, size = [], 0
    if parts and size <= LONGEST:
        yield b"".join(parts)


def _refuse(parts: Sequence[bytes], size: int) -> bytes:
    found = _ID.search(parts[0][:4096]) or _ID.search(parts[-1][-4096:])
    if found is None:
        return b"a message of %d bytes, which is more than is read" % size
    text = f"the answer has {size:,} bytes, more than the {LONGEST:,} that are read"
    answer = {"jsonrpc": "2.0", "id": json.loads(found.group(1)), "error": {"code": -32603, "message": text}}
    return json.dumps(answer).encode("utf-8")


async def _read_errors(process: asyncio.subprocess.Process, log: Log) -> None:
    assert process.stderr is not None
    rest = b""
    while chunk := await process.stderr.read(_CHUNK):
        whole, _, rest = (rest + chunk).rpartition(b"\n")
        log.add(whole)
        if len(rest) > _CHUNK:
            log.add(rest)
            rest = b""
    log.add(rest)


async def _write_messages(process: asyncio.subprocess.Process, stream: Any) -> None:  # noqa: ANN401 - of anyio
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        async with stream:
            async for item in stream:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode("utf-8", "backslashreplace") + b"\n")
                await process.stdin.drain()


async def _watch(process: asyncio.subprocess.Process, reader: asyncio.Task[None], log: Log) -> None:
    """End the connection when the server has ended, although a child of it may still hold its stdout open."""
    while process.returncode is None:
        await asyncio.sleep(0.25)
    log.exit_code, log.at_end = process.returncode, True
    await asyncio.sleep(0.5)  # what it wrote last is still to be read
    reader.cancel()


async def _end(
    process: asyncio.subprocess.Process, tasks: Sequence[asyncio.Task[None]], log: Log, groups: set[int]
) -> None:
    """Close stdin, wait, SIGTERM, wait, SIGKILL; then nothing of the process is left."""
    assert process.stdin is not None
    by_itself = log.at_end
    tasks[-1].cancel()  # who watches for its end
    with contextlib.suppress(OSError, RuntimeError):
        process.stdin.close()
    await _wait(lambda: process.returncode is not None, _GRACE)
    # Also when the server itself has ended: children of it are in its group.
    if signal_group(process.pid, signal.SIGTERM):
        await _wait(lambda: process.returncode is not None and not signal_group(process.pid, 0), _TERM_GRACE)
        signal_group(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        await _wait(lambda: process.returncode is not None, _GRACE)
    if by_itself:
        log.exit_code = process.returncode
    groups.discard(process.pid)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    transport = getattr(process, "_transport", None)  # asyncio gives no other way to close pipes that a child holds
    if transport is not None:
        with contextlib.suppress(OSError):
            transport.close()


async def _wait(ended: Any, seconds: float) -> None:  # noqa: ANN401 - a function without arguments
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not ended() and loop.time() < until:
        await asyncio.sleep(_POLL)


def signal_group(pid: int, sign: int) -> bool:
    """Send a signal to a process group (on Windows: to its first process); returns whether any of it is there."""
    try:
        if sys.platform == "win32":
            os.kill(pid, sign or signal.SIGTERM)
        else:
            os.killpg(pid, sign)
    except OSError:
        return False
    return True
