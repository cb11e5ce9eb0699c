"""From `--tools SPEC ...` to a Toolbox: which file brings descriptions, which answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actune.agents.tools.toolbox import Tool, Toolbox, join_names
from actune.core import api_list
from actune.core.errors import ConfigError, DataError
from actune.core.types import ToolCall, ToolSpec

_SPEC_FIX = (
    "name a Python file, 'manual', 'record:FILE' (jsonl), or a file that describes tools "
    "(.json with OpenAI functions, .txt or .md with an API list)"
)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one SPEC brings: descriptions, tools that answer, and whether a person answers."""

    specs: tuple[ToolSpec, ...]
    tools: tuple[Tool, ...] = ()
    manual: bool = False


def load_toolbox(
    specs: Sequence[str],
    *,
    ask: Callable[[ToolCall], str] | None = None,
    seconds: float = 30.0,
    characters: int = 20_000,
) -> Toolbox:
    """Load tools from SPECs: Python files, `manual`, `record:FILE`, files that only describe.

    Where several SPECs know a tool, the first describes it and the last answers it; `manual` answers every tool;
    `manual:FILE` is `manual` with the descriptions of FILE. A record answers only the tools it has lines of: others
    that an earlier Python file knows are really called. Loading a Python file executes it.

    Raises:
        ConfigError: a SPEC cannot be loaded, or nobody answers a tool that is described.
    """
    described: dict[str, ToolSpec] = {}
    tools: dict[str, Tool] = {}
    manual = False
    for text in specs:
        source = _load(text)
        for spec in source.specs:
            described.setdefault(spec.name, spec)
        if source.manual:
            tools, manual = {}, True
        tools |= {tool.spec.name: tool for tool in source.tools}
    if manual and ask is None:
        raise ConfigError("--tools manual needs somebody to ask, and nobody is there", fix="use record:FILE instead")
    silent = [name for name in described if name not in tools]
    if silent and not manual:
        raise ConfigError(
            f"nobody answers the tools {join_names(silent)}: they are only described",
            fix="add a SPEC that answers: a Python file, manual, or record:FILE",
        )
    return Toolbox(
        tuple(described.values()),
        tuple(tools.values()),
        ask=ask if manual else None,
        seconds=seconds,
        characters=characters,
    )


def _load(text: str) -> _Source:
    from actune.agents.tools.python import load_python
    from actune.agents.tools.recorded import load_record

    if text == "manual":
        return _Source((), manual=True)
    if text.startswith("manual:"):
        return _Source(_load(text.removeprefix("manual:")).specs, manual=True)
    recorded = text.startswith("record:")
    path = Path(text.removeprefix("record:"))
    if not path.is_file():
        raise ConfigError(f"--tools {text}: there is no file {path}", fix=_SPEC_FIX)
    if recorded:
        tools = load_record(path)
    elif path.suffix == ".py":
        tools = load_python(path)
    elif path.suffix == ".json":
        return _Source(_read_functions(path))
    elif path.suffix in (".txt", ".md"):
        return _Source(_read_api_list(path))
    elif path.suffix == ".jsonl":
        raise ConfigError(f"--tools {text}: a jsonl file", fix=f"recorded observations are given as record:{text}")
    else:
        raise ConfigError(f"--tools {text}: files ending in {path.suffix!r} are not known", fix=_SPEC_FIX)
    return _Source(tuple(tool.spec for tool in tools), tuple(tools))


def _read_functions(path: Path) -> tuple[ToolSpec, ...]:
    from actune.formats.tools import read_tools

    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}", fix=_SPEC_FIX) from error
    if isinstance(value, dict) and "mcpServers" in value:
        raise ConfigError(
            f"{path} names MCP servers, which come with a later version", fix="use a Python file, manual or record:FILE"
        )
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
