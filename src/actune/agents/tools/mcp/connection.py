"""One MCP server and the connection to it: opened, its tools listed, called, opened again once when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from actune.agents.tools.mcp.config import Server
from actune.agents.tools.mcp.process import LONGEST, Log, open_process
from actune.agents.tools.mcp.results import read_result
from actune.agents.tools.tool import ToolFailure

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import Tool

_PAGES = 100
# Attempts to open an ended connection again that may fail in a row; after them calls fail at once.
_REOPENINGS = 3


class OpeningError(Exception):
    """A server that cannot be used: what happened, in words that are not yet redacted."""


class Connection:
    """A server while it is in use; all methods but `log.tail` run in one event loop."""

    def __init__(self, server: Server, groups: set[int]) -> None:
        """Prepare a connection; `groups` is where its process group is noted while it runs."""
        self.server = server
        self.log = Log()
        self.tools: tuple[Tool, ...] = ()
        self._groups = groups
        self._client: Client | None = None
        self._running: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failed = 0
        self._fault = ""  # what HTTP or the library said last

    async def open(self) -> None:
        """Start the server, agree on a protocol version and list its tools.

        Raises:
            OpeningError: it cannot be started or reached, does not answer in time, or its list cannot be read.
        """
        limit = self.server.startup
        # Some servers end at the first message they do not know, which is how newer protocol versions are looked for.
        for mode in ("auto", "legacy"):
            self.log, self._fault = Log(), ""
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(mode, ready))
            try:
                async with asyncio.timeout(limit):
                    await asyncio.shield(ready)
                return
            except TimeoutError:
                raise OpeningError(f"it did not answer within {limit:g} s") from None
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if mode == "legacy" or self.log.exit_code is None:
                    raise OpeningError(self._explain(error)) from error
            finally:
                if self._client is None:
                    ready.cancel()
                    await self._stop()

    async def call(self, name: str, arguments: dict[str, Any]) -> str | ToolFailure:
        """Call a tool by the server's own name; what goes wrong is a failure, never an exception.

        Cancelled, it tells the server to stop working on the call.
        """
        from mcp import MCPError

        if self._client is None or self.log.at_end:
            try:
                await self._reopen()
            except OpeningError as error:
                return self._fail(f"has ended and could not be started again: {error}")
        client = self._client
        if client is None:
            return self._fail("has ended")
        try:
            return read_result(await client.call_tool(name, arguments))
        except MCPError as error:
            if not _is_closed(error):
                return ToolFailure("tool-failed", error.message or f"error {error.code}")
            if self._client is client:  # else another call has seen it, and may have opened it again
                await self._stop()
            return self._fail(f"ended while the tool ran{self._describe_end()}")
        except Exception as error:  # noqa: BLE001 - the library raises what it finds wrong with a result
            return ToolFailure("tool-failed", f"the answer of the server cannot be used: {_flatten(error)}")

    async def close(self) -> None:
        """End the connection and the server."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._stop()

    # --- the connection itself --------------------------------------------------------------------------------------

    async def _run(self, mode: str, ready: asyncio.Future[None]) -> None:
        """Hold the connection until it is closed or lost; all of it is entered and left in this one task."""
        from mcp import Client
        from mcp_types import Implementation

        from actune import __version__

        closing = self._closing = asyncio.Event()
        mine: Client | None = None
        try:
            async with self._open_transport() as transport:
                info = Implementation(name="actune", version=__version__)
                async with Client(transport, mode=mode, cache=None, client_info=info) as client:
                    tools = await _list_tools(client)
                    if not ready.done():
                        self.tools, self._client, mine = tools, client, client
                        ready.set_result(None)
                        await closing.wait()
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            self._fault = self._fault or _flatten(error)
            if not ready.done():
                ready.set_exception(error if isinstance(error, Exception) else OpeningError(_flatten(error)))
        finally:
            if self._client is mine:
                self._client = None

    @asynccontextmanager
    async def _open_transport(self) -> AsyncIterator[Any]:
        """Give what the library's client connects with."""
        server = self.server
        async with AsyncExitStack() as stack:
            if server.transport == "stdio":
                from mcp.client.stdio import get_default_environment

                env = get_default_environment() | dict(server.env)
                command = _find_program(server, env.get("PATH"))
                yield open_process([command, *server.args], cwd=server.cwd, env=env, log=self.log, groups=self._groups)
                return
            from actune.agents.tools.mcp.http import make_http_client

            if server.transport == "sse":
                from mcp.client.sse import sse_client

                def make(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:  # noqa: ANN401 - of the library
                    return make_http_client(headers, self._note_status, timeout=timeout)

                yield sse_client(server.url, headers=dict(server.headers), timeout=30.0, httpx_client_factory=make)
                return
            from mcp.client.streamable_http import streamable_http_client

            client = await stack.enter_async_context(make_http_client(dict(server.headers), self._note_status))
            yield streamable_http_client(server.url, http_client=client, max_sse_event_size=LONGEST)

    async def _reopen(self) -> None:
        """Open an ended connection again; calls that come meanwhile wait for the same attempt.

        Raises:
            OpeningError: it failed, or failed too often before.
        """
        if self._opening is None or self._opening.done():
            if self._failed >= _REOPENINGS:
                raise OpeningError(f"{self._failed} attempts have failed")
            self._opening = asyncio.create_task(self._try_again())
        await asyncio.shield(self._opening)

    async def _try_again(self) -> None:
        self._failed += 1
        kept = self.tools
        await self._stop()
        await self.open()
        self.tools = kept  # the model has been told of these
        self._failed = 0

    async def _stop(self) -> None:
        running, self._running, self._client = self._running, None, None
        self._closing.set()
        if running is None:
            return
        done, _ = await asyncio.wait([running], timeout=0.5)
        if not done:
            running.cancel()
            await asyncio.wait([running])

    # --- words ------------------------------------------------------------------------------------------------------

    async def _note_status(self, response: Any) -> None:  # noqa: ANN401 - httpx2 is imported late
        if response.status_code >= 400:
            self._fault = f"HTTP {response.status_code} {response.reason_phrase}".strip()

    def _explain(self, error: BaseException) -> str:
        if self.log.exit_code is not None:
            return f"it ended before it answered{self._describe_end()}"
        text = _flatten(error)
        return f"{self._fault}: {text}" if self._fault and self._fault != text else text

    def _describe_end(self) -> str:
        code = self.log.exit_code
        if code is None:
            return f" ({self._fault})" if self._fault else ""
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"

    def _fail(self, what: str) -> ToolFailure:
        return ToolFailure("tool-failed", f"the server {self.server.name!r} {what}")


def quiet_library() -> None:
    """Keep the library's own log lines off the display; a program that configures logging still gets them."""
    for name in ("mcp", "client", "httpx2"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


async def _list_tools(client: Client) -> tuple[Tool, ...]:
    """Return all tools, page by page; of a server without that capability none."""
    if client.server_capabilities.tools is None:
        return ()
    tools: list[Tool] = []
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None or cursor in seen:
            return tuple(tools)
        seen.add(cursor)
    raise OpeningError(f"its list of tools does not end after {_PAGES} pages")


def _find_program(server: Server, path: str | None) -> str:
    """Return the program of a command: of one without a folder the one that the server's PATH finds."""
    found = shutil.which(server.command, path=path)
    if found is None:
        raise OpeningError(f"there is no program {server.command!r}, or it cannot be executed")
    return found


def _is_closed(error: Any) -> bool:  # noqa: ANN401 - MCPError is imported late
    from mcp_types import CONNECTION_CLOSED

    return error.code == CONNECTION_CLOSED or error.message == "Session terminated"


def _flatten(error: BaseException) -> str:
    """Return the first cause in a group of exceptions, with its kind."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    text = " ".join(str(error).split())[:500]
    if isinstance(error, OpeningError):
        return text
    kind = type(error).__name__
    with contextlib.suppress(Exception):
        from mcp import MCPError

        if isinstance(error, MCPError):
            return text or kind
    return f"{kind}: {text}" if text else kind
