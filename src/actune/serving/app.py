"""The routes: models, chat completions whole or streamed, health, and the chat page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actune.core.json_text import write_json
from actune.serving import replies
from actune.serving.answers import Answer
from actune.serving.errors import ApiError
from actune.serving.limits import App, Guard, HungUpError, Limits, Receive, Scope, Send, read_body, send_error
from actune.serving.reading import Reply
from actune.serving.requests import ChatRequest, parse_body, read_request
from actune.serving.scheduler import Scheduler, explain
from actune.serving.service import Prepared, Service

log = logging.getLogger("actune.serving")
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def build_app(service: Service, scheduler: Scheduler, limits: Limits) -> App:
    """Return the ASGI application of a server."""
    created = int(time.time())
    files = load_page()

    async def list_models(_request: Request) -> Response:
        data = [{"id": name, "object": "model", "created": created, "owned_by": "actune"} for name in service.models]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            service.check_model(name)
        except ApiError as error:
            return _to_response(error)
        return JSONResponse({"id": name, "object": "model", "created": created, "owned_by": "actune"})

    async def show_health(_request: Request) -> Response:
        active, waiting = scheduler.count()
        body = {"status": "ok" if scheduler.alive else "failed", "active": active, "waiting": waiting}
        return JSONResponse(body, status_code=200 if scheduler.alive else 503)

    async def show_page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return _to_response(ApiError(404, "there is no such page", code="not_found"))
        return Response(files[name], media_type=_KINDS[name.rpartition(".")[2]], headers=_PAGE_HEADERS)

    routes = [
        Route("/health", show_health),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", show_model),
        Route("/v1/chat/completions", Completions(service, scheduler, limits)),
        Route("/page/{name}", show_page),
        Route("/", show_page),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _show_refusal}), limits)


async def _show_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: f"unknown address: {request.method} {request.url.path[:200]}", 405: "this address has no such method"}
    message = what.get(error.status_code, error.detail)
    return _to_response(ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else None))


def _to_response(error: ApiError) -> Response:
    return JSONResponse(error.to_json(), status_code=error.status, headers=error.headers)


def load_page() -> dict[str, bytes]:
    """Return the files of the chat page by name; only these are ever served."""
    folder = resources.files("actune.serving") / "page"
    if not folder.is_dir():
        return {}
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _KINDS}


class Completions:
    """`POST /v1/chat/completions`."""

    def __init__(self, service: Service, scheduler: Scheduler, limits: Limits) -> None:
        """Answer with the models of a service."""
        self._service = service
        self._scheduler = scheduler
        self._limits = limits
        # Renderer and memory are used by one thread at a time, which is not the one that answers the network.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="actune-prompts")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing is raised."""
        started = time.monotonic()
        status: int | str = 200
        try:
            if scope["method"] != "POST":
                raise ApiError(405, "completions are asked for with POST", headers={"Allow": "POST"})
            body = parse_body(await read_body(scope, receive, self._limits))
            loop = asyncio.get_running_loop()
            request, prepared = await loop.run_in_executor(self._thread, self._prepare, body)
            answer = Answer(prepared, self._scheduler, self._service.memory, self._thread)
            deliver = _Stream(answer, request, send) if request.stream else _Whole(answer, request, send)
            status = await _until_hung_up(answer, deliver.run(), receive)
        except HungUpError:
            status = "hung up"
        except asyncio.CancelledError:  # the server ends at once; nothing comes after this
            status = "cancelled"
            with suppress(Exception):
                await send_error(send, ApiError(503, "the server is shutting down", code="shutting_down"))
        except ApiError as error:
            status = error.status
            with suppress(OSError):
                await send_error(send, error)
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end the others
            problem = explain(error)
            status = problem.status
            with suppress(OSError, RuntimeError):  # an answer may have begun
                await send_error(send, problem)
        finally:
            log.info("completion %s %.2fs", status, time.monotonic() - started)

    def _prepare(self, body: dict[str, object]) -> tuple[ChatRequest, Prepared]:
        request = read_request(body)
        return request, self._service.prepare(request)


async def _until_hung_up(answer: Answer, work: Awaitable[None], receive: Receive) -> int | str:
    """Deliver an answer unless its client goes away; returns the status for the log.

    Raises:
        ApiError: the answer failed before any of it was sent.
    """
    delivering = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_end(receive))
    try:
        await asyncio.wait((delivering, watching), return_when=asyncio.FIRST_COMPLETED)
        if not delivering.done():
            return "hung up"
        delivering.result()
        return 200
    finally:
        answer.cancel()
        for task in (delivering, watching):
            task.cancel()
        await asyncio.gather(delivering, watching, return_exceptions=True)


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Whole:
    """An answer in one piece."""

    def __init__(self, answer: Answer, request: ChatRequest, send: Send) -> None:
        self._answer = answer
        self._request = request
        self._send = send

    async def run(self) -> None:
        """Wait for every choice and send them.

        Raises:
            ApiError: a choice failed.
        """
        found: dict[int, Reply] = {}
        self._answer.start()
        async for index, event in self._answer.events():
            if isinstance(event, Reply):
                found[index] = event
        envelope = replies.Envelope(model=self._request.model)
        body = write_json(envelope.whole([found[index] for index in sorted(found)], self._answer.usage)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class _Stream:
    """An answer as server-sent events. Nothing is sent before the first piece, so that what fails early has its status."""

    def __init__(self, answer: Answer, request: ChatRequest, send: Send) -> None:
        self._answer = answer
        self._request = request
        self._send = send
        self._envelope = replies.Envelope(model=request.model)
        self._begun = False

    async def run(self) -> None:
        """Send events as they come.

        Raises:
            ApiError: the request failed before anything was sent.
        """
        self._answer.start()
        opened: set[int] = set()
        try:
            async for index, event in self._answer.events():
                if index not in opened:
                    opened.add(index)
                    await self._write(replies.begin_deltas(self._envelope, index))
                if not isinstance(event, Reply):
                    await self._write(replies.piece_delta(self._envelope, index, event))
                    continue
                splitter = self._answer.splitters[index]
                sent = {"reasoning": len(splitter.reasoning), "content": len(splitter.content)}
                for chunk in replies.end_deltas(self._envelope, index, event, **sent):
                    await self._write(chunk)
        except ApiError as error:
            if not self._begun:
                raise
            await self._write(error.to_json())
            await self._send({"type": "http.response.body", "body": b""})
            return
        if self._request.include_usage:
            last = self._envelope.wrap("chat.completion.chunk", []) | {"usage": self._answer.usage.to_json()}
            await self._write(last)
        await self._send({"type": "http.response.body", "body": replies.DONE})

    async def _write(self, value: dict[str, object]) -> None:
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers.append((b"x-accel-buffering", b"no"))  # proxies would else collect the whole answer
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": replies.write_event(value), "more_body": True})
