"""A model behind a server, for `run` and `chat`: from flags to a model that the loop can ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from actune.core.errors import ActuneError, ConfigError
from actune.core.types import Conversation, Message, Source
from actune.recipes.api_key import read_api_key
from actune.recipes.writing import stderr
from actune.render.tokenizer import read_json

if TYPE_CHECKING:
    from actune.agents.engines.remote import RemoteEngine
    from actune.agents.engines.remote_http import Server
    from actune.agents.engines.remote_probe import Served
    from actune.recipes.agents import Choice
    from actune.render.encoder import Encoder

ServerApi = Literal["auto", "completions", "chat"]


def check_server(choice: Choice) -> None:
    """Check that the flags about where the model is go together.

    Raises:
        ConfigError: they do not.
    """
    if choice.server is None:
        if choice.model is None:
            raise ConfigError(
                "one of --model and --server is needed", fix="give a folder or a run, or a server's address, or both"
            )
        given = {"server_model": choice.server_model, "api_key_env": choice.api_key_env}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"--{name} says something of a server, and there is none", fix="give --server URL")
        return
    for name, value in (("base", choice.base), ("dtype", choice.dtype != "AUTO")):
        if value:
            raise ConfigError(
                f"--{name} is about a model in this process; --server computes", fix=f"leave out --{name}"
            )
    if choice.model is None:
        _check_chat(choice, "without --model the server writes prompts")
        if choice.server_api == "completions":
            raise ConfigError(
                "--server_api completions writes prompts here and needs the tokenizer and template of the model",
                fix="give --model DIR or a run; its weights are not needed",
            )
    elif choice.server_api == "chat":
        _check_chat(choice, "with --server_api chat the server writes prompts")


def _check_chat(choice: Choice, why: str) -> None:
    given = {
        "dialect": choice.dialect,
        "chat_template": choice.chat_template,
        "now": choice.now,
        "raw_control_tokens": choice.raw_control_tokens or None,
        "template_variables": choice.template_variables or None,
        "max_context": choice.max_context,
        "adapter": choice.adapter,
    }
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{why}, so --{name} has no effect", fix="leave it out, or give --model with --server_api completions"
            )


def writes_prompts(choice: Choice) -> bool:
    """Return whether prompts are written here and the server continues them."""
    return choice.model is not None and choice.server_api != "chat"


def open_server(choice: Choice) -> tuple[Server, Served]:
    """Return the server and its model; says if the key can be read on the way.

    Raises:
        ConfigError, ServerError, MissingExtraError: there is none, it cannot be reached, or its model is not clear.
    """
    from actune.agents.engines.remote_http import Server, read_address
    from actune.agents.engines.remote_probe import pick_model

    assert choice.server is not None
    address = read_address(choice.server, read_api_key(choice.api_key_env))
    server = Server(address)
    if address.shows_key:
        stderr().print(f"note: the API key goes to {address.url} unencrypted; https keeps it from others", markup=False)
    try:
        return server, pick_model(server, choice.server_model)
    except BaseException:
        server.close()
        raise


def open_engine(server: Server, served: Served, encoder: Encoder) -> RemoteEngine:
    """Return an engine that continues prompts written by an encoder; says what it cannot check.

    Raises:
        ServerError: the server would show the model other tokens, or takes no prompts at all.
    """
    from actune.agents.engines.remote_probe import open_engine as probe

    trial = _write_trial(encoder)
    folder = encoder.renderer.tokenizer.folder
    context = _read_context(folder) if folder is not None else None
    engine, notices = probe(server, served, encoder.renderer.tokenizer, trial=trial, context=context)
    for notice in notices:
        stderr().print(f"note: {notice}", markup=False)
    return engine


def _write_trial(encoder: Encoder) -> list[int]:
    """Return a short prompt as it is written for this model."""
    messages = (Message(role="user", content="Hello"),)
    row = Conversation(messages=messages, source=Source(file="trial", line=1))
    try:
        text = encoder.dialect_of(row).prompt(row, 1)
    except ActuneError:  # a template that wants more than a user's text
        text = "Hello"
    return encoder.renderer.tokenizer.encode(text)


def _read_context(folder: Path) -> int | None:
    """Return the context that a model folder states, None where it states none."""
    config = read_json(folder / "config.json")
    inner = config.get("text_config")
    length = (inner if isinstance(inner, dict) else config).get("max_position_embeddings")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None


def name_served(name: str) -> str:
    """Return what a trace calls a model of a server: of a path its end alone."""
    return Path(name).name if Path(name).is_absolute() else name
