"""HTTP to a server that speaks OpenAI's API: bounded, cancelled by Ctrl-C, errors in words, the key never in them.

Requests run in the event loop of a thread of their own, so that several go on at once and any of them can be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from actune.agents.engines.remote_sse import BadStreamError, Events, read_object
from actune.config.extras import require_package
from actune.core.errors import ConfigError, ModelError

T = TypeVar("T")
Tell = Callable[..., None]

_CONNECT_SECONDS = 10.0
# Without a deadline of the request: silence that is taken for the end of the server.
_SILENT_SECONDS = 600.0
# After the last piece of text the server may still say how many tokens it was.
USAGE_SECONDS = 5.0
_RETRIES = 4
_LONGEST_WAIT = 60.0
# A response may have this many bytes, and per token that was asked for so many more (an event repeats its frame).
_BASE_BYTES, _TOKEN_BYTES = 16 * 2**20, 16 * 2**10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_OVERFLOW = re.compile(
    r"context[ _-]?(length|size|window)|maximum context|context_length_exceeded|exceed_context_size|max_model_len"
    r"|longer than the model|exceeds the available context",
    re.IGNORECASE,
)


class ServerError(ModelError):
    """A server that cannot be reached, refuses a request, or answers what is no answer.

    `status` is the HTTP status, None without one. `fatal`: every other request would fail too. `overflow`: the prompt is
    longer than the context of the model.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        fatal: bool = False,
        overflow: bool = False,
        fix: str | None = None,
    ) -> None:
        """Store what failed."""
        super().__init__(message, fix=fix)
        self.status = status
        self.fatal = fatal
        self.overflow = overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is: its base address without a slash at its end, and the key it is given (None: none)."""

    url: str
    key: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def shows_key(self) -> bool:
        """Whether the key goes over the network for all to read."""
        return self.key is not None and self.url.startswith("http://") and not self.is_local


def read_address(text: str, key: str | None) -> Address:
    """Return the address in the form that OpenAI's clients take: with the `/v1`, which is added where there is no path.

    Raises:
        ConfigError: it is none, or holds what would be shown in messages: a password, a query; or the key is no header.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--server {_clean(text)} is no address", fix="for example http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "--server holds more than an address: a user, a query or a fragment",
            fix="give the address alone; name the variable that holds a key with --api_key_env",
        )
    if key is not None and not (key.isascii() and key.isprintable() and key):
        raise ConfigError(
            "the API key holds characters that no header can", fix="look at the variable of --api_key_env"
        )
    path = parts.path.rstrip("/")
    return Address(url=f"{parts.scheme}://{parts.netloc}{path or '/v1'}", key=key)


class Server:
    """One server; safe to use from one thread at a time."""

    def __init__(self, address: Address) -> None:
        """Connect nowhere yet.

        Raises:
            MissingExtraError: httpx2 is not installed.
        """
        require_package("httpx2", extra="agent", what="a model behind a server")
        self.address = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    # --- running requests -------------------------------------------------------------------------------------------

    def run_all(self, jobs: Sequence[Callable[[Tell], Coroutine[Any, Any, T]]], tell: Tell | None = None) -> list[T]:
        """Run jobs side by side and return their results in order; the first error ends the others.

        A job calls the `tell` it is given in its own thread; `tell` here is called in the caller's.
        """
        told: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(_gather(jobs, lambda *what: told.put(what)), self._start())
        future.add_done_callback(lambda _: told.put(None))
        try:
            while (what := _wait(told)) is not None:
                if tell is not None:
                    tell(*what)
            return future.result()
        except BaseException:
            _cancel(future)
            raise

    def close(self) -> None:
        """Hang up."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._client is not None:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._client.aclose(), loop).result(2)
            self._client = None
        loop.call_soon_threadsafe(loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="actune-server", daemon=True).start()
        return self._loop

    # --- requests ---------------------------------------------------------------------------------------------------

    async def fetch(self, path: str, *, seconds: float) -> dict[str, Any]:
        """Return the JSON object of a GET.

        Raises:
            ServerError: there is none within the time; see there.
        """
        try:
            async with asyncio.timeout(seconds), contextlib.aclosing(self.stream(path, None)) as values:
                async for value in values:
                    return value
        except TimeoutError:
            raise ServerError(f"{self.address.url}{path} did not answer within {seconds:g} s", fatal=True) from None
        raise ServerError(f"{self.address.url}{path} answered nothing")

    async def stream(
        self, path: str, body: dict[str, Any] | None, *, tokens: int = 0, deadline: float | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the objects of a stream of events; where the answer is one JSON object, that one.

        `tokens` is how many were asked for: it bounds the bytes. Leaving the iteration hangs up. Connections that
        cannot be made, 429 and 503 are tried again until `deadline` (of `time.monotonic()`), as long as nothing came.

        Raises:
            ServerError: see there.
        """
        import httpx2

        limit = _BASE_BYTES + tokens * _TOKEN_BYTES
        response = await self._send(path, body, deadline)
        try:
            if "text/event-stream" in response.headers.get("content-type", ""):
                async for value in _read_events(response, limit):
                    yield value
            else:
                yield read_object(await _read_whole(response, limit))
        except BadStreamError as error:
            raise ServerError(self._redact(f"{self.address.url}{path} answered what is no answer: {error}")) from None
        except httpx2.TransportError as error:
            what = f"{self.address.url}{path} hung up in the middle: {_name(error)}"
            raise ServerError(self._redact(what)) from None
        finally:
            await response.aclose()

    async def _send(self, path: str, body: dict[str, Any] | None, deadline: float | None) -> Any:  # noqa: ANN401
        """Return a response with status 200 whose body is not read yet."""
        import httpx2

        url = self.address.url + path
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for attempt in range(_RETRIES):
            wait = 0.5 * 2**attempt
            last = attempt == _RETRIES - 1
            try:
                client = self._open()
                kind = "GET" if data is None else "POST"
                response = await client.send(client.build_request(kind, url, content=data), stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError, httpx2.ReadError) as error:
                if last or not _has_time(deadline, wait):
                    raise self._not_there(url, error) from None
            except httpx2.TransportError as error:
                raise self._not_there(url, error) from None
            else:
                if response.status_code == 200:
                    return response
                failure, asked = await self._read_failure(url, response)
                wait = asked if asked is not None else wait
                if last or response.status_code not in (429, 503) or not _has_time(deadline, wait):
                    raise failure
            await asyncio.sleep(wait)
        raise AssertionError  # the last attempt returns or raises

    def _open(self) -> Any:  # noqa: ANN401 - an httpx2.AsyncClient
        if self._client is None:
            import httpx2

            headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "actune"}
            if self.address.key is not None:
                headers["authorization"] = f"Bearer {self.address.key}"
            self._client = httpx2.AsyncClient(
                headers=headers,
                timeout=httpx2.Timeout(_SILENT_SECONDS, connect=_CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=None),
                # A proxy of the environment is for other machines; what .netrc holds is not for this one.
                trust_env=not self.address.is_local,
                follow_redirects=False,
            )
        return self._client

    # --- what went wrong --------------------------------------------------------------------------------------------

    def _not_there(self, url: str, error: Exception) -> ServerError:
        return ServerError(
            self._redact(f"{url} cannot be reached: {_name(error)}"),
            fatal=True,
            fix="start the server, or give its address with --server",
        )

    async def _read_failure(self, url: str, response: Any) -> tuple[ServerError, float | None]:  # noqa: ANN401
        """Return the error in a response, and the seconds to wait that it asks for."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                said = _find_message(await _read_whole(response, 2**20))
        except (BadStreamError, TimeoutError, OSError) as error:
            said = f"(its text cannot be read: {error})"
        finally:
            await response.aclose()
        status = response.status_code
        overflow = status in (400, 413, 422, 500) and _OVERFLOW.search(said) is not None
        fix = None
        if status in (401, 403):
            fix = "name the variable that holds the key with --api_key_env"
        elif status == 404:
            fix = "look at the address (it mostly ends in /v1) and at --server_model"
        elif 300 <= status < 400:
            said = f"it sends on to {response.headers.get('location', '?')}"
            fix = "give the address it sends on to, if you trust it: the key is not sent there unasked"
        message = self._redact(f"{url} answered {status}: {said}" if said else f"{url} answered {status}")
        error = ServerError(message, status=status, fatal=status in (401, 403, 404), overflow=overflow, fix=fix)
        try:
            asked = float(response.headers.get("retry-after", ""))
        except ValueError:
            return error, None
        return error, max(asked, 0.0) if asked == asked else None

    def _redact(self, text: str) -> str:
        """Return a text on one line, without the key."""
        text = text if self.address.key is None else text.replace(self.address.key, "[API key]")
        return _clean(text)


async def _gather(jobs: Sequence[Callable[[Tell], Coroutine[Any, Any, T]]], tell: Tell) -> list[T]:
    tasks = [asyncio.ensure_future(job(tell)) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _wait(told: queue.SimpleQueue[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    """Return the next thing that is told; a wait without end could not be interrupted everywhere."""
    while True:
        with contextlib.suppress(queue.Empty):
            return told.get(timeout=0.5)


def _cancel(future: Future[Any]) -> None:
    future.cancel()
    with contextlib.suppress(BaseException):
        future.result(2)


async def _read_events(response: Any, limit: int) -> AsyncGenerator[dict[str, Any], None]:  # noqa: ANN401
    events, size = Events(), 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > limit:
            raise BadStreamError(f"more than {limit:,} bytes")
        for value in events.feed(piece):
            yield value
        if events.done:
            return
    for value in events.finish():
        yield value


async def _read_whole(response: Any, limit: int) -> bytes:  # noqa: ANN401 - an httpx2.Response
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > limit:
            raise BadStreamError(f"more than {limit:,} bytes")
    return bytes(data)


def _find_message(data: bytes) -> str:
    """Return what an error body says: OpenAI's shape, SGLang's flat one, FastAPI's, else its text."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _clean(text)[:300]
    return find_error(value) or _clean(text)[:300]


def find_error(value: object) -> str | None:
    """Return the message of an error object, None where there is none."""
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, str) and inner:
        return _clean(inner)[:600]
    error = inner if isinstance(inner, dict) else value if value.get("object") == "error" or "detail" in value else None
    if error is None:
        return None
    said = error.get("message") or error.get("detail") or error.get("type") or error
    return _clean(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str))[:600]


def is_overflow(text: str) -> bool:
    """Whether an error says that a prompt is longer than the context."""
    return _OVERFLOW.search(text) is not None


def in_loop(deadline: float | None) -> float | None:
    """Return a deadline of `time.monotonic()` on the clock of the running loop."""
    if deadline is None:
        return None
    return asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())


def _has_time(deadline: float | None, wait: float) -> bool:
    return wait <= _LONGEST_WAIT and (deadline is None or time.monotonic() + wait < deadline)


def _name(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _clean(text: str) -> str:
    """Return a text from outside on one line."""
    return _CONTROL.sub(" ", text).strip()
