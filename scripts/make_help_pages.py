"""Write the help pages of the command line: `python scripts/make_help_pages.py`.

With `--check` nothing is written; exit code 1 if a page is not current.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from actune.cli.app import COMMANDS
from actune.cli.settings_help import write_help

FOLDER = Path(__file__).resolve().parents[1] / "src" / "actune" / "cli" / "pages"


def write_pages() -> dict[str, str]:
    """Return the text of every page by name."""
    pages = {"actune": run_help([])}
    for name in COMMANDS:
        pages[name] = write_help() if name == "sft" else run_help([name])
    return pages


def run_help(words: list[str]) -> str:
    """Return what the application itself prints, 80 columns wide."""
    code = f"from actune.cli.app import run_app\nrun_app({[*words, '--help']!r})"
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def main() -> int:
    """Write the pages, or compare them."""
    stale = []
    for name, text in write_pages().items():
        page = FOLDER / f"{name}.txt"
        if page.is_file() and page.read_text(encoding="utf-8") == text:
            continue
        stale.append(page.name)
        if "--check" not in sys.argv[1:]:
            page.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "all pages are current")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
