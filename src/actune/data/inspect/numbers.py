"""The statistics of the page of `inspect`: a table of measures, histograms, and tables of names with their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from markupsafe import Markup

from actune.data.inspect.charts import draw_bar, draw_histogram
from actune.data.inspect.statistics import Measure, Statistics, Summary, make_histogram
from actune.data.inspect.visible import Visible
from actune.data.inspect.words import Words, words

MOST_NAMES = 20
"""A table of names has so many rows, and one for the rest."""

_MEASURES: tuple[Measure, ...] = ("longest", "tokens", "supervised", "share", "turns", "calls")
_CHARTS: tuple[Measure, ...] = ("longest", "share", "turns", "calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureView:
    """One measure in short: its name and seven numbers as text."""

    name: Words
    numbers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartView:
    """A histogram with its title and description; `name` begins the ids that describe it."""

    name: str
    title: Words
    description: Words
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRow:
    """A name with its bar, count and share; `filter` is the filter of the list that shows these rows, "" for none."""

    name: Markup | Words
    bar: Markup
    count: str
    share: str
    filter: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTable:
    """Names with their counts; `unit` is what is counted."""

    name: str
    title: Words
    unit: Words
    rows: tuple[NameRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersView:
    """All that a page says about all rows."""

    title: Words
    notes: tuple[Words, ...]
    measures: tuple[MeasureView, ...]
    charts: tuple[ChartView, ...]
    tables: tuple[NameTable, ...]


def show_numbers(statistics: Statistics, visible: Visible) -> NumbersView:
    """Return statistics for the template of the page."""
    trained = statistics.rows - statistics.refused
    notes = [words("statistics_note", n=f"{trained:,}")]
    if statistics.max_length >= 0:
        limit = f"{statistics.max_length:,}"
        share = f"{statistics.over_length / max(statistics.rows, 1):.1%}"
        over = words("over", n=f"{statistics.over_length:,}", share=share, limit=limit)
        notes.append(over if statistics.over_length else words("over_none", limit=limit))
    if statistics.branching:
        notes.append(words("branching", n=f"{statistics.branching:,}"))
    summaries = {measure: statistics.summary(measure) for measure in _MEASURES}
    return NumbersView(
        title=words("statistics", n=f"{statistics.rows:,}"),
        notes=tuple(notes),
        measures=tuple(
            MeasureView(name=words(f"m_{measure}"), numbers=_numbers(measure, summary))
            for measure, summary in summaries.items()
            if summary is not None
        ),
        charts=tuple(
            _chart(statistics, measure, summary) for measure in _CHARTS if (summary := summaries[measure]) is not None
        ),
        tables=tuple(_tables(statistics, visible)),
    )


def _numbers(measure: Measure, summary: Summary) -> tuple[str, ...]:
    total = "" if measure == "share" else f"{summary.total:,.0f}"
    mean = f"{summary.mean:.1%}" if measure == "share" else f"{summary.mean:,.1f}"
    others = (summary.low, summary.median, summary.p95, summary.high)
    low, median, p95, high = (_number(measure, value) for value in others)
    return low, median, mean, p95, high, total


def _number(measure: Measure, value: float) -> str:
    return f"{value:.1%}" if measure == "share" else f"{value:,.0f}"


def _chart(statistics: Statistics, measure: Measure, summary: Summary) -> ChartView:
    values = statistics.values[measure]
    if measure == "share":
        bins = make_histogram([min(value, 1 - 1e-9) for value in values], width=0.05)
    else:
        bins = make_histogram(values)
    limit = float(statistics.max_length) if measure == "longest" and statistics.max_length >= 0 else None
    name = f"chart-{measure}"
    low, median, mean, _, high, _ = _numbers(measure, summary)
    return ChartView(
        name=name,
        title=words(f"h_{measure}"),
        description=words("histogram_note", low=low, high=high, median=median, mean=mean),
        drawing=draw_histogram(bins, name, limit=limit, percent=measure == "share"),
    )


def _tables(statistics: Statistics, visible: Visible) -> list[NameTable]:
    codes = {f"{level}\0{code}": count for (level, code), count in statistics.codes.items()}
    weights = {f"{weight:g}": count for weight, count in sorted(statistics.weights.items())}
    return [
        _table("codes", "c_rows", codes, statistics.rows, visible, filter_name="code"),
        _table("tools", "c_calls", statistics.tools, None, visible, filter_name="tool"),
        _table("sources", "c_rows", statistics.files, statistics.rows, visible, filter_name="file", short=True),
        _table("styles", "c_rows", statistics.styles, statistics.rows, visible),
        _table("dialects", "c_rows", statistics.dialects, statistics.rows, visible, filter_name="dialect"),
        _table("weights", "c_tokens", weights, None, visible),
    ]


def _table(
    name: str,
    unit: str,
    counts: Mapping[str, int],
    whole: int | None,
    visible: Visible,
    *,
    filter_name: str = "",
    short: bool = False,
) -> NameTable:
    """Return names by count, the largest first; shares are of `whole`, or of all counts. Bars go by the largest."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    total = whole if whole is not None else sum(counts.values())
    highest = max(counts.values(), default=1)
    shown = ordered if len(ordered) <= MOST_NAMES + 1 else ordered[:MOST_NAMES]
    names = _short_names([key for key, _ in shown]) if short else {}
    rows = []
    for key, count in shown:
        level, code = key.split("\0") if name == "codes" else ("", key)
        kind = {"error": "c-error", "warning": "c-warning"}.get(level, "c-bin")
        label = (
            visible.show(names.get(code, code))
            if not level
            else Markup("{} {}").format(words(level), Markup("<code>{}</code>").format(code))
        )
        rows.append(
            NameRow(
                name=label,
                bar=draw_bar(count / highest, kind),
                count=f"{count:,}",
                share=f"{count / max(total, 1):.1%}",
                filter=filter_name,
                value=visible.label(code),
            )
        )
    rest = ordered[len(shown) :]
    if rest:
        count = sum(number for _, number in rest)
        rows.append(
            NameRow(
                name=words("more_names", n=f"{len(rest):,}"),
                bar=draw_bar(min(1.0, count / highest)),
                count=f"{count:,}",
                share=f"{count / max(total, 1):.1%}",
            )
        )
    return NameTable(name=name, title=words(f"t_{name}"), unit=words(unit), rows=tuple(rows))


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Return files without their folders where that leaves them apart."""
    short = {file: PurePath(file).name or file for file in files}
    return {file: name if list(short.values()).count(name) == 1 else file for file, name in short.items()}
