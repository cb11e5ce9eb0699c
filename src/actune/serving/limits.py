"""What protects the server: who may ask (key, host, origin), and how much of a body is read, for how long."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from actune.serving.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# Bytes of a body beyond the limit that are taken before the connection is closed on it.
_FORGOTTEN = 64_000_000
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a server: bytes and seconds of a body, seconds that a client may leave what is sent unread.

    `key` is what clients have to know, None for nobody has to. `hosts` are the names that the server may be called by,
    None for any; `origins` are the pages of other servers that may ask.
    """

    body_bytes: int = 4_000_000
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    key: str | None = None
    hosts: tuple[str, ...] | None = _LOCAL
    origins: tuple[str, ...] = ()


def is_loopback(host: str) -> bool:
    """Whether a server on this host is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests before any of them is read: names of hosts, foreign pages, wrong keys.

    A page of another site that a browser shows can reach a server on loopback: by its address, or by a name of its own
    that it lets point there. The first is told by `Origin`, the second by `Host`.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        """Stand before an application."""
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        try:
            self._check_host(headers)
            allowed = self._check_origin(headers, origin)
            if scope["method"] == "OPTIONS" and allowed is not None:
                await _send_preflight(send, allowed)
                return
            if scope["path"].startswith("/v1/"):
                self._check_key(headers)
        except ApiError as error:
            await send_error(send, error)
            return
        await self._app(scope, receive, send if allowed is None else _allow(send, allowed))

    def _check_host(self, headers: Mapping[str, str]) -> None:
        hosts = self._limits.hosts
        if hosts is None:
            return
        name = urlsplit(f"//{headers.get('host', '')}").hostname if _is_plain(headers.get("host", "")) else None
        if name not in hosts:
            raise ApiError(403, "this server does not go by that name (Host)", code="host_not_allowed")

    def _check_origin(self, headers: Mapping[str, str], origin: str | None) -> str | None:
        """Return the origin that an answer is to be shown to, None where none has to be named."""
        if origin is None:
            return None
        if "*" in self._limits.origins or origin in self._limits.origins:
            return origin
        if origin in (f"http://{headers.get('host')}", f"https://{headers.get('host')}"):
            return None
        raise ApiError(403, "pages of other sites may not use this server (--allow_origin)", code="origin_not_allowed")

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._limits.key is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise ApiError(
                401, "an API key is needed: Authorization: Bearer KEY", code="missing_api_key", headers=_WANTED
            )
        if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._limits.key.encode()):
            raise ApiError(401, "the API key is wrong", code="invalid_api_key", headers=_WANTED)


_WANTED = {"WWW-Authenticate": "Bearer"}


def _is_plain(host: str) -> bool:
    return bool(host) and not set(host) & set("/@?#\\ \t")


def _allow(send: Send, origin: str) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return wrapped


async def _send_preflight(send: Send, origin: str) -> None:
    headers = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def send_error(send: Send, error: ApiError) -> None:
    """Answer with an error. The connection is closed: what of the request is unread is not waited for."""
    body = json.dumps(error.to_json()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    if error.status in (400, 401, 403, 408, 413, 415):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: 413 for too many bytes, whether or not the request says how many; 408 for a body that does not come;
            415 for one that is said to be no JSON.
        HungUpError: the client is gone.
    """
    headers = {name.lower(): value for name, value in scope["headers"]}
    kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "the body has to be application/json", code="unsupported_media_type")
    length = headers.get(b"content-length", b"0")
    large = not length.isdigit() or int(length) > limits.body_bytes
    if large and b"expect" in headers:
        raise _too_large(limits)
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUpError
                size += len(message.get("body", b""))
                large = large or size > limits.body_bytes
                # What is too large is taken and forgotten for a while: most clients read no answer before they have
                # sent everything.
                if large and (size > limits.body_bytes + _FORGOTTEN or not message.get("more_body")):
                    raise _too_large(limits)
                if large:
                    body.clear()
                else:
                    body += message.get("body", b"")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        if large:
            raise _too_large(limits) from None
        raise ApiError(408, f"the body did not come within {limits.body_seconds:g} seconds", code="timeout") from None


class HungUpError(Exception):
    """The client is gone, so there is nobody to answer."""


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is larger than {limits.body_bytes:,} bytes", code="request_too_large")
