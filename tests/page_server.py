"""A server for tests of the chat page: the page's files, models, and answers that a test scripts, chunk by chunk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "src" / "actune" / "serving" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
Pieces = Iterable[dict[str, Any] | bytes]


def chunk(*, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call_piece(index: int, *, arguments: str = "", name: str | None = None) -> dict[str, Any]:
    first = {} if name is None else {"id": f"call0000{index}", "type": "function"}
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return chunk(tool_calls=[{"index": index, **first, "function": function}])


class Answered(Exception):
    """Raised by a script instead of pieces: a whole answer with a status."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status, self.body = status, body


class PageServer(ThreadingHTTPServer):
    """Answers each completion with what `script(body)` yields: chunks as events, bytes as they are.

    `bodies` and `keys` hold what was asked. `address` is the page.
    """

    daemon_threads = True

    def __init__(
        self, script: Callable[[dict[str, Any]], Pieces], *, models: tuple[str, ...] = ("tuned", "base")
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.models = script, models
        self.key: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
                body = {
                    "error": {
                        "message": "Incorrect API key.",
                        "type": "invalid_request_error",
                        "code": "invalid_api_key",
                    }
                }
                return self._send(401, "application/json", json.dumps(body).encode())
            models = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]}
            return self._send(200, "application/json", json.dumps(models).encode())
        name = self.path.removeprefix("/page/") if self.path != "/" else "index.html"
        path = FOLDER / name
        if "/" in name or not path.is_file():
            return self._send(404, "text/plain", b"not found")
        return self._send(200, f"{_KINDS[path.suffix]}; charset=utf-8", path.read_bytes())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        try:
            pieces = iter(self.server.script(body))
        except Answered as answer:
            return self._send(answer.status, "application/json", answer.body.encode())
        self._head(200, "text/event-stream")
        try:
            for piece in pieces:
                data = piece if isinstance(piece, bytes) else f"data: {json.dumps(piece)}\n\n".encode()
                self.wfile.write(data)
                self.wfile.flush()
        except OSError:
            self.server.hung_up.set()
        return None

    def _head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
