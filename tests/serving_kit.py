"""An engine of scripted outputs behind the interface of rows, and a server around it; loaded by path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actune.agents.engines.engine import Generation, Request
from actune.agents.engines.stopping import Output
from actune.core.types import Style
from actune.render.encoder import Encoder
from actune.serving.app import build_app
from actune.serving.limits import Limits
from actune.serving.scheduler import Scheduler
from actune.serving.service import Defaults, Service

Script = Callable[[Request, bool], str]


class ScriptedRows:
    """Rows that write what the script says, a token a step."""

    def __init__(self, engine: ScriptedSteps, *, base: bool) -> None:
        self._engine = engine
        self._base = base
        self._rows: dict[int, tuple[Request, Output, Iterator[int]]] = {}

    def add(self, request: Request, on_text: Callable[[str], None] | None = None) -> int:
        self._engine.requests.append(request)
        text = self._engine.script(request, self._base)
        tokenizer = self._engine.tokenizer
        self._engine.tickets += 1
        output = Output(tokenizer.stream_answer(request.prompt), request.stops, on_text=on_text)
        self._rows[self._engine.tickets] = (request, output, iter(tokenizer.encode_after(text)))
        return self._engine.tickets

    def step(self) -> dict[int, Generation]:
        self._engine.before_step(self._base, list(self._rows))
        if self._engine.seconds:
            time.sleep(self._engine.seconds)
        ended = {}
        for ticket, (request, output, tokens) in list(self._rows.items()):
            token = next(tokens, None)
            if token is None:
                done, reason = True, "token"
                output.count += 1
            else:
                done = output.push(token)
                reason = output.reason
                if not done and output.count >= request.max_tokens:
                    done, reason = True, "length"
            if not done and request.deadline is not None and time.monotonic() >= request.deadline:
                done, reason = True, "time"
            if done:
                text = output.finish()
                ended[ticket] = Generation(text=text, tokens=output.count, reason=output.reason or reason, seconds=0.0)
                del self._rows[ticket]
        return ended

    def cancel(self, ticket: int) -> None:
        self._rows.pop(ticket, None)
        self._engine.cancelled.append(ticket)

    def __len__(self) -> int:
        return len(self._rows)


class ScriptedSteps:
    """An engine whose outputs a script gives: a function of (request, whether the base is asked), or texts in order.

    `seconds` is what a step takes; `before_step(base, tickets)` may raise.
    """

    def __init__(self, script: Script | Sequence[str], encoder: Encoder, *, batch_size: int = 8) -> None:
        self.tokenizer = encoder.renderer.tokenizer
        if not callable(script):
            texts = iter(script)
            script = lambda request, base: next(texts)  # noqa: E731
        self.script: Script = script
        self.batch_size = batch_size
        self.context: int | None = None
        self.requests: list[Request] = []
        self.cancelled: list[int] = []
        self.scored: list[Sequence[tuple[Sequence[int], Sequence[int]]]] = []
        self.rate: Callable[[str], float] = lambda text: -float(len(text))
        self.tickets = 0
        self.seconds = 0.0
        self.before_step: Callable[[bool, list[int]], None] = lambda base, tickets: None
        self.in_base = False

    def begin(self, *, base: bool = False) -> ScriptedRows:
        return ScriptedRows(self, base=base)

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        self.scored.append(sequences)
        return [[self.rate(self.tokenizer.decode(list(ids)))] for _, ids in sequences]

    @contextmanager
    def without_adapter(self):
        self.in_base = True
        yield self
        self.in_base = False

    def prompts(self) -> list[str]:
        return [self.tokenizer.decode(list(request.prompt)) for request in self.requests]


class Bench:
    """An application and its parts, without a socket; `engine` takes the place of a scripted one."""

    def __init__(
        self,
        folder: Path,
        script: Script | Sequence[str],
        *,
        style: Style = "chat",
        limits: Limits | None = None,
        defaults: Defaults | None = None,
        batch_size: int = 8,
        queue: int = 64,
        context: int | None = None,
        engine: Any = None,
    ) -> None:
        self.encoder = Encoder.from_folder(folder)
        self.engine = engine or ScriptedSteps(script, self.encoder, batch_size=batch_size)
        models = {"tuned": False, "tuned-base": True}
        self.service = Service(self.encoder, style, models=models, defaults=defaults, context=context)
        self.scheduler = Scheduler(self.engine, queue=queue)
        self.limits = limits or Limits(hosts=None)
        self.app = build_app(self.service, self.scheduler, self.limits)

    def close(self) -> None:
        self.scheduler.close()


@contextmanager
def on_a_socket(bench: Bench, *, grace_seconds: float = 5.0, send_seconds: float = 30.0) -> Iterator[str]:
    """Serve a bench on a free port of this machine; yields its address."""
    import uvicorn

    from actune.serving.server import bind, make_protocol

    made = bind("127.0.0.1", 0)
    options: dict[str, Any] = {"ws": "none", "lifespan": "off", "loop": "asyncio", "log_config": None}
    options |= {"http": make_protocol(send_seconds), "timeout_graceful_shutdown": grace_seconds}
    server = uvicorn.Server(uvicorn.Config(bench.app, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
