"""A person is asked in the terminal whether a call may be made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from rich.console import Console

from actune.agents.tools.permission import Answer, Approver
from actune.agents.tools.tool import Tool
from actune.core.types import ToolCall
from actune.recipes.display import clean

_ANSWERS: dict[str, Answer] = {
    "y": "yes",
    "yes": "yes",
    "是": "yes",
    "n": "no",
    "no": "no",
    "否": "no",
    "a": "always",
    "always": "always",
    "总是": "always",
}
# Characters that are not seen, or turn the reading direction: what is agreed to must be what is read.
_UNSEEN = re.compile(r"[\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\U000e0000-\U000e0fff]")


def make_approver(read: Callable[[str], str], console: Console) -> Approver | None:
    """Return what asks the person at the terminal, None where there is no terminal: then no such call is made.

    `read` takes a prompt and gives a line; that the input ends is a no.
    """
    if not sys.stdin.isatty():
        return None

    def approve(call: ToolCall, tool: Tool) -> Answer | str:
        return ask_approval(call, tool, read, console)

    return approve


def ask_approval(call: ToolCall, tool: Tool, read: Callable[[str], str], console: Console) -> Answer | str:
    """Show a call and return the person's answer; whatever is no yes, no or always is a no with that reason."""
    about = f" ({'; '.join(tool.hints)})" if tool.hints else ""
    console.print(f"\n  | may {_show(call.name)} be called?{_show(about)}", style="bold yellow", markup=False)
    console.print(f"  |   {_show(call.arguments)}", style="yellow", markup=False, soft_wrap=True)
    while True:
        try:
            text = read("  yes, no, always, or why not: ").strip()
        except EOFError:
            return "no"
        if text:
            return _ANSWERS.get(text.lower(), text)


def _show(text: str) -> str:
    """Return a text with everything written out that a terminal would not show as it is."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", clean(text))
