"""`actune serve`: a model, with and without its adapter, behind OpenAI's API."""

from __future__ import annotations

import logging
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actune.config.extras import require_package
from actune.core.errors import ConfigError
from actune.data.reading.hub import refuse_no_model
from actune.recipes.agents import (
    Choice,
    build_encoder,
    check_positive,
    check_sampling,
    find_weights,
    say_notices,
)
from actune.recipes.api_key import read_api_key
from actune.recipes.writing import stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a server listens, who may ask it, and how much: the flags that only `serve` has.

    `key_variable` names the environment variable that holds the API key; `no_key` allows a server without one beyond
    this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_variable: str | None = None
    no_key: bool = False
    origins: tuple[str, ...] = ()
    concurrency: int = 8
    queue: int = 64
    max_body: int = 4_000_000
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    grace_seconds: float = 30.0


def serve(choice: Choice, door: Door) -> int:
    """Answer requests until a signal comes; returns the exit code.

    Raises:
        ConfigError, ModelError, RenderError: a flag, folder, port or template cannot be used.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    for package in ("starlette", "uvicorn"):
        require_package(package, extra="serve", what="actune serve")
    _check_numbers(choice, door)
    key = _read_key(door)
    from actune.serving.server import bind

    with bind(door.host, door.port) as made:
        return _serve(choice, door, key, made)


def _serve(choice: Choice, door: Door, key: str | None, made: socket.socket) -> int:
    from actune.serving.app import build_app
    from actune.serving.limits import Limits, is_loopback
    from actune.serving.scheduler import Scheduler
    from actune.serving.server import serve as answer
    from actune.serving.service import Defaults, Service

    assert choice.model is not None  # a required flag
    folder, adapter = find_weights(choice.model, choice.adapter)
    encoder, style = build_encoder(choice, adapter)
    refuse_no_model(folder, weights=True)
    say_notices(encoder)
    models = name_models(choice, adapter)
    from actune.agents.engines.loading import load_engine

    engine = load_engine(folder, adapter, dtype=choice.dtype, batch_size=door.concurrency)
    if engine.fault is not None and door.concurrency > 1:
        stderr().print(f"note: requests are answered one by one: {engine.fault}", markup=False)
    defaults = Defaults(
        max_tokens=choice.limits.output_tokens,
        seconds=choice.limits.seconds,
        temperature=choice.sampling.temperature,
        top_p=choice.sampling.top_p,
    )
    service = Service(encoder, style, models=models, context=engine.context, defaults=defaults)
    scheduler = Scheduler(engine, queue=door.queue)
    names = (door.host, "localhost", "127.0.0.1", "::1") if is_loopback(door.host) else None
    limits = Limits(
        body_bytes=door.max_body, body_seconds=door.body_seconds, key=key, hosts=names, origins=door.origins
    )
    _log_to_stderr()
    _print_start(made, door, list(models), key=key is not None)
    answer(
        build_app(service, scheduler, limits),
        made,
        scheduler,
        grace_seconds=door.grace_seconds,
        send_seconds=door.send_seconds,
        say=lambda text: stderr().print(text, markup=False),
    )
    stderr().print("stopped", markup=False)
    return 0


def name_models(choice: Choice, adapter: Path | None) -> dict[str, bool]:
    """Return the names of the models, each with whether it is the base: the folder's, and with `-base` the base's."""
    if choice.base and adapter is None:
        raise ConfigError("--base leaves the adapter out, and there is none", fix="leave --base out")
    name = Path(choice.adapter or choice.model or "").resolve().name or "model"
    if name == "adapter" and choice.adapter is not None:  # the adapter of a run goes by the run's name
        name = Path(choice.adapter).resolve().parent.name or name
    if adapter is None:
        return {name: False}
    return {f"{name}-base": True} if choice.base else {name: False, f"{name}-base": True}


def _read_key(door: Door) -> str | None:
    """Return the API key.

    Raises:
        ConfigError: the variable is not set or holds no key, or a server beyond this machine has none.
    """
    from actune.serving.limits import is_loopback

    key = read_api_key(door.key_variable)
    if key is None and not is_loopback(door.host) and not door.no_key:
        raise ConfigError(
            f"--host {door.host} lets other machines ask this one, and there is no API key",
            fix="name the variable that holds one with --api_key_env NAME, or say --no_api_key",
        )
    return key


def _check_numbers(choice: Choice, door: Door) -> None:
    check_positive(
        concurrency=door.concurrency,
        max_body=door.max_body,
        body_seconds=door.body_seconds,
        send_seconds=door.send_seconds,
        max_tokens=choice.limits.output_tokens,
        max_seconds=choice.limits.seconds,
    )
    check_sampling(choice.sampling)
    if door.queue < 0 or door.grace_seconds < 0:
        raise ConfigError("queue and grace_seconds cannot be below 0", fix="give 0 or more")
    if not 0 <= door.port <= 65535:
        raise ConfigError(f"port is {door.port}", fix="give a number from 0 to 65535")
    for origin in door.origins:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            raise ConfigError(f"--allow_origin {origin} is no origin", fix="for example http://localhost:3000, or *")


def _log_to_stderr() -> None:
    """Log requests without their content: uvicorn's own log shows addresses, and tracebacks show texts."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("actune.serving")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    quiet = logging.getLogger("uvicorn")
    quiet.addHandler(logging.NullHandler())
    quiet.setLevel(logging.CRITICAL + 1)
    quiet.propagate = False


def _print_start(made: socket.socket, door: Door, models: Sequence[str], *, key: bool) -> None:
    host = f"[{door.host}]" if ":" in door.host else door.host
    address = f"http://{host}:{made.getsockname()[1]}"
    console = stderr()
    console.print(f"serving {' and '.join(models)}", markup=False)
    console.print(f"  OpenAI API  {address}/v1", markup=False)
    console.print(f"  chat page   {address}/", markup=False)
    header = f' -H "Authorization: Bearer ${door.key_variable}"' if key else ""
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    console.print(
        f"  curl {address}/v1/chat/completions -H 'Content-Type: application/json'{header} -d {shlex.quote(body)}",
        markup=False,
        soft_wrap=True,
    )
    console.print("Ctrl-C ends it", markup=False)
