"""The HTTP client for MCP servers: headers of the configuration, and an end to answers that are too long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx2

from actune.agents.tools.mcp.process import LONGEST


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends in an error after so many bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > LONGEST:
                raise httpx2.StreamError(f"the answer has more than the {LONGEST:,} bytes that are read")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Transport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        # A stream of events may be of any length; the library bounds each event.
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream)
        return response


def make_http_client(
    headers: Mapping[str, str] | None,
    on_response: Callable[[httpx2.Response], Awaitable[None]],
    *,
    timeout: Any = None,  # noqa: ANN401 - httpx2.Timeout, a number, or None for the times that MCP servers need
) -> httpx2.AsyncClient:
    """Return a client that sends `headers` with every request and tells `on_response` of every answer."""
    return httpx2.AsyncClient(
        headers=dict(headers or {}),
        # As the library's own client: connecting 30 s; a stream of events may be silent for five minutes.
        timeout=timeout or httpx2.Timeout(30.0, read=300.0),
        transport=_Transport(),
        event_hooks={"response": [on_response]},
    )
