"""Which tools may be called: never, only those, or after a person has agreed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from actune.agents.tools.tool import Tool, ToolFailure, join_names
from actune.core.errors import ConfigError
from actune.core.types import ToolCall

Answer = Literal["yes", "no", "always"]
# Asks a person whether a call may be made; its arguments are those that would be used, as JSON. Another text is a no
# with that reason.
Approver = Callable[[ToolCall, Tool], Answer | str]

_NOBODY = "this tool is only run after a person has agreed, and nobody can be asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Names of tools, or patterns (`files__*`, `*`), by what may be done with them.

    `allow`: only these, where any are named; `deny`: not these, whatever else holds; `ask`: only after a person agreed
    (`all` is every tool). A pattern is held against the name that the model sees, and for a tool of an MCP server also
    against its own name and `server__tool`. `strict`: a pattern that matches no tool is an error.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    strict: bool = True

    def denies(self, tool: Tool) -> bool:
        """Return whether a tool may not be called at all; the model is not told of it then."""
        return _match(self.deny, tool) or (bool(self.allow) and not _match(self.allow, tool))

    def asks(self, tool: Tool) -> bool:
        """Return whether a person is asked first. What answers from a record runs nothing, so nobody is asked."""
        return not tool.inline and _match(("*" if name == "all" else name for name in self.ask), tool)

    def check(self, tools: Sequence[Tool]) -> None:
        """Refuse patterns that match no tool: a misspelt `--deny` would deny nothing.

        Raises:
            ConfigError: names flag, pattern and the tools there are.
        """
        if not self.strict:
            return
        for flag, patterns in (("allow", self.allow), ("deny", self.deny), ("ask", self.ask)):
            for pattern in patterns:
                if pattern not in ("all", "*") and not any(_match((pattern,), tool) for tool in tools):
                    names = join_names([tool.spec.name for tool in tools])
                    raise ConfigError(f"--{flag} {pattern}: there is no such tool", fix=f"there are: {names}")


@dataclass(slots=True)
class Gate:
    """What stands between a model's calls and the tools: a Permission, and the person who is asked."""

    permission: Permission = field(default_factory=Permission)
    approve: Approver | None = None
    _always: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, call: ToolCall, tool: Tool, arguments: Mapping[str, Any]) -> ToolFailure | None:
        """Return why a call is not made, None where it may be; asks the person where that is wanted.

        Whatever the person's terminal raises (Ctrl-C) passes.
        """
        if self.permission.denies(tool):
            return ToolFailure("tool-denied", f"the tool {call.name!r} may not be called here")
        if not self.permission.asks(tool):
            return None
        if self.approve is None:
            return ToolFailure("tool-refused", _NOBODY)
        with self._lock:  # one question at a time
            if call.name in self._always:
                return None
            shown = replace(call, arguments=json.dumps(arguments, ensure_ascii=False))
            answer = self.approve(shown, tool)
            if answer == "always":
                self._always.add(call.name)
        if answer in ("yes", "always"):
            return None
        reason = "" if answer == "no" else f": {answer}"
        return ToolFailure("tool-refused", f"the user did not allow this call{reason}")


def _match(patterns: Iterable[str], tool: Tool) -> bool:
    names = (tool.spec.name, *tool.aliases)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
