"""What a chat template or dialect can lose of a conversation: the names that `--allow_loss` takes, and their codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from actune.core.errors import ConfigError

LOSSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "system": ("system-lost",),
        "user": ("user-lost",),
        "observation": ("observation-lost",),
        "history": ("history-lost",),
        "reasoning": ("reasoning-lost", "reasoning-ambiguous"),
        "content": ("content-lost", "content-ambiguous"),
        "call": ("call-lost",),
        "arguments": ("arguments-lost", "arguments-escaped"),
        "tool": ("tool-lost",),
        "tool-schema": ("tool-schema-lost",),
        "reading": ("completion-unreadable", "calls-ambiguous", "content-ambiguous", "reasoning-ambiguous"),
    }
)
"""Codes of losses by name. `reading`: the text is there, but is read back as something else or not at all."""


# What a template cannot do at all with a row: no loss that can be allowed.
_REFUSALS = frozenset(
    {"calls-lost", "prompt-no-prefix", "no-stop", "template-refuses", "template-too-costly", "parts-unknown"}
)


def is_loss(code: str) -> bool:
    """Return whether a code says that a template or dialect cannot hold a row, rather than that the row is wrong."""
    return code in _REFUSALS or name_of(code) is not None


def name_of(code: str) -> str | None:
    """Return the name that allows a code, None when nothing does."""
    return next((name for name, codes in LOSSES.items() if code in codes), None)


def find_codes(names: Iterable[str]) -> frozenset[str]:
    """Return the codes that names stand for; a code stands for itself, and one text may hold several names.

    Raises:
        ConfigError: for a name that is none.
    """
    known = {code for codes in LOSSES.values() for code in codes}
    found: set[str] = set()
    for name in (part.strip() for text in names for part in text.split(",")):
        if name in LOSSES:
            found.update(LOSSES[name])
        elif name in known:
            found.add(name)
        elif name:
            raise ConfigError(f"--allow_loss {name}: no such loss", fix=f"give one of {', '.join(LOSSES)}")
    return frozenset(found)
