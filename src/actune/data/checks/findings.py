"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding; `code` is stable, `field` says where in the row, `fix` what to do."""

    level: Level
    code: str
    field: str
    message: str
    fix: str


def cut(text: str, limit: int = 200) -> str:
    """Return a text for a message, at most `limit` characters of it."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
