"""What a person is shown of the data: the table of a run, and rows with their trained spans marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Source
from actune.data.checks.rules import Finding, Level, find_problems
from actune.data.inspect.statistics import RowFacts, count_row
from actune.data.prepare import Prepared
from actune.data.reading.sources import Quarantined
from actune.render.dialects import Dialect, Turn
from actune.render.encoder import EncodedTurn, Encoder, merge_turns
from actune.render.token_places import TokenPlaces
from actune.render.tokenizer import TextTokenizer, strip_marks
from actune.render.tree import TokenTree

_NARROW = 118
"""Below so many columns the table of a run has no grid, and its headings are broken over two lines."""


def counts_table(prepared: Prepared, width: int) -> Table:
    """Return the table of a run: per source rows, tokens, supervised tokens, left out, quarantined.

    It fits `width` columns from 80 on. Shortened rows and warnings have a column only where there are any.
    """
    tallies = [count.tally for count in prepared.counts]
    optional = [name for name in ("shortened", "parts", "warnings") if any(getattr(tally, name) for tally in tallies)]
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
            "shortened": tally.shortened, "parts": tally.parts, "warnings": tally.warnings,
        }  # fmt: skip
        table.add_row(Text(short_name(count.name)), count.role, *(f"{numbers[name]:,}" for name in names))
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


def short_name(source: str) -> str:
    """Return a source as its table shows it: of a path only the file, the rest stands in run.json."""
    return source if source.startswith(("hf:", "ms:")) else PurePath(source).name or source


# --- one row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """Everything a person is shown of a row: what is wrong with it, and its turns.

    `encoded` and `tree` are there when the row is trained on; a refused row has the `turns` that can be written.
    """

    source: Source
    conversation: Conversation | None
    dialect: str
    problems: tuple[Finding, ...]
    turns: tuple[Turn, ...] = ()
    encoded: tuple[EncodedTurn, ...] = ()
    tree: TokenTree | None = None

    @property
    def refused(self) -> bool:
        """Whether the row is not trained on."""
        return self.tree is None


def examine(encoder: Encoder, item: Conversation | Quarantined) -> Examined:
    """Return a row with every problem it has: those of the data, and all that its text would lose."""
    if isinstance(item, Quarantined):
        problem = _finding(DataError(item.message, code=item.code, field=item.field, fix=item.fix))
        return Examined(source=item.source, conversation=None, dialect="", problems=(problem,))
    dialect = encoder.dialect_of(item)
    problems = find_problems(item)
    turns: list[Turn] = []
    encoded: tuple[EncodedTurn, ...] = ()
    tree: TokenTree | None = None
    refusal: DataError | RenderError | None = None
    try:
        turns, losses = encoder.examine(item)
    except (DataError, RenderError) as error:
        # Only then each turn is written for itself: one that cannot be written must not hide the others.
        losses, refusal = [], error
        for outcome in _write_turns(dialect, item):
            if isinstance(outcome, Finding):
                problems.append(outcome)
            else:
                turns.append(outcome)
    for loss in losses:
        level: Level = "warning" if encoder.allows(loss) else "error"
        problems.append(Finding(level=level, code=loss.code, field=loss.field, message=loss.message, fix=loss.fix))
    if refusal is None and all(encoder.allows(loss) for loss in losses):
        try:
            encoded = tuple(encoder.encode_written(item, turns))
            tree = merge_turns(encoded, item.source)
        except (DataError, RenderError) as error:
            refusal = error
    if refusal is not None and refusal.code not in {problem.code for problem in problems}:
        problems.append(_finding(refusal))
    return Examined(
        source=item.source,
        conversation=item,
        dialect=dialect.name,
        problems=tuple(problems),
        turns=tuple(turns),
        encoded=encoded,
        tree=tree,
    )


def _write_turns(dialect: Dialect, conversation: Conversation) -> Iterator[Turn | Finding]:
    """Yield each assistant message as a turn, or why it cannot be written."""
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        try:
            prompt = dialect.prompt(conversation, index)
            yield Turn(index=index, prompt=prompt, completion=dialect.completion(conversation, index, prompt))
        except (DataError, RenderError) as error:
            if error.field is None or not error.field.startswith("messages"):
                error.field = ".".join(part for part in (f"messages[{index}]", error.field) if part)
            yield _finding(error)


def _finding(error: DataError | RenderError) -> Finding:
    return Finding(level="error", code=error.code, field=error.field or "", message=error.message, fix=error.fix or "")


def count_examined(row: Examined) -> RowFacts:
    """Return what statistics count of a row."""
    return count_row(row.source.file, row.conversation, row.tree, dialect=row.dialect, problems=row.problems)


def show_problems(console: Console, examined: Examined) -> None:
    """Print the problems of a row, each with its place and what to do."""
    for problem in examined.problems:
        place = f", {problem.field}" if problem.field and problem.field not in problem.message else ""
        style = "red" if problem.level == "error" else "yellow"
        text = f"{examined.source}{place}: {problem.code}: {problem.message}"
        console.print(Text(text, style=style), soft_wrap=True)
        if problem.fix:
            console.print(Text(f"  fix: {problem.fix}", style=style), soft_wrap=True)


def show_row(
    console: Console,
    conversation: Conversation,
    turns: Sequence[EncodedTurn],
    tree: TokenTree,
    *,
    tokenizer: TextTokenizer,
) -> None:
    """Print one row: every turn's new prompt text, its completion marked, and counts.

    Trained text is green (magenta above weight 1, yellow below) and underlined on a terminal, and stands between ⟦ and ⟧
    elsewhere, after its weight where weights differ.
    """
    marked = not (console.is_terminal or console.record)
    places = TokenPlaces(tokenizer)
    console.rule(f"{conversation.source}", align="left")
    shown = ""
    for number, turn in enumerate(turns, 1):
        prompt, completion = strip_marks(turn.turn.prompt), strip_marks(turn.turn.completion)
        rewritten = not prompt.startswith(shown)
        title = f"turn {number}: prompt {turn.start} tokens, completion {len(turn.ids) - turn.start}"
        pieces = _split_by_weight(turn, completion, places)
        title += f", weight {', '.join(f'{weight:g}' for weight in sorted({weight for _, weight in pieces}))}"
        if rewritten:
            title += "; the template rewrites what stood before, so the prompt is shown whole"
        console.print(Text(title, style="bold"))
        text = Text(prompt if rewritten else prompt[len(shown) :])
        for piece, weight in pieces:
            shade = "green" if weight == 1 else "magenta" if weight > 1 else "yellow"
            told = f"{weight:g}| " if len(pieces) > 1 else ""
            written = f"⟦{told}{piece}⟧" if marked and weight > 0 else piece
            text.append(written, style=f"{shade} underline" if weight > 0 else "dim")
        console.print(text, soft_wrap=True)
        shown = prompt + completion
    console.print(
        Text(
            f"{len(tree)} tokens laid out, {len(tree.target_ids)} supervised "
            f"({len(tree.target_ids) / max(len(tree), 1):.0%}), {'branching' if tree.has_branches else 'one line'}",
            style="bold",
        )
    )


def _split_by_weight(turn: EncodedTurn, completion: str, places: TokenPlaces) -> list[tuple[str, float]]:
    """Return the completion in pieces of one weight each, in order."""
    weights = turn.token_weights().tolist()
    if len(set(weights)) < 2:
        return [(completion, weights[0] if weights else turn.weight)]
    text, begins = places.locate(turn.ids, turn.start)
    cuts = [at for at in range(len(weights)) if at == 0 or weights[at] != weights[at - 1]]
    ends = [begins[at] for at in cuts[1:]] + [len(text)]
    return [(text[begins[at] : end], weights[at]) for at, end in zip(cuts, ends, strict=True)]
