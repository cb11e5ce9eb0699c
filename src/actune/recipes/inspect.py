"""`actune inspect`: rows as the model is trained on them, for people."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from actune.core.errors import ConfigError
from actune.core.files import atomic_text
from actune.data.inspect import examine, show_problems, show_row
from actune.data.inspect_page import page
from actune.recipes.writing import HistoryReasoning, check_out, find_writing, in_order, load_rows, stderr
from actune.render.encoder import DialectName

_FIRST = 3  # rows shown unless one is asked for


def inspect(  # noqa: PLR0913 - one parameter a flag
    *,
    model: str,
    data: str,
    row: int | None,
    html: Path | None,
    dialect: DialectName | None,
    now: datetime.date | None,
    format_name: str | None,
    chat_template: str | None,
    history_reasoning: HistoryReasoning | None,
    raw_control_tokens: bool,
    allow_loss: Sequence[str] = (),
    template_variables: Sequence[str] = (),
    loss_weights: Sequence[str] = (),
) -> int:
    """Show rows with their trained spans marked: row number `row` (from 1), else the first three.

    With `html` they are written as one page instead.
    """
    from rich.console import Console

    if html is not None:
        check_out(html, [data])
    writing = find_writing(
        model,
        dialect,
        chat_template,
        now,
        history_reasoning,
        raw_control_tokens,
        allow_loss=allow_loss,
        template_variables=template_variables,
        loss_weights=loss_weights,
    )
    encoder = writing.encoder()
    items = list(in_order([load_rows(data, format_name)]))
    if row is not None and not 1 <= row <= len(items):
        raise ConfigError(f"--row {row}: {data} has {len(items)} rows", fix=f"give a number from 1 to {len(items)}")
    chosen = items[:_FIRST] if row is None else [items[row - 1]]
    rows = [examine(encoder, item) for item in chosen]
    refused = sum(one.refused for one in rows)
    if html is not None:
        text = page(encoder, rows, model=model, data=data, available=len(items), dialect=writing.dialect)
        atomic_text(html, text)
        note = f", {refused} not trained on" if refused else ""
        stderr().print(f"{len(rows)} of {len(items):,} rows written to {html}{note}", highlight=False)
        return 1 if refused else 0
    console = Console(highlight=False)
    for one in rows:
        show_problems(console, one)
        if one.conversation is not None and one.tree is not None:
            console.print(f"dialect {one.dialect}")
            show_row(console, one.conversation, one.encoded, one.tree)
    return 1 if refused else 0
