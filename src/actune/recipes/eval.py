"""`actune eval`: a model is measured on tasks; one scored item a line, and a table of means."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actune.agents.engines.engine import Engine
from actune.config.run_folder import read_run
from actune.core.errors import ConfigError
from actune.data.reading.hub import refuse_no_model
from actune.evals.evaluate import check_items
from actune.evals.evaluate import evaluate as evaluate_items
from actune.evals.items import PRIMARY, Axis, Score, write_scores
from actune.evals.metrics import ZERO_ONE
from actune.evals.task_files import load_tasks
from actune.evals.tasks import Item
from actune.recipes.agents import Dtype, find_base, find_weights
from actune.recipes.writing import HistoryReasoning, check_out, find_writing, stderr
from actune.render.encoder import DialectName, Encoder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Z95 = 1.959963984540054  # the normal quantile of 97.5 %


def evaluate(  # noqa: PLR0913 - one parameter a flag
    *,
    model: str,
    adapter: str | None = None,
    base: bool = False,
    dtype: Dtype = "AUTO",
    tasks: Sequence[str],
    out: Path,
    max_tokens: int = 512,
    batch_size: int = 8,
    limit: int | None = None,
    model_name: Sequence[str] = (),
    model_author: Sequence[str] = (),
    overwrite: bool = False,
    dialect: DialectName | None = None,
    chat_template: str | None = None,
    now: datetime.date | None = None,
    history_reasoning: HistoryReasoning | None = None,
    raw_control_tokens: bool = False,
    template_variables: Sequence[str] = (),
) -> int:
    """Measure a model and write OUT; returns the exit code.

    With `base` it is the model without the adapter, of a run the one before training; text is written as with it.

    Raises:
        ActuneError: what, where, why, and what to do; what can be wrong without the weights is found before them.
    """
    _check_request(tasks, out, max_tokens=max_tokens, limit=limit, batch_size=batch_size, overwrite=overwrite)
    folder, trained = find_weights(model, adapter)
    writing = find_writing(
        model,
        dialect,
        chat_template,
        now,
        history_reasoning,
        raw_control_tokens,
        template_variables=template_variables,
        adapter=trained,
    )
    if writing.dialect == "auto" and writing.trained_style is not None:
        # The agent is used in the dialect it was trained in, whatever the rows of a task are written in.
        writing = replace(writing, dialect=writing.trained_style)
    encoder = writing.encoder()
    names, authors = _taught(model, model_name, model_author)
    items = load_tasks(tasks, names=names, authors=authors, limit=limit)
    check_items(items, encoder=encoder, max_tokens=max_tokens)
    base_of = trained if base else None
    if base:
        folder, trained = find_base(model, folder), None
    refuse_no_model(folder, weights=True)
    console = stderr()
    for notice in encoder.renderer.notices():
        console.print(f"note: {notice}", markup=False)
    from actune.agents.engines.loading import load_engine

    engine = load_engine(folder, trained, dtype=dtype, batch_size=batch_size, base_of=base_of)
    scores = _measure(items, engine, encoder, max_tokens, console)
    write_scores(out, scores)
    from rich.console import Console

    Console().print(score_table(scores))
    console.print(f"{len(items):,} items, {len(scores):,} scores in {out}", markup=False)
    return 0


def score_table(scores: Sequence[Score]) -> Table:
    """Return means by axis, task, split and metric; a 95 % Wilson interval where scores are 0 or 1."""
    from rich.table import Table

    groups: dict[tuple[Axis, str, str, str], list[float]] = {}
    for score in scores:
        groups.setdefault((score.axis, score.task, score.split, score.metric), []).append(score.score)
    order = {axis: number for number, axis in enumerate(PRIMARY)}
    table = Table(box=None, pad_edge=False)
    for name in ("axis", "task", "split", "metric"):
        table.add_column(name, no_wrap=name != "task", overflow="fold")
    for name in ("n", "mean", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for key in sorted(groups, key=lambda key: order[key[0]]):  # stable: tasks and metrics as they came
        values = groups[key]
        interval = ""
        if key[3] in ZERO_ONE:
            low, high = wilson(sum(values), len(values))
            interval = f"{low:.3f} - {high:.3f}"
        style = "bold" if key[3] in PRIMARY[key[0]] else None
        mean = math.fsum(values) / len(values)
        table.add_row(*map(_escape, key), f"{len(values):,}", f"{mean:.3f}", interval, style=style)
    return table


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    share, square = hits / n, Z95**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _measure(items: Sequence[Item], engine: Engine, encoder: Encoder, max_tokens: int, console: Console) -> list[Score]:
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("measuring", total=len(items))
        advance: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
        return evaluate_items(items, engine=engine, encoder=encoder, max_tokens=max_tokens, advance=advance)


def _taught(model: str, names: Sequence[str], authors: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return names and authors from flags, else from the settings of the run that the model comes from."""
    run = read_run(Path(model))
    known = run.settings["data"] if run is not None else {}
    return names or known.get("model_name") or (), authors or known.get("model_author") or ()


def _check_request(
    tasks: Sequence[str], out: Path, *, max_tokens: int, limit: int | None, batch_size: int, overwrite: bool
) -> None:
    if not tasks:
        raise ConfigError("no task is named", fix="give --tasks TASKS.yaml, or the name of a built-in task")
    for name, value in (("max_tokens", max_tokens), ("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}", fix="give a number above 0")
    check_out(out, [word for word in tasks if Path(word).exists()])
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists", fix="give another --out, or replace it with --overwrite")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
