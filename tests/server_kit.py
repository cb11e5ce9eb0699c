"""A fake OpenAI-compatible server with the ways of known ones; loaded by path, since tests are no package."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from actune.render.tokenizer import TextTokenizer

OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "ollama": "library"}
# Fields beside OpenAI's that each of them knows; OpenAI itself refuses them.
STRICT = {"model", "prompt", "messages", "tools", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
          "stream", "stream_options", "stop"}  # fmt: skip


class FakeServer:
    """Answers `/v1/models`, `/v1/completions` and `/v1/chat/completions`.

    `outputs` are texts in order or a function of the body; a text that ends in `<stop>` ends by a stop token, another is
    cut at `max_tokens`. `messages` are what chat answers: the parts of a stream, or one message. `faults` are used up
    first, one a POST: functions of the handler that write whatever they like.
    """

    def __init__(
        self,
        family: str = "other",
        *,
        tokenizer: TextTokenizer | None = None,
        outputs: Any = (),
        messages: Any = (),
        models: list[dict[str, Any]] | None = None,
        key: str | None = None,
        added: int = 0,
        usage: bool = True,
        stream: bool = True,
    ) -> None:
        self.family, self.tokenizer, self.key, self.added = family, tokenizer, key, added
        self.usage, self.stream = usage, stream
        self.outputs = outputs if callable(outputs) else list(outputs)
        self.messages = messages if callable(messages) else list(messages)
        self.models = models or [{"id": "tiny", "object": "model", "owned_by": OWNERS.get(family, family)}]
        self.faults: list[Callable[[Handler], None]] = []
        self.bodies: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        self.silent: threading.Event | None = None
        self.lock = threading.Lock()
        self.url = ""

    def take(self, source: Any, body: dict[str, Any]) -> Any:
        if callable(source):
            return source(body)
        with self.lock:
            return source.pop(0)

    # --- completions ------------------------------------------------------------------------------------------------

    def complete(self, handler: Handler, body: dict[str, Any]) -> None:
        prompt = body["prompt"]
        if self.family in ("ollama", "text") and not isinstance(prompt, str):
            return handler.fail(400, {"error": {"message": "json: cannot unmarshal array into prompt of type string"}})
        if self.family == "openai" and body.keys() - STRICT:
            names = ", ".join(sorted(body.keys() - STRICT))
            return handler.fail(400, {"error": {"message": f"Unrecognized request arguments: {names}"}})
        ids = prompt if isinstance(prompt, list) else self.tokenizer.encode(prompt)
        usage = {"prompt_tokens": len(ids) + self.added + (7 if self.family == "ollama" else 0)}
        text = "x" if body["max_tokens"] == 1 else self.take(self.outputs, body)
        ended = text.endswith("<stop>")
        text = text.removesuffix("<stop>")
        tokens = self.tokenizer.encode_after(text)[: body["max_tokens"]]
        finish, matched = ("stop", None) if ended else ("length", None)
        decoder = self.tokenizer.stream(ids)  # servers hold back half characters
        pieces = [decoder.push(token) for token in tokens]
        if pieces:
            pieces[-1] += decoder.finish()
        said: list[tuple[str, int | None]] = list(zip(pieces, tokens, strict=True))
        for stop in body.get("stop", []):
            whole = "".join(pieces)
            at = whole.find(stop)
            if at >= 0:
                kept = whole[: at + len(stop)] if self._keeps_stop(body) else whole[:at]
                said, finish, matched = [(kept, None)], "stop", stop
                tokens = self.tokenizer.encode_after(kept)
        choices = [{"index": 0, "text": piece, "finish_reason": None} for piece, _ in said]
        if self.family == "vllm" and body.get("return_token_ids"):
            choices = [
                choice | {"token_ids": [token] if token is not None else tokens}
                for choice, (_, token) in zip(choices, said, strict=True)
            ]
        end: dict[str, Any] = {"index": 0, "text": "", "finish_reason": finish}
        if self.family == "vllm":
            end |= {"stop_reason": matched, "token_ids": sorted(body.get("stop_token_ids", []))[:1] if ended else []}
        if self.family == "sglang":
            end["matched_stop"] = matched
            if ended and body.get("no_stop_trim") and not body.get("skip_special_tokens", True):
                end["text"] = self.tokenizer.decode(sorted(body.get("stop_token_ids", []))[:1])
        usage |= {"completion_tokens": len(tokens) + ended}
        if not self.stream:
            whole_text = "".join(choice["text"] for choice in [*choices, end])
            return handler.send_json(200, {"choices": [end | {"text": whole_text, "token_ids": None}], "usage": usage})
        handler.send_events(
            [{"choices": [choice]} for choice in [*choices, end]],
            {"choices": [], "usage": usage} if self.usage else None,
        )
        return None

    def _keeps_stop(self, body: dict[str, Any]) -> bool:
        return bool(body.get({"vllm": "include_stop_str_in_output", "sglang": "no_stop_trim"}.get(self.family, "")))

    # --- chat -------------------------------------------------------------------------------------------------------

    def chat(self, handler: Handler, body: dict[str, Any]) -> None:
        given = self.take(self.messages, body)
        usage = {"prompt_tokens": 9, "completion_tokens": 5}
        if isinstance(given, dict):  # a whole message, with its finish_reason
            finish = given.get("finish_reason", "stop")
            message = {key: value for key, value in given.items() if key != "finish_reason"}
            return handler.send_json(
                200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
            )
        *deltas, finish = given
        parts = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        handler.send_events(parts, {"choices": [], "usage": usage} if self.usage else None)
        return None


class Handler(BaseHTTPRequestHandler):
    """One request; `fake` is the server's behaviour."""

    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.fake.silent is not None:
            self.fake.silent.wait(30)
        if not self._may():
            return
        if self.path == "/v1/models":
            self.send_json(200, {"object": "list", "data": self.fake.models})
        else:
            self.fail(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.fake.lock:
            self.fake.bodies.append(body)
            fault = self.fake.faults.pop(0) if self.fake.faults else None
        try:
            if fault is not None:
                fault(self)
            elif self._may():
                work = {"/v1/completions": self.fake.complete, "/v1/chat/completions": self.fake.chat}.get(self.path)
                work(self, body) if work is not None else self.fail(404, {"error": {"message": f"no {self.path}"}})
        except (BrokenPipeError, ConnectionResetError):
            self.fake.hung_up.set()
            self.close_connection = True

    def _may(self) -> bool:
        if self.fake.key is None or self.headers.get("authorization") == f"Bearer {self.fake.key}":
            return True
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.fail(401, {"error": {"message": f"Incorrect API key provided: {given}", "type": "invalid_request_error"}})
        return False

    def send_json(self, status: int, value: object, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    fail = send_json

    def begin_events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_events(self, values: list[dict[str, Any]], last: dict[str, Any] | None) -> None:
        self.begin_events()
        for value in [*values, *([last] if last is not None else [])]:
            self.send_event(value)
        self.wfile.write(b"data: [DONE]\n\n")

    def send_event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


@contextmanager
def serve(fake: FakeServer) -> Iterator[FakeServer]:
    """Run a fake server on a free port of this machine."""
    handler = type("Bound", (Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
