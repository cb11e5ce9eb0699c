"""`actune inspect`: rows as the model is trained on them, for people."""

from __future__ import annotations

import datetime
from pathlib import Path

from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_text
from actune.data.inspect import show_row
from actune.data.sources import Quarantined
from actune.recipes.writing import HistoryReasoning, check_out, find_writing, in_order, load_rows
from actune.render.encoder import DialectName, merge_turns


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
) -> int:
    """Show rows with their trained spans marked: row number `row` (from 1), else the first three."""
    from rich.console import Console

    if html is not None:
        check_out(html, [data])
    writing = find_writing(model, dialect, chat_template, now, history_reasoning, raw_control_tokens)
    encoder = writing.encoder()
    items = list(in_order([load_rows(data, format_name)]))
    if row is not None and not 1 <= row <= len(items):
        raise ConfigError(f"--row {row}: {data} has {len(items)} rows", fix=f"give a number from 1 to {len(items)}")
    chosen = items[:3] if row is None else [items[row - 1]]
    console = Console(record=html is not None, highlight=False)
    problems = 0
    for item in chosen:
        try:
            if isinstance(item, Quarantined):
                raise DataError(item.message, code=item.code, field=item.field, fix=item.fix)
            turns = encoder.encode_turns(item)
            console.print(f"dialect {encoder.dialect_of(item).name}")
            show_row(console, item, turns, merge_turns(turns, item.source))
        except (DataError, RenderError) as error:
            problems += 1
            place = f", {error.field}" if error.field and error.field not in error.message else ""
            console.print(f"{item.source}{place}: {error.code}: {error}", style="red", markup=False)
    if html is not None:
        atomic_text(html, console.export_html(inline_styles=True))
    return 1 if problems else 0
