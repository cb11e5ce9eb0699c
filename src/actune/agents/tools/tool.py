"""A tool: what the model is told of it, and what answers its calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actune.core.types import ToolSpec

_NAMES_SHOWN = 50


@dataclass(frozen=True, slots=True)
class ToolFailure:
    """What a tool returns to say that a call did not work: the code and the text of the Observation."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that answers calls.

    `call` takes the arguments, which fit what the model was told, and returns a text, any value that JSON can hold
    (None is `null`) or a ToolFailure; what it raises becomes an Observation. `parallel` False: never two calls at a
    time. `inline` True: it is our own code, at once, and needs no thread and no time limit. `seconds` is its time limit
    (None: that of the toolbox), `server` the MCP server it belongs to. `aliases` are other names by which permissions may know it, `hints` what it says of
    itself: for a person to read, never to be relied on.
    """

    spec: ToolSpec
    call: Callable[[dict[str, Any]], Any]
    parallel: bool = True
    inline: bool = False
    seconds: float | None = None
    server: str | None = None
    aliases: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def join_names(names: Sequence[str]) -> str:
    """Return names for a message, not more of them than a person reads."""
    if not names:
        return "none"
    more = len(names) - _NAMES_SHOWN
    return ", ".join(itertools.islice(names, _NAMES_SHOWN)) + (f" and {more} more" if more > 0 else "")
