"""How a run looks in a terminal: the model's text as it comes, calls and observations set apart from it."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

from actune.agents.loop import Event
from actune.agents.trace import Trace

# Control characters other than tab and line break, C1 included: text from outside must not steer a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDS = {
    "steps": "ended after {steps} steps without an answer; --max_steps allows more",
    "tokens": "ended at the limit of tokens without an answer; --max_tokens and --max_total_tokens allow more",
    "seconds": "ended at the limit of time without an answer; --max_seconds allows more",
    "loop": "ended: it went in circles; --max_repeats allows more",
    "unparsable": "ended: the last output is neither a call nor an answer",
    "error": "ended: the conversation cannot be shown to the model any more",
}


class Display:
    """Writes the events of a run."""

    def __init__(self, console: Console) -> None:
        """Write to a console."""
        self._console = console
        self._at_line_start = True

    def show(self, event: Event) -> None:
        """Write one event; text of the model as it is, everything else on marked lines of its own."""
        if event.kind == "text":
            text = clean(event.text)
            self._console.print(Text(text), end="", soft_wrap=True)
            if text:
                self._at_line_start = text.endswith("\n")
            return
        if event.kind == "call" and event.call is not None:
            self._block("call", f"{event.call.name} {event.call.arguments}", "cyan")
        elif event.kind == "observation":
            self._block("observation", event.text, "green")
        elif event.kind == "note":
            self._block("note", event.text, "yellow")
        else:
            self._block("error", event.text, "red")

    def end(self, trace: Trace) -> None:
        """Close the last line and say why a run ended without an answer."""
        self._break()
        if trace.reason != "answer":
            self._block("note", _ENDS[trace.reason].format(steps=len(trace.steps)), "yellow")

    def _block(self, label: str, text: str, style: str) -> None:
        self._break()
        lines = clean(text).splitlines() or [""]
        self._console.print(Text(f"  | {label}: ", style=f"bold {style}") + Text(lines[0], style=style), soft_wrap=True)
        for line in lines[1:]:
            self._console.print(Text(f"  |   {line}", style=style), soft_wrap=True)

    def _break(self) -> None:
        if not self._at_line_start:
            self._console.print()
            self._at_line_start = True


def clean(text: str) -> str:
    r"""Return a text with control characters written out (`\x1b`)."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
