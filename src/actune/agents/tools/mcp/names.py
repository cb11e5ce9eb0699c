"""Which names the model sees of the tools of MCP servers: short, safe everywhere, the same whatever answers first.

A tool keeps its own name where nobody else has it. Where two servers, or a Python file, have a tool of that name, the
servers' ones are called `server__tool`. Names consist of letters, digits, `_` and `-`, at most 64 of them, as chat
templates and OpenAI's protocol want; a name that had to be changed beyond that ends in six digits of its hash.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_LONGEST = 64
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


def name_tools(listed: Sequence[tuple[str, str]], taken: Iterable[str] = ()) -> list[str]:
    """Return the visible name of each (server, tool), in order; `taken` are the names of other tools.

    A name depends on the names of all servers and tools only, not on their order.
    """
    others = set(taken)
    short = [_fit(tool) for _, tool in listed]
    used = Counter(short) + Counter(others)
    long = [
        name if used[name] == 1 else _fit(f"{server}__{tool}")
        for name, (server, tool) in zip(short, listed, strict=True)
    ]
    used = Counter(long) + Counter(others)
    return [
        name if used[name] == 1 else _add_hash(name, f"{server}\0{tool}")
        for name, (server, tool) in zip(long, listed, strict=True)
    ]


def _fit(name: str) -> str:
    """Return a name of allowed characters; blanks and dots become `_`, what says more is kept in a hash."""
    fitted = _ODD.sub("_", name)
    lost = len(fitted) > _LONGEST or not fitted.strip("_") or not name.isascii()
    return _add_hash(fitted.strip("_") or "tool", name) if lost else fitted


def _add_hash(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name[: _LONGEST - 7]}_{digest}"
