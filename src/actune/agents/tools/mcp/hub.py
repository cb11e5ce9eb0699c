"""All MCP servers of a toolbox: one thread with an event loop that starts them, calls them and ends them."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from actune.agents.tools.calling import on_stop, time_left
from actune.agents.tools.mcp.config import Server
from actune.agents.tools.mcp.connection import Connection, OpeningError, quiet_library
from actune.agents.tools.mcp.process import signal_group
from actune.agents.tools.secrets import Secrets
from actune.agents.tools.tool import ToolFailure
from actune.core.errors import ActuneError, ConfigError

if TYPE_CHECKING:
    from mcp_types import Tool

_T = TypeVar("_T")
# Seconds until `close` stops waiting for servers to end in order and kills what is left of them.
_CLOSING = 10.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool that a server offers."""

    server: Server
    tool: Tool


class Hub:
    """The servers in use, from `start` to `close`."""

    def __init__(self, servers: Sequence[Server], secrets: Secrets) -> None:
        """Prepare connections; nothing runs before `start`."""
        self._servers = tuple(servers)
        self._secrets = secrets
        self._groups: set[int] = set()
        self._connections: dict[str, Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="mcp", daemon=True)
        self._closed = False

    def start(self) -> list[Listed]:
        """Start all servers at the same time and return their tools, in the order of the configuration.

        Raises:
            ConfigError: a server did not start; names it, its command or address, and what it wrote last.
        """
        quiet_library()
        atexit.register(self.close)
        self._thread.start()
        try:
            return self._submit(self._open_all()).result()
        except BaseException:  # Ctrl-C too: no server may be left
            self.close()
            raise

    def call(self, server: str, name: str, arguments: dict[str, Any]) -> str | ToolFailure:
        """Call a tool of a server, in the thread of a tool; at its time limit, or stopped, the server is told so."""
        try:
            future = self._submit(self._connections[server].call(name, arguments))
        except RuntimeError:
            return ToolFailure("tool-failed", f"the server {server!r} has been closed")
        on_stop(future.cancel)
        try:
            return future.result(time_left())
        except concurrent.futures.CancelledError:
            return ToolFailure("tool-failed", f"the call was stopped, or the server {server!r} has been closed")
        except TimeoutError:
            future.cancel()
            return ToolFailure("tool-timeout", "no answer in time")

    def close(self) -> None:
        """End all servers and the thread; what does not end in order is killed. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            if self._thread.is_alive():
                with contextlib.suppress(RuntimeError, TimeoutError, concurrent.futures.CancelledError):
                    self._submit(self._close_all()).result(_CLOSING)
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(1.0)
        finally:
            for group in tuple(self._groups):
                signal_group(group, getattr(signal, "SIGKILL", signal.SIGTERM))

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise

    async def _open_all(self) -> list[Listed]:
        self._connections = {server.name: Connection(server, self._groups) for server in self._servers}
        tasks = {asyncio.create_task(one.open()): one for one in self._connections.values()}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [(tasks[task], task.exception()) for task in done if task.exception() is not None]
        if failed:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise self._explain([(connection, error) for connection, error in failed if error is not None])
        return [Listed(one.server, tool) for one in self._connections.values() for tool in one.tools]

    async def _close_all(self) -> None:
        await asyncio.gather(*(one.close() for one in self._connections.values()), return_exceptions=True)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _explain(self, failed: Sequence[tuple[Connection, BaseException]]) -> ActuneError:
        texts = []
        for connection, error in failed:
            server = connection.server
            what = str(error) if isinstance(error, OpeningError) else f"{type(error).__name__}: {error}"
            text = f"{server.file}: the MCP server {server.name!r} did not start: {what}\n  it is: {server.describe()}"
            lines = connection.log.tail(8)
            if lines:
                text += "\n  it wrote:" + "".join(f"\n    {_clean(line)}" for line in lines)
            texts.append(self._secrets.redact(text))
        fix = 'correct it there, or write "disabled": true; run the command by itself to see more'
        if any(connection.server.transport == "http" for connection, _ in failed):
            fix = 'check address and headers; a server of the older kind needs "type": "sse"'
        return ConfigError("\n".join(texts), fix=fix)


def _clean(text: str) -> str:
    """Return a line without control characters: it must not steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]
