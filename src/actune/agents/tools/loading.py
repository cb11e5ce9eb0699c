"""From `--tools SPEC ...` to a Toolbox: which file brings descriptions, which answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.agents.tools.permission import Approver, Gate, Permission
from actune.agents.tools.secrets import Secrets
from actune.agents.tools.tool import Tool, join_names
from actune.agents.tools.toolbox import Toolbox
from actune.core import api_list
from actune.core.errors import ConfigError, DataError
from actune.core.json_text import read_json
from actune.core.types import ToolCall, ToolSpec

if TYPE_CHECKING:
    from actune.agents.tools.mcp.config import Server
    from actune.agents.tools.mcp.hub import Hub

_SPEC_FIX = (
    "name a Python file, an MCP configuration (.json with mcpServers), 'manual', 'record:FILE' (jsonl), or a file that "
    "describes tools (.json with OpenAI functions, .txt or .md with an API list)"
)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one SPEC brings: descriptions, tools that answer, whether a person answers, MCP servers still to start."""

    specs: tuple[ToolSpec, ...] = ()
    tools: tuple[Tool, ...] = ()
    manual: bool = False
    servers: tuple[Server, ...] = ()
    named: bool = False
    """Whether its names are its own, and so kept apart from those of servers: of a Python file."""


def load_toolbox(
    specs: Sequence[str],
    *,
    ask: Callable[[ToolCall], str] | None = None,
    seconds: float = 30.0,
    characters: int = 20_000,
    permission: Permission | None = None,
    approve: Approver | None = None,
    notice: Callable[[str], None] | None = None,
    secrets: Secrets | None = None,
) -> Toolbox:
    """Load tools from SPECs: Python files, MCP configurations, `manual`, `record:FILE`, files that only describe.

    Where several SPECs know a tool, the first describes it and the last answers it; `manual` answers every tool;
    `manual:FILE` is `manual` with the descriptions of FILE. A record answers only the tools it has lines of: others
    that an earlier Python file knows are really called. Loading a Python file executes it; loading an MCP
    configuration starts its servers, which run until the toolbox is closed. Their tools and those of Python files have
    names of their own (see `mcp/names.py`).

    `approve` asks a person where `permission` says so; `notice` is told what a user should know; `secrets` known
    already are kept out of Observations too.

    Raises:
        ConfigError: a SPEC cannot be loaded, a server does not start, nobody answers a tool that is described, or a
            permission names no tool.
        MissingExtraError: MCP servers are named and the package `mcp` is not installed.
    """
    secrets = secrets or Secrets()
    notice = notice or (lambda _text: None)
    sources = [_load(text, secrets, notice) for text in specs]
    if any(source.manual for source in sources) and ask is None:
        raise ConfigError("--tools manual needs somebody to ask, and nobody is there", fix="use record:FILE instead")
    sources, hub = _start_servers(sources, secrets, notice)
    try:
        described, tools, manual = _put_together(sources)
        permission = permission or Permission()
        if not manual:
            permission.check(tools)
        return Toolbox(
            described,
            tools,
            ask=ask if manual else None,
            seconds=seconds,
            characters=characters,
            secrets=secrets,
            gate=Gate(permission, approve),
            close=hub.close if hub is not None else None,
        )
    except BaseException:
        if hub is not None:
            hub.close()
        raise


def _put_together(sources: Sequence[_Source]) -> tuple[list[ToolSpec], list[Tool], bool]:
    """Return the descriptions (the first of a name), the tools (the last) and whether a person answers others."""
    described: dict[str, ToolSpec] = {}
    tools: dict[str, Tool] = {}
    manual = False
    for source in sources:
        for spec in source.specs:
            described.setdefault(spec.name, spec)
        if source.manual:
            tools, manual = {}, True
        tools |= {tool.spec.name: tool for tool in source.tools}
    silent = [name for name in described if name not in tools]
    if silent and not manual:
        raise ConfigError(
            f"nobody answers the tools {join_names(silent)}: they are only described",
            fix="add a SPEC that answers: a Python file, manual, or record:FILE",
        )
    return list(described.values()), list(tools.values()), manual


def _start_servers(
    sources: Sequence[_Source], secrets: Secrets, notice: Callable[[str], None]
) -> tuple[list[_Source], Hub | None]:
    """Start the servers of all SPECs at the same time; each source gets its own tools."""
    servers = [server for source in sources for server in source.servers]
    if not servers:
        return list(sources), None
    for index, server in enumerate(servers):
        other = next((one for one in servers[:index] if one.name == server.name), None)
        if other is not None:
            raise ConfigError(
                f"the MCP server {server.name!r} stands in {other.file} and in {server.file}", fix="rename one of them"
            )
    from actune.config.extras import require_package

    require_package("mcp", extra="agent", what="a file of MCP servers")
    from actune.agents.tools.mcp.hub import Hub
    from actune.agents.tools.mcp.loading import make_tools

    hub = Hub(servers, secrets)
    listed = hub.start()
    try:
        taken = [tool.spec.name for source in sources if source.named for tool in source.tools]
        tools, notices = make_tools(hub, listed, taken)
    except BaseException:
        hub.close()
        raise
    offering = {one.server.name for one in listed}
    notices += [f"the MCP server {one.name!r} offers no tools" for one in servers if one.name not in offering]
    for text in notices:
        notice(text)
    started = []
    for source in sources:
        names = {server.name for server in source.servers}
        own = tuple(tool for tool in tools if tool.server in names)
        started.append(replace(source, specs=tuple(tool.spec for tool in own), tools=own) if names else source)
    return started, hub


def _load(text: str, secrets: Secrets, notice: Callable[[str], None]) -> _Source:
    from actune.agents.tools.python import load_python
    from actune.agents.tools.recorded import load_record

    if text == "manual":
        return _Source(manual=True)
    if text.startswith("manual:"):
        source = _load(text.removeprefix("manual:"), secrets, notice)
        if source.servers:
            raise ConfigError(
                f"--tools {text}: servers describe their tools only while they run",
                fix=f"give both: --tools {text.removeprefix('manual:')} manual",
            )
        return _Source(source.specs, manual=True)
    recorded = text.startswith("record:")
    path = Path(text.removeprefix("record:"))
    if not path.is_file():
        raise ConfigError(f"--tools {text}: there is no file {path}", fix=_SPEC_FIX)
    if recorded:
        tools = load_record(path)
        return _Source(tuple(tool.spec for tool in tools), tuple(tools))
    if path.suffix == ".py":
        tools = load_python(path)
        return _Source(tuple(tool.spec for tool in tools), tuple(tools), named=True)
    if path.suffix == ".json":
        return _read_json(path, secrets, notice)
    if path.suffix in (".txt", ".md"):
        return _Source(_read_api_list(path))
    if path.suffix == ".jsonl":
        raise ConfigError(f"--tools {text}: a jsonl file", fix=f"recorded observations are given as record:{text}")
    raise ConfigError(f"--tools {text}: files ending in {path.suffix!r} are not known", fix=_SPEC_FIX)


def _read_json(path: Path, secrets: Secrets, notice: Callable[[str], None]) -> _Source:
    """Read a JSON file: MCP servers, else descriptions of tools."""
    from actune.agents.tools.mcp.config import names_servers, read_servers

    text = _read_text(path)
    try:
        value = json.loads(text)
        if names_servers(value):
            value = read_json(text)  # which refuses a server or key that stands twice
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}", fix=_SPEC_FIX) from error
    if not names_servers(value):
        return _Source(_read_functions(path, value))
    servers, notices = read_servers(path, value, secrets)
    for line in notices:
        notice(line)
    return _Source(servers=tuple(servers))


def _read_functions(path: Path, value: Any) -> tuple[ToolSpec, ...]:  # noqa: ANN401 - any JSON value
    from actune.formats.tools import read_tools

    repairs: list[str] = []
    try:
        tools = read_tools(value, "tools", repairs)
    except DataError as error:
        raise ConfigError(f"{path}: {error.message}", fix=error.fix) from error
    if repairs or not tools:
        raise ConfigError(f"{path}: {'; '.join(repairs) or 'no tool in it'}", fix=_SPEC_FIX)
    return tools


def _read_api_list(path: Path) -> tuple[ToolSpec, ...]:
    try:
        block = api_list.read_system(_read_text(path))
    except DataError as error:
        raise ConfigError(f"{path}: {error.message}", fix=error.fix) from error
    if block is None:
        raise ConfigError(f"{path} holds no API list", fix="write it as the reference recipe does")
    if block.system:
        raise ConfigError(
            f"{path} holds more than an API list: {block.system[:80]!r}", fix="give that text with --system"
        )
    return block.tools


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="give a UTF-8 text file") from error
