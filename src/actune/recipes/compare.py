"""`actune compare`: two measurements of the same items, before and after."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from actune.core.errors import ConfigError
from actune.evals.compare import FLAG_CODES, Comparison, Row, Verdict, compare_scores
from actune.evals.items import Score, read_scores
from actune.recipes.writing import check_out

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"gained": "green", "lost": "bold red", "kept": "", "undecided": "yellow"}
_WIDTH = 160  # of a table that goes into a file


def compare(
    *,
    base: Path,
    tuned: Path,
    margin: float,
    json_output: bool,
    html: Path | None,
    fail_on: list[str],
    overwrite: bool,
) -> int:
    """Compare two files of scored items; return 1 if a verdict or flag named by `fail_on` is there, else 0."""
    failing = _read_fail_on(fail_on)
    if html is not None:
        check_out(html, [str(base), str(tuned)])
        if html.exists() and not overwrite:
            raise ConfigError(f"{html} is there already", fix="give another file or --overwrite")
    before, after = read_scores(base), read_scores(tuned)
    comparison = compare_scores(before, after, margin=margin, files=(str(base), str(tuned)))
    if html is not None:
        _write_html(html, comparison, before, after, margin)
    if json_output:
        sys.stdout.write(json.dumps(comparison.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    else:
        _print_tables(comparison, margin)
    found = {flag.code for flag in comparison.flags} | {row.verdict for row in comparison.rows if row.level != "metric"}
    return 1 if failing & found else 0


def _read_fail_on(words: Iterable[str]) -> set[str]:
    allowed = (*get_args(Verdict), *FLAG_CODES)
    named = [part.strip() for word in words for part in word.split(",")]
    for name in named:
        if name not in allowed:
            raise ConfigError(f"--fail-on {name!r} is no verdict and no flag", fix=f"give one of {', '.join(allowed)}")
    return set(named)


def _write_html(
    html: Path, comparison: Comparison, base: Sequence[Score], tuned: Sequence[Score], margin: float
) -> None:
    from actune.evals.report import ReportData, write_page

    data = ReportData(comparison=comparison.to_json(), base_scores=base, tuned_scores=tuned, extra={"margin": margin})
    write_page(html, data)


def _print_tables(comparison: Comparison, margin: float) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    show_comparison(comparison, margin, console)


def show_comparison(comparison: Comparison, margin: float, console: Console, *, metrics: bool = True) -> None:
    """Write flags, axes, splits and, with `metrics`, all other metrics to a console."""
    for flag in comparison.flags:
        style = "bold red" if flag.code.startswith("lost-") else "yellow"
        console.print(f"{flag.code}: {flag.message}", style=style, markup=False)
    axes = [row for row in comparison.rows if row.level == "axis"]
    # an axis that is not split has one row, not a second one that says the same
    splits = [row for row in comparison.rows if row.level == "split" and row.split != "all"]
    others = [row for row in comparison.rows if row.level == "metric" and not _is_shown(row, [*axes, *splits])]
    for title, rows in (("axes", axes), ("splits", splits), ("metrics", others if metrics else [])):
        if rows:
            console.print(_build_table(title, rows))
    _print_legend(console, margin)


def _is_shown(row: Row, shown: Iterable[Row]) -> bool:
    """Return whether a row above speaks of the same items and metric."""
    key = (row.axis, row.task, row.metric, row.split, row.n)
    return any(key == (other.axis, other.task, other.metric, other.split, other.n) for other in shown)


def _build_table(title: str, rows: Sequence[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("axis", "task", "split", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("n", "base", "tuned", "difference [95 %]", "fixed/broken"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("n needed", justify="right", no_wrap=True)
    for row in rows:
        names = (Text(text) for text in (row.axis, row.task, row.split, row.metric))
        table.add_row(
            *names,
            f"{row.n:,}",
            f"{row.base:.3f}",
            f"{row.tuned:.3f}",
            Text(f"{row.difference:+.3f} [{row.ci95[0]:+.3f}, {row.ci95[1]:+.3f}]"),
            f"{row.fixed:,}/{row.broken:,}",
            Text(row.verdict, style=_STYLES[row.verdict]),
            "" if row.n_needed is None else f"{row.n_needed:,}",
        )
    return table


def _print_legend(console: Console, margin: float) -> None:
    console.print(
        f"gained: the 95 % interval is above 0. lost: it is below 0, and a loss of {margin:g} is not excluded. "
        f"kept: a loss of {margin:g} is excluded. undecided: none of these; `n needed` items would show that an "
        "unchanged model is kept, four times in five.",
        style="dim",
    )
