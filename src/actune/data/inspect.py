"""What a person is shown of the data: the table of a run, and rows with their trained spans marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actune.core.types import Conversation
from actune.data.prepare import Prepared
from actune.render.encoder import EncodedTurn
from actune.render.tokenizer import strip_marks
from actune.render.tree import TokenTree


def counts_table(prepared: Prepared) -> Table:
    """Return the table of a run: per source rows, tokens, supervised tokens, left out, quarantined."""
    table = Table(title="What the model will see", title_justify="left")
    table.add_column("source", overflow="fold")
    table.add_column("role")
    for name in ("read", "trained", "tokens", "supervised", "over-long", "shortened", "quarantined", "warnings"):
        table.add_column(name, justify="right")
    total = [0, 0, 0]
    for count in prepared.counts:
        tally = count.tally
        numbers = (
            count.read, tally.rows, tally.tokens, tally.supervised, tally.over_long, tally.shortened,
            tally.quarantined + count.unreadable, tally.warnings,
        )  # fmt: skip
        table.add_row(Text(_short_name(count.name)), count.role, *(f"{number:,}" for number in numbers))
        if count.role != "validation":
            total = [total[0] + tally.rows, total[1] + tally.tokens, total[2] + tally.supervised]
    table.add_section()
    table.add_row("all for training", "", "", *(f"{number:,}" for number in total), "", "", "", "")
    return table


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
