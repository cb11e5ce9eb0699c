"""What `run` and `chat` share: from flags to an agent with its model, tools and dialect."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.agents.engines.engine import Sampling
from actune.agents.loop import Agent, Limits
from actune.agents.model import Model
from actune.agents.rendered import History, RenderedModel, Window
from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.permission import Approver, Permission
from actune.agents.tools.secrets import Secrets
from actune.agents.tools.toolbox import Toolbox
from actune.config.run_folder import read_run
from actune.core import api_list
from actune.core.errors import ConfigError
from actune.core.types import Message, Style, ToolCall, ToolSpec
from actune.data.reading.hub import refuse_no_model, resolve_model
from actune.recipes.remote import ServerApi, check_server, name_served, open_engine, open_server, writes_prompts
from actune.recipes.writing import HistoryReasoning, find_writing, stderr
from actune.render.dialects import ChatDialect
from actune.render.encoder import DialectName, Encoder
from actune.render.native import learn_format

if TYPE_CHECKING:
    from actune.agents.engines.remote_http import Server
    from actune.agents.engines.remote_probe import Served

Dtype = Literal["AUTO", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A model, how text is written for it, how it generates, and its tools: the flags of `run` and `chat`."""

    model: str | None = None
    adapter: str | None = None
    base: bool = False
    dtype: Dtype = "AUTO"
    batch_size: int = 1
    dialect: DialectName | None = None
    chat_template: str | None = None
    now: datetime.date | None = None
    history_reasoning: HistoryReasoning | None = None
    raw_control_tokens: bool = False
    template_variables: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    permission: Permission = field(default_factory=Permission)
    tool_seconds: float = 30.0
    tool_characters: int = 20_000
    limits: Limits
    max_context: int | None = None
    history: History = "turns"
    sampling: Sampling
    server: str | None = None
    server_model: str | None = None
    server_api: ServerApi = "auto"
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An agent ready to work, and its parts; `server` None: the model is in this process."""

    agent: Agent
    toolbox: Toolbox
    style: Style
    server: Server | None = None

    def close(self) -> None:
        """Let go of tools and server."""
        self.toolbox.close()
        if self.server is not None:
            self.server.close()


def build_bench(choice: Choice, *, ask: Callable[[ToolCall], str], approve: Approver | None = None) -> Bench:
    """Load everything an agent needs; what can be wrong without the weights is found before them.

    `ask` gives the Observations that a person types, `approve` says whether a call may be made (None: nobody is there).

    Raises:
        ConfigError, ModelError, RenderError: a flag, folder, tool file, template or server cannot be used.
    """
    _check_numbers(choice)
    check_server(choice)
    if choice.server is not None:
        return _build_remote(choice, ask, approve)
    model_name = _need_model(choice)
    folder, adapter = find_weights(model_name, choice.adapter)
    encoder, style = build_encoder(choice, adapter)
    with ExitStack() as undo:
        toolbox = load_tools(choice, ask, approve)
        undo.callback(toolbox.close)  # servers of tools must not outlive what goes wrong below
        base_of = adapter if choice.base else None
        if choice.base:
            folder, adapter = find_base(model_name, folder), None
        refuse_no_model(folder, weights=True)
        say_notices(encoder)
        from actune.agents.engines.loading import load_engine

        engine = load_engine(folder, adapter, dtype=choice.dtype, batch_size=choice.batch_size, base_of=base_of)
        if engine.fault is not None and choice.batch_size > 1:
            stderr().print(f"note: outputs are generated one by one: {engine.fault}", markup=False)
        window = find_window(choice, engine.context)
        model = RenderedModel(engine, encoder, style=style, name=name_model(model_name), window=window)
        agent = Agent(model, toolbox, limits=choice.limits, sampling=choice.sampling)
        undo.pop_all()
    return Bench(agent=agent, toolbox=toolbox, style=style)


def _build_remote(choice: Choice, ask: Callable[[ToolCall], str], approve: Approver | None) -> Bench:
    encoder, style = None, ChatDialect.name
    if writes_prompts(choice):
        encoder, style = build_encoder(choice, None if choice.adapter is None else Path(choice.adapter))
        say_notices(encoder)
    with ExitStack() as undo:
        toolbox = load_tools(choice, ask, approve)
        undo.callback(toolbox.close)
        server, served = open_server(choice)
        undo.callback(server.close)
        model = _open_model(choice, server, served, encoder, style)
        key = server.address.key
        if key is not None:
            toolbox.secrets.add("API key", key)
        agent = Agent(model, toolbox, limits=choice.limits, sampling=choice.sampling)
        undo.pop_all()
    return Bench(agent=agent, toolbox=toolbox, style=style, server=server)


def _open_model(choice: Choice, server: Server, served: Served, encoder: Encoder | None, style: Style) -> Model:
    name = name_served(served.name)
    if encoder is None:
        from actune.agents.engines.remote_chat import ChatModel

        drop = choice.history_reasoning == "drop"
        key = "reasoning" if served.family == "vllm" or served.ollama else "reasoning_content"
        return ChatModel(server, served.name, name=name, history=choice.history, drop_reasoning=drop, reasoning_key=key)
    engine = open_engine(server, served, encoder)
    return RenderedModel(engine, encoder, style=style, name=name, window=find_window(choice, engine.context))


def _need_model(choice: Choice) -> str:
    assert choice.model is not None  # `check_server` saw to it
    return choice.model


def load_tools(choice: Choice, ask: Callable[[ToolCall], str], approve: Approver | None) -> Toolbox:
    """Return the tools of a choice; what is worth knowing about them goes to stderr."""
    return load_toolbox(
        choice.tools,
        ask=ask,
        seconds=choice.tool_seconds,
        characters=choice.tool_characters,
        permission=choice.permission,
        approve=approve,
        notice=lambda text: stderr().print(f"note: {text}", markup=False),
    )


def say_notices(encoder: Encoder) -> None:
    """Say what is worth knowing about a chat template."""
    for notice in encoder.renderer.notices():
        stderr().print(f"note: {notice}", markup=False)


def build_encoder(choice: Choice, adapter: Path | None) -> tuple[Encoder, Style]:
    """Return the encoder of a model and the dialect of its conversations with tools."""
    writing = find_writing(
        _need_model(choice),
        choice.dialect,
        choice.chat_template,
        choice.now,
        choice.history_reasoning,
        choice.raw_control_tokens,
        template_variables=choice.template_variables,
        adapter=adapter,
    )
    encoder = writing.encoder()
    if writing.dialect != "auto":
        return encoder, writing.dialect
    return encoder, writing.trained_style or pick_style(encoder)


def pick_style(encoder: Encoder) -> Style:
    """Return `chat` where the template shows tools and its calls can be read back, else `react`."""
    profile = encoder.renderer.profile
    if not profile.tools or profile.arguments is None or learn_format(encoder.renderer).reason is not None:
        return "react"
    return ChatDialect.name


def find_weights(model: str, adapter: str | None) -> tuple[Path, Path | None]:
    """Return (folder of the weights, folder of the adapter or None) of a model or of a run.

    Raises:
        ConfigError: the adapter folder is none, or the run has no result yet.
    """
    run = read_run(Path(model))
    if run is None:
        folder, given = resolve_model(model, None), Path(adapter) if adapter is not None else None
    else:
        full = run.folder / "model"
        given = Path(adapter) if adapter is not None else run.adapter
        folder = full if full.is_dir() and given is None else run.model_dir
        if given is None and not full.is_dir():
            raise ConfigError(
                f"the run {model} has no result yet: neither adapter/ nor model/ is there",
                fix="finish it with --resume auto, or name a checkpoint's adapter with --adapter",
            )
    if given is not None and not (given / "adapter_config.json").is_file():
        raise ConfigError(f"{given} is no adapter: adapter_config.json is missing", fix="name it with --adapter DIR")
    return folder, given


def find_window(choice: Choice, context: int | None) -> Window:
    """Return how much of a conversation is shown to a model with a context of so many tokens (None: it is not known).

    A run that was trained with `truncation_strategy turns` saw longer conversations without their oldest turns, so it
    is shown them like that; the context itself stays the model's.
    """
    if choice.max_context is not None:
        context = choice.max_context if context is None else min(context, choice.max_context)
        return Window(context=context, history=choice.history)
    run = read_run(Path(_need_model(choice)))
    data = {} if run is None else run.settings["data"]
    trained = data.get("max_length", -1) if data.get("truncation_strategy") == "turns" else -1
    return Window(context=context, limit=trained if trained > 0 else None, history=choice.history)


def name_model(model: str) -> str:
    """Return what a trace calls a model: a hub id as it is, of a folder its name alone."""
    path = Path(model)
    return path.resolve().name if path.exists() or path.is_absolute() else model


def find_base(model: str, folder: Path) -> Path:
    """Return the folder of the model before training: of a run the one it began with."""
    run = read_run(Path(model))
    return folder if run is None else run.model_dir


def open_conversation(system: str, toolbox: Toolbox) -> tuple[tuple[Message, ...], tuple[ToolSpec, ...]]:
    """Return the messages a conversation begins with, and its tools.

    A system text may hold the API list itself, as in the reference recipe; its tools are then the ones of the list.

    Raises:
        ConfigError: a list in the system text and tools by `--tools` besides.
        DataError: the API list cannot be read.
    """
    block = api_list.read_system(system)
    if block is not None:
        if toolbox.specs:
            raise ConfigError(
                "the system text holds an API list, and --tools describes tools as well",
                fix="leave the list to --tools, or answer its calls with --tools manual",
            )
        system = block.system
    tools = toolbox.specs if block is None else block.tools
    messages = (Message(role="system", content=system),) if system else ()
    return messages, tools


def redact(value: Any, secrets: Secrets) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value without the secrets in its texts."""
    if not secrets:
        return value
    if isinstance(value, str):
        return secrets.redact(value)
    if isinstance(value, list):
        return [redact(item, secrets) for item in value]
    if isinstance(value, dict):
        return {key: redact(item, secrets) for key, item in value.items()}
    return value


def _check_numbers(choice: Choice) -> None:
    limits = choice.limits
    check_positive(
        max_steps=limits.steps,
        max_tokens=limits.output_tokens,
        max_total_tokens=limits.tokens,
        max_seconds=limits.seconds,
        max_context=1 if choice.max_context is None else choice.max_context,
        max_repeats=limits.repeats + 1,
        tool_seconds=choice.tool_seconds,
        batch_size=choice.batch_size,
    )
    check_sampling(choice.sampling)


def check_positive(**values: float) -> None:
    """Check numbers of flags, each under the name of its flag.

    Raises:
        ConfigError: one is not above 0.
    """
    for name, value in values.items():
        if value <= 0:
            raise ConfigError(f"{name} is {value}", fix="give a number above 0")


def check_sampling(sampling: Sampling) -> None:
    """Check how tokens are to be chosen.

    Raises:
        ConfigError: a temperature or top_p that is none.
    """
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise ConfigError(
            f"temperature is {sampling.temperature}, top_p {sampling.top_p}",
            fix="temperature is 0 (greedy) or above, top_p above 0 and at most 1",
        )
