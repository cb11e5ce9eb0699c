"""The process around the application: a socket that is bound before the model is loaded, signals, slow and idle clients."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from actune.core.errors import ConfigError
from actune.serving.limits import App
from actune.serving.scheduler import Scheduler

# Seconds in which a client has to send the head of a request, and bytes that such a head may have.
_HEAD_SECONDS = 15.0
_HEAD_BYTES = 32_768
_IDLE_SECONDS = 15
_CONNECTIONS = 1024
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket of this address; port 0 takes a free one.

    Raises:
        ConfigError: it is taken, or is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host} is no address: {error}", fix="leave it out for 127.0.0.1") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        # From here on nobody else gets the address; clients that come while the model is loaded wait.
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use", fix="stop what uses it, or give another --port (0 takes a free one)"
            ) from error
        raise ConfigError(
            f"{host}:{port} cannot be listened at: {error}", fix="give another --host or --port"
        ) from error
    return made


def make_protocol(send_seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with an end to waiting: for the head of a request, and for a client that does not read."""

    class Protocol(H11Protocol):
        """HTTP/1.1 of one connection."""

        _head: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > _CONNECTIONS:
                transport.abort()
                return
            self._head = self.loop.call_later(_HEAD_SECONDS, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waits = self.conn.their_state is h11.IDLE
            if waits and self._head is None:
                self._head = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)
            elif not waits:
                self._head = _stop(self._head)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self._unread or self.loop.call_later(send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._unread = _stop(self._unread)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head, self._unread = _stop(self._head), _stop(self._unread)
            super().connection_lost(exc)

    return Protocol


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals end it with exit code 0: first gracefully, a second time at once."""

    def __init__(
        self, config: uvicorn.Config, scheduler: Scheduler, seconds: float, say: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self._seconds = seconds
        self._say = say

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        active, waiting = self._scheduler.count()
        if active + waiting:
            self._say(
                f"finishing {active + waiting} requests, at most {self._seconds:g} seconds; once more ends at once"
            )
        late = asyncio.ensure_future(self._end_late())
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(self._seconds)
        await asyncio.to_thread(self._scheduler.close)


def serve(
    app: App,
    made: socket.socket,
    scheduler: Scheduler,
    *,
    grace_seconds: float,
    send_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Answer until a signal comes; requests under way are finished, for at most `grace_seconds`."""
    options: dict[str, Any] = {
        "http": make_protocol(send_seconds),
        "ws": "none",
        "lifespan": "off",
        "loop": "asyncio",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": _IDLE_SECONDS,
        "timeout_graceful_shutdown": int(grace_seconds) + 5,
        "h11_max_incomplete_event_size": _HEAD_BYTES,
    }
    server = _Server(uvicorn.Config(app, **options), scheduler, grace_seconds, say)
    try:
        server.run(sockets=[made])
    finally:
        scheduler.close(seconds=2.0 if server.force_exit else 10.0)
        if scheduler.alive:  # in the middle of a long computation, which nothing can interrupt
            sys.stderr.flush()
            os._exit(130)
