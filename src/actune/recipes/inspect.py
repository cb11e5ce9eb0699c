"""`actune inspect`: rows as the model is trained on them, for people."""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from actune.config.run_folder import read_run
from actune.core.errors import ConfigError
from actune.core.files import atomic_text
from actune.core.types import Conversation
from actune.data.checks.rules import Level
from actune.data.inspect.page import About, page
from actune.data.inspect.rows import count_examined, examine, show_problems, show_row
from actune.data.inspect.statistics import Statistics, choose_rows
from actune.data.reading.sources import Loaded, Quarantined
from actune.recipes.writing import (
    HistoryReasoning,
    check_out,
    find_writing,
    in_order,
    load_rows,
    stderr,
)
from actune.render.encoder import DialectName, Encoder

_FIRST = 3  # rows shown in a terminal unless one is asked for


def inspect(  # noqa: PLR0913 - one parameter a flag
    *,
    model: str,
    data: Sequence[str],
    row: int | None,
    html: Path | None,
    limit: int = 200,
    max_length: int | None = None,
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

    With `html` they are written as one page instead: row `row`, else at most `limit` rows (see `choose_rows`),
    with statistics over all. `max_length` (-1: no limit; None: that of the run that `model` is) marks over-long rows there.
    """
    if html is not None:
        check_out(html, data)
    if limit < 1:
        raise ConfigError(f"--limit {limit}: a page shows at least one row", fix="give a number from 1 on")
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
    loaded = [load_rows(spec, format_name) for spec in data]
    available = sum(len(one.conversations) + len(one.quarantined) for one in loaded)
    if row is not None and not 1 <= row <= available:
        raise ConfigError(
            f"--row {row}: {', '.join(data)} has {available} rows", fix=f"give a number from 1 to {available}"
        )
    if html is None:
        return _show(encoder, loaded, available, row)
    if max_length is None:
        max_length = _trained_length(model)
    statistics, chosen = None, [row - 1] if row is not None else []
    if row is None:
        statistics = Statistics(max_length=max_length)
        chosen = _survey(encoder, loaded, statistics, limit)
    rows = {index + 1: examine(encoder, item) for index, item in _pick(loaded, chosen)}
    about = About(
        model=model,
        data=tuple(data),
        dialect=writing.dialect,
        available=available,
        max_length=max_length,
        loss_weights=writing.loss_weights,
    )
    atomic_text(html, page(encoder, rows, about, statistics))
    refused = statistics.refused if statistics is not None else sum(one.refused for one in rows.values())
    note = f", {refused:,} of all not trained on" if refused else ""
    stderr().print(f"{len(rows):,} of {available:,} rows written to {html}{note}", highlight=False)
    return 1 if refused else 0


def _show(encoder: Encoder, loaded: Sequence[Loaded], available: int, row: int | None) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    chosen = range(min(_FIRST, available)) if row is None else [row - 1]
    rows = [examine(encoder, item) for _, item in _pick(loaded, chosen)]
    for one in rows:
        show_problems(console, one)
        if one.conversation is not None and one.tree is not None:
            console.print(f"dialect {one.dialect}")
            show_row(console, one.conversation, one.encoded, one.tree, tokenizer=encoder.renderer.tokenizer)
    if len(rows) < available and row is None:
        stderr().print(f"{len(rows)} of {available:,} rows; --row N shows another, --html FILE writes a page")
    return 1 if any(one.refused for one in rows) else 0


def _survey(encoder: Encoder, loaded: Sequence[Loaded], statistics: Statistics, limit: int) -> list[int]:
    """Count every row; return the indices of those to show. Of a row nothing but numbers is kept."""
    problems: dict[tuple[Level, str], array[int]] = {}
    with stderr().status("counting all rows"):
        for index, item in enumerate(in_order(loaded)):
            facts = count_examined(examine(encoder, item))
            statistics.add(facts)
            for kind in dict.fromkeys(facts.codes):
                problems.setdefault(kind, array("q")).append(index)
    return choose_rows(statistics.rows, problems, limit)


def _pick(loaded: Sequence[Loaded], chosen: Sequence[int]) -> Iterator[tuple[int, Conversation | Quarantined]]:
    """Yield the rows at increasing indices, with their index."""
    wanted = set(chosen)
    for index, item in enumerate(islice(in_order(loaded), max(wanted, default=-1) + 1)):
        if index in wanted:
            yield index, item


def _trained_length(model: str) -> int:
    """Return the max_length of the run that a model comes from; -1 where there is none."""
    run = read_run(Path(model))
    return int(run.settings["data"]["max_length"]) if run is not None else -1
