"""Help pages, written by `python scripts/make_help_pages.py`: printing a file takes a fifth of building the help anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent


def find_page(words: Sequence[str]) -> str | None:
    """Return the help that a command line asks for (`--help`, `COMMAND --help`), None when it asks for something else."""
    if not words or words[-1] not in ("--help", "-h") or len(words) > 2:
        return None
    name = words[0] if len(words) == 2 else "actune"
    if not name.isidentifier():
        return None
    page = _FOLDER / f"{name}.txt"
    return page.read_text(encoding="utf-8") if page.is_file() else None
