"""From servers that have started to tools: names kept apart, hints passed on, calls sent to the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actune.agents.tools.mcp.hub import Hub, Listed
from actune.agents.tools.mcp.names import name_tools
from actune.agents.tools.tool import Tool, ToolFailure, join_names
from actune.core.errors import ConfigError
from actune.core.types import ToolSpec

if TYPE_CHECKING:
    from mcp_types import Tool as OfferedTool


@dataclass(frozen=True, slots=True)
class _Call:
    """Calls one tool of one server."""

    hub: Hub
    server: str
    name: str

    def __call__(self, arguments: dict[str, Any]) -> str | ToolFailure:
        return self.hub.call(self.server, self.name, arguments)


def make_tools(hub: Hub, listed: Sequence[Listed], taken: Sequence[str]) -> tuple[list[Tool], list[str]]:
    """Return the tools of all servers by the names that the model sees, and notices on names that are not their own.

    `taken` are names of tools that are no server's (of Python files).

    Raises:
        ConfigError: a list of wanted or hidden tools names one that its server does not have.
    """
    kept, notices = _choose(listed)
    names = name_tools([(one.server.name, one.tool.name) for one in kept], taken)
    tools: list[Tool] = []
    for one, name in zip(kept, names, strict=True):
        offered, server = one.tool, one.server
        spec = ToolSpec(name=name, description=_describe(offered), parameters=offered.input_schema)
        full = f"{server.name}__{offered.name}"
        tools.append(
            Tool(
                spec=spec,
                call=_Call(hub, server.name, offered.name),
                seconds=server.timeout,
                server=server.name,
                aliases=tuple(alias for alias in (full, offered.name) if alias != name),
                hints=(f"of the MCP server {server.name}", *_read_hints(offered)),
            )
        )
        if name != offered.name:
            notices.append(f"{offered.name!r} of the MCP server {server.name!r} is called {name!r} here")
    return tools, notices


def _choose(listed: Sequence[Listed]) -> tuple[list[Listed], list[str]]:
    """Leave out what the configuration hides, and a second tool of the same name in one server."""
    kept: dict[tuple[str, str], Listed] = {}
    notices: list[str] = []
    offered: dict[str, set[str]] = {}
    for one in listed:
        server, name = one.server, one.tool.name
        offered.setdefault(server.name, set()).add(name)
        if (server.name, name) in kept:
            notices.append(f"the MCP server {server.name!r} has two tools named {name!r}: the first one is used")
        elif name not in server.hidden and (server.only is None or name in server.only):
            kept[server.name, name] = one
    for server in {one.server.name: one.server for one in listed}.values():
        missing = sorted(((server.only or frozenset()) | server.hidden) - offered[server.name])
        if missing:
            raise ConfigError(
                f"{server.file}: server {server.name!r}: it has no tool named {missing[0]!r}",
                fix=f"it has: {join_names(sorted(offered[server.name]))}",
            )
    return list(kept.values()), notices


def _describe(tool: OfferedTool) -> str:
    title = tool.title or (tool.annotations.title if tool.annotations is not None else None)
    return tool.description or title or ""


def _read_hints(tool: OfferedTool) -> list[str]:
    """Return what a server says of a tool's effects; nobody has checked it."""
    notes = tool.annotations
    if notes is None:
        return []
    said = {
        "read-only": notes.read_only_hint is True,
        "changes things": notes.read_only_hint is False,
        "may destroy": notes.destructive_hint is True and notes.read_only_hint is not True,
        "reaches the outside world": notes.open_world_hint is True,
    }
    words = [word for word, true in said.items() if true]
    return [f"it says of itself, unchecked: {', '.join(words)}"] if words else []
