"""What a server is and can do, asked before the first task: its models, its context, how it takes prompts."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from actune.agents.engines.engine import Request, Sampling
from actune.agents.engines.remote import Family, RemoteEngine, Wire, check_usage, first_choice, write_body
from actune.agents.engines.remote_http import Server, ServerError, find_error
from actune.core.errors import ConfigError
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer

_FAMILIES: dict[str, Family] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
_NAMES_SHOWN = 20
# A list of models is there at once; for the first token a server may have to load the model.
_LIST_SECONDS, _TRIAL_SECONDS = 30.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model of a server: its name there, what serves it, its context in tokens (None: it does not say)."""

    name: str
    family: Family = "other"
    context: int | None = None
    ollama: bool = False


def pick_model(server: Server, wanted: str | None) -> Served:
    """Return the model to use: the one that is wanted, else the only one.

    Raises:
        ServerError: the server is not there.
        ConfigError: it has several, or not the one that is wanted.
    """
    try:
        (listed,) = server.run_all([lambda _tell: server.fetch("/models", seconds=_LIST_SECONDS)])
    except ServerError as error:
        # Some servers list nothing; what they serve has to be named then.
        if wanted is None or error.status not in (404, 405, 501):
            raise
        return Served(name=wanted)
    served = _read_models(listed, server.address.url)
    known = {one.name: one for one in served}
    if wanted is None:
        if len(served) == 1:
            return served[0]
        raise ConfigError(
            f"{server.address.url} has {len(served)} models: {_join(list(known))}", fix="name one with --server_model"
        )
    found = known.get(wanted) or known.get(f"{wanted}:latest")
    if found is not None:
        return found
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"{server.address.url} has no model {wanted!r}{hint}", fix=f"name one of its models: {_join(list(known))}"
    )


def _read_models(listed: dict[str, Any], url: str) -> list[Served]:
    said = find_error(listed)
    data = listed.get("data")
    if said is not None or not isinstance(data, list):
        raise ServerError(
            f"{url}/models answered no list of models" + (f": {said}" if said else ""),
            fix="give the address of an OpenAI-compatible server; it mostly ends in /v1",
        )
    entries = [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]
    return [_read_model(entry) for entry in entries]


def _read_model(entry: dict[str, Any]) -> Served:
    owner = entry.get("owned_by")
    meta = entry.get("meta")
    given = [entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None]
    given += [entry.get("loaded_context_length"), entry.get("context_length")]
    context = next((one for one in given if isinstance(one, int) and not isinstance(one, bool) and one > 0), None)
    family = _FAMILIES.get(owner, "other") if isinstance(owner, str) else "other"
    return Served(name=entry["id"], family=family, context=context, ollama=owner == "library")


def open_engine(
    server: Server, served: Served, tokenizer: TextTokenizer, *, trial: Sequence[int], context: int | None
) -> tuple[RemoteEngine, list[str]]:
    """Return an engine on a server, after one token was generated behind the prompt `trial`; and what to tell the user.

    `context` is that of the model itself, where it is known.

    Raises:
        ServerError: the server takes neither ids nor text, or counts other tokens than were sent.
    """
    request = Request(prompt=trial, stops=Stops(tokens=frozenset()), max_tokens=1, sampling=Sampling())
    failures: list[ServerError] = []
    wire = Wire(model=served.name, family=served.family)
    for ids, extended in ((True, True), (True, False), (False, True), (False, False)):
        if served.ollama and ids:
            continue  # it takes text alone, which the count below then refuses where it is put into a template
        tried = replace(wire, ids=ids, extended=extended)
        try:
            counted = _try(server, tried, request, tokenizer)
        except ServerError as error:
            if error.status not in (400, 415, 422, 500, 501):
                raise _explain(error, server, served) from None
            failures.append(error)
            continue
        known = [number for number in (context, served.context) if number is not None]
        engine = RemoteEngine(server, tried, tokenizer, context=min(known, default=None))
        return engine, _describe(tried, counted=counted)
    raise _explain(failures[0], server, served)


def _try(server: Server, wire: Wire, request: Request, tokenizer: TextTokenizer) -> bool:
    """Generate one token; returns whether the server said how many tokens it read."""

    async def ask() -> bool:
        body = write_body(wire, request, tokenizer) | {"stream": False}  # whole answers are counted by more servers
        del body["stream_options"]
        counted = False
        answered = False
        stream = server.stream("/completions", body, tokens=1, deadline=time.monotonic() + _TRIAL_SECONDS)
        async with asyncio.timeout(_TRIAL_SECONDS), aclosing(stream) as chunks:
            async for chunk in chunks:
                said = find_error(chunk)
                if said is not None:
                    raise ServerError(f"{server.address.url}/completions: {said}", status=400)
                check_usage(chunk, len(request.prompt), server.address.url)
                usage = chunk.get("usage")
                counted = counted or (isinstance(usage, dict) and bool(usage.get("prompt_tokens")))
                answered = answered or first_choice(chunk) is not None
        if not answered:
            raise ServerError(f"{server.address.url}/completions answered without an output", status=501)
        return counted

    try:
        (counted,) = server.run_all([lambda _tell: ask()])
    except TimeoutError:
        url = f"{server.address.url}/completions"
        raise ServerError(f"{url} gave no token within {_TRIAL_SECONDS:g} s", fatal=True) from None
    return counted


def _describe(wire: Wire, *, counted: bool) -> list[str]:
    notices = []
    if not wire.ids:
        notices.append("the server takes no token ids; prompts go as text that has the same ids here")
    if not counted:
        notices.append("the server does not say how many tokens it reads, so it is not checked that it adds none")
    if not wire.extended:
        notices.append(
            "the server takes OpenAI's fields alone: its own sampling defaults and hidden control tokens stay"
        )
    return notices


def _explain(error: ServerError, server: Server, served: Served) -> ServerError:
    if served.ollama:
        return ServerError(
            f"{served.name} is served by Ollama, which writes prompts into a template of its own: {error.message}",
            fatal=True,
            fix="let it write prompts: --server_api chat",
        )
    if error.status == 404:
        fix = "let the server write prompts: --server_api chat; or look at the address and --server_model"
        return ServerError(
            f"{server.address.url} has no /completions: {error.message}", status=404, fatal=True, fix=fix
        )
    if error.fix is None:
        error.fix = "let the server write prompts: --server_api chat"
    return error


def _join(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return (shown or "none") + (f" and {more} more" if more > 0 else "")
