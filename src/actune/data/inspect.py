"""What a person is shown of the data: the table of a run, and rows with their trained spans marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actune.core.types import Conversation
from actune.data.prepare import Prepared
from actune.render.encoder import EncodedTurn
from actune.render.tokenizer import strip_marks
from actune.render.tree import TokenTree

_NARROW = 118
"""Below so many columns the table of a run has no grid, and its headings are broken over two lines."""


def counts_table(prepared: Prepared, width: int) -> Table:
    """Return the table of a run: per source rows, tokens, supervised tokens, left out, quarantined.

    It fits `width` columns from 80 on. Shortened rows and warnings have a column only where there are any.
    """
    tallies = [count.tally for count in prepared.counts]
    optional = [name for name in ("shortened", "warnings") if any(getattr(tally, name) for tally in tallies)]
    names = ["read", "trained", "tokens", "supervised", "over-long", "quarantined", *optional]
    narrow = width < _NARROW
    table = Table(title="What the model will see", title_justify="left", pad_edge=not narrow)
    if narrow:
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    table.add_column("source", overflow="fold")
    table.add_column("role", no_wrap=True)
    for name in names:
        table.add_column(_BROKEN.get(name, name) if narrow else name, justify="right", no_wrap=True)
    total = dict.fromkeys(("trained", "tokens", "supervised"), 0)
    for count, tally in zip(prepared.counts, tallies, strict=True):
        numbers = {
            "read": count.read, "trained": tally.rows, "tokens": tally.tokens, "supervised": tally.supervised,
            "over-long": tally.over_long, "quarantined": tally.quarantined + count.unreadable,
            "shortened": tally.shortened, "warnings": tally.warnings,
        }  # fmt: skip
        table.add_row(Text(_short_name(count.name)), count.role, *(f"{numbers[name]:,}" for name in names))
        if count.role != "validation":
            total = {name: value + numbers[name] for name, value in total.items()}
    table.add_section()
    table.add_row("for training", "", *(f"{total[name]:,}" if name in total else "" for name in names))
    return table


_BROKEN = {
    "supervised": "super-\nvised",
    "over-long": "over-\nlong",
    "quarantined": "quaran-\ntined",
    "shortened": "short-\nened",
    "warnings": "warn-\nings",
}


def _short_name(source: str) -> str:
    """Return a source as its table shows it: of a path only the file, the rest stands in run.json."""
    return source if source.startswith(("hf:", "ms:")) else PurePath(source).name or source


def show_row(console: Console, conversation: Conversation, turns: Sequence[EncodedTurn], tree: TokenTree) -> None:
    """Print one row: every turn's new prompt text, its completion marked, and counts.

    Trained text is green and underlined on a terminal, and stands between ⟦ and ⟧ elsewhere.
    """
    opening, closing = ("", "") if console.is_terminal or console.record else ("⟦", "⟧")
    console.rule(f"{conversation.source}", align="left")
    shown = ""
    for number, turn in enumerate(turns, 1):
        prompt, completion = strip_marks(turn.turn.prompt), strip_marks(turn.turn.completion)
        rewritten = not prompt.startswith(shown)
        title = f"turn {number}: prompt {turn.start} tokens, completion {len(turn.ids) - turn.start}"
        title += f", weight {turn.weight:g}"
        if rewritten:
            title += "; the template rewrites what stood before, so the prompt is shown whole"
        console.print(Text(title, style="bold"))
        text = Text(prompt if rewritten else prompt[len(shown) :])
        if turn.weight > 0:
            text.append(f"{opening}{completion}{closing}", style="green underline")
        else:
            text.append(completion, style="dim")
        console.print(text, soft_wrap=True)
        shown = prompt + completion
    console.print(
        Text(
            f"{len(tree)} tokens laid out, {len(tree.target_ids)} supervised "
            f"({len(tree.target_ids) / max(len(tree), 1):.0%}), {'branching' if tree.has_branches else 'one line'}",
            style="bold",
        )
    )
