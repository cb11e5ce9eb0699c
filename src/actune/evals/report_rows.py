"""The comparison as the report shows it: rows, verdicts in plain words, and flags, all in both languages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from actune.evals.charts import Interval, interval_bar
from actune.evals.report_numbers import count, digits_for, fixed, p_value, read_number, signed
from actune.evals.report_texts import LANGUAGES, Words, joined, named, same, words

SYMBOLS = {"gained": "▲", "lost": "▼", "kept": "＝", "undecided": "?"}
_AXES = ("agent", "general", "identity")
_SPLITS = ("all", "held-in", "held-out", "no-tool")
_FLAGS = ("lost-split", "lost-metric", "small-loss", "axis-missing", "gold-differs", "few-items", "few-clusters")
"""The order of flags; others follow."""
_WITH_ROW = ("lost-split", "lost-metric", "small-loss", "few-items", "few-clusters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison, read leniently: what is missing or no number is None."""

    level: str
    axis: str
    task: str
    metric: str
    split: str
    primary: bool
    n: float | None
    base: float | None
    tuned: float | None
    difference: float | None
    ci95: tuple[float | None, float | None]
    ci90: tuple[float | None, float | None]
    fixed: float | None
    broken: float | None
    p: float | None
    verdict: str
    needed: float | None
    margin: float | None

    @property
    def is_likelihood(self) -> bool:
        """Whether its scores are log-likelihoods, so below zero."""
        return self.metric.endswith("_nll")

    def interval(self) -> Interval | None:
        """Return what a bar shows, None where a number is missing."""
        numbers = (self.difference, *self.ci95, *self.ci90)
        if any(number is None for number in numbers):
            return None
        value, low95, high95, low90, high90 = (number for number in numbers if number is not None)
        return Interval(value=value, low95=low95, high95=high95, low90=low90, high90=high90, margin=self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A verdict as a word, a sign and the name of its colour."""

    name: str
    sign: str
    word: Words

    @property
    def shown(self) -> Words:
        """The sign and the word, coloured; the sign is not read out."""
        frame = Markup('<span class="verdict v-{}"><span aria-hidden="true">{}</span> {}</span>')
        return Words(*(frame.format(self.name, self.sign, self.word.of(language)) for language in LANGUAGES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The line of an axis, and what explains it."""

    line: Words
    notes: Words
    bar: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A warning; `grave` ones stand out."""

    grave: bool
    title: Words
    text: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a table, every cell written."""

    head: bool
    axis: Words
    split: Words
    task: Words
    metric: Words
    metric_words: Words | None
    n: str
    base: str
    tuned: str
    difference: str
    interval: Words
    bar: Markup
    flips: str
    p: str
    mark: Mark
    needed: Words | None


def read_rows(comparison: Mapping[str, Any], margin: float | None) -> list[Row]:
    """Return the rows of a comparison, agent first, whole axes before their splits."""
    rows = [_read(row, margin) for row in comparison.get("rows") or () if isinstance(row, Mapping)]
    return sorted(rows, key=lambda row: (_place(row.axis, _AXES), row.level != "axis", _place(row.split, _SPLITS)))


def write_verdicts(rows: Iterable[Row]) -> tuple[Verdict, ...]:
    """Return the line of every whole axis."""
    axes = [row for row in rows if row.level == "axis"]
    reach = reaches(axes)
    return tuple(
        Verdict(
            line=words("line", axis=named("axis", row.axis), verdict=mark(row.verdict).shown, sentence=sentence(row)),
            notes=_notes(row),
            bar=_bar(row, reach),
        )
        for row in axes
    )


def write_flags(comparison: Mapping[str, Any], rows: Sequence[Row]) -> tuple[Flag, ...]:
    """Return the flags of a comparison, lost splits first."""
    flags = [flag for flag in comparison.get("flags") or () if isinstance(flag, Mapping)]
    return tuple(_flag(flag, rows) for flag in sorted(flags, key=lambda flag: _place(str(flag.get("code")), _FLAGS)))


def split_rows(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of the main table (primary metrics by axis and split) and all others.

    What is measured once stands there once: an axis that is not split has no row of its split, and a primary metric
    of the only task of its axis has no row of the task.
    """
    main: list[Row] = []
    others: list[Row] = []
    for row in rows:
        if row.level == "axis" or (row.level == "split" and row.primary):
            if row.level == "axis" or row.split != "all":
                main.append(row)
        else:
            others.append(row)
    shown = {_measured(row) for row in main}
    return main, [row for row in others if _measured(row) not in shown]


def _measured(row: Row) -> tuple[object, ...]:
    return (row.axis, row.metric, row.split, row.n, row.base, row.tuned, row.ci95)


def write_lines(rows: Sequence[Row]) -> tuple[Line, ...]:
    """Return rows with every cell written; bars of one metric share a scale."""
    reach = reaches(rows)
    return tuple(_line(row, reach) for row in rows)


def reaches(rows: Iterable[Row]) -> dict[str, float]:
    """Return for each metric how far its scale goes to both sides of zero."""
    result: dict[str, float] = {}
    for row in rows:
        shown = [abs(end) for end in row.ci95 if end is not None] + [1.5 * (row.margin or 0.0)]
        result[row.metric] = max(result.get(row.metric, 0.0), 1.06 * max(shown))
    return {metric: reach or 1.0 for metric, reach in result.items()}


def mark(verdict: str) -> Mark:
    """Return how a verdict is shown."""
    known = verdict in SYMBOLS
    return Mark(name=verdict if known else "other", sign=SYMBOLS.get(verdict, ""), word=named("verdict", verdict))


def sentence(row: Row) -> Words:
    """Return `0.42 -> 0.81 (+0.39, 95 % interval +0.30 to +0.47), n = 120`."""
    digits = digits_for(*row.ci95)
    return words(
        "sentence",
        base=fixed(row.base, digits),
        tuned=fixed(row.tuned, digits),
        difference=signed(row.difference, digits),
        low=signed(row.ci95[0], digits),
        high=signed(row.ci95[1], digits),
        n=count(row.n),
    )


def _notes(row: Row) -> Words:
    notes = [words("measured_by", metric=_metric_words(row) or _code(row.metric))]
    if row.is_likelihood and row.base is not None and row.tuned is not None and row.difference is not None:
        change = math.expm1(max(-50.0, min(50.0, -row.difference)))
        factor = words("nll_higher" if change >= 0 else "nll_lower", share=f"{fixed(abs(change) * 100, 1)}\u202f%")
        notes.append(words("nll_words", base=fixed(-row.base, 3), tuned=fixed(-row.tuned, 3), factor=factor))
    if row.p is not None and row.fixed is not None and row.broken is not None:
        notes.append(words("flipped", n=count(row.n), fixed=count(row.fixed), broken=count(row.broken)))
    if row.verdict == "undecided":
        notes.append(words("needs", n=count(row.needed)) if row.needed is not None else words("needs_none"))
    return joined(notes)


def _flag(flag: Mapping[str, Any], rows: Sequence[Row]) -> Flag:
    code, axis, split, message = (str(flag.get(key, "")) for key in ("code", "axis", "split", "message"))
    names = {"axis": named("axis", axis), "split": named("split", split)}
    part = names["axis"] if split == "all" else words("axis_split", **names)
    row = _find_row(code, axis, split, message, rows)
    whole = next((row for row in rows if (row.level, row.axis) == ("axis", axis)), None)
    known = code in _FLAGS
    if not known or (code in _WITH_ROW and (row is None or whole is None)):
        text = same(message)
    else:
        values: dict[str, object] = {**names, "message": message}
        if row is not None and whole is not None:
            values |= {"whole": mark(whole.verdict).word, "sentence": sentence(row), "metric": _code(row.metric)}
        text = words(f"flag_{code}_text", **values)
    title = words(f"flag_{code}", part=part) if known else words("flag_other", code=code, part=part)
    return Flag(grave=code in ("lost-split", "lost-metric"), title=title, text=text)


def _find_row(code: str, axis: str, split: str, message: str, rows: Sequence[Row]) -> Row | None:
    """Return the row that a flag is about.

    Flags name no metric; those of any metric need a message that names the row's metric and means.
    """
    of_any = code in ("small-loss", "lost-metric")
    for row in rows:
        if row.axis != axis or row.split != split or (row.level == "metric" and not of_any):
            continue
        if not of_any or all(
            part in message for part in (row.metric, f"{row.base or 0.0:.3f}", f"{row.tuned or 0.0:.3f}")
        ):
            return row
    return None


def _line(row: Row, reach: Mapping[str, float]) -> Line:
    digits = max(3, digits_for(*row.ci95))
    low, high = (signed(end, digits) for end in row.ci95)
    flips = "" if row.fixed is None and row.broken is None else f"{count(row.fixed)} / {count(row.broken)}"
    needed = words("n_needed", n=count(row.needed)) if row.needed is not None else None
    return Line(
        head=row.level == "axis",
        axis=named("axis", row.axis),
        split=named("split", row.split),
        task=same(row.task),
        metric=_code(row.metric),
        metric_words=_metric_words(row),
        n=count(row.n),
        base=fixed(row.base, digits),
        tuned=fixed(row.tuned, digits),
        difference=signed(row.difference, digits),
        interval=words("to", low=low, high=high),
        bar=_bar(row, reach),
        flips=flips,
        p=p_value(row.p),
        mark=mark(row.verdict),
        needed=needed if row.verdict == "undecided" else None,
    )


def _bar(row: Row, reach: Mapping[str, float]) -> Markup:
    interval = row.interval()
    return Markup() if interval is None else interval_bar(interval, reach[row.metric])


def _metric_words(row: Row) -> Words | None:
    found = named("metric", row.metric)
    return None if found == same(row.metric) else found


def _code(name: str) -> Words:
    text = Markup("<code>{}</code>").format(same(name).en)
    return Words(text, text)


def _read(row: Mapping[str, Any], margin: float | None) -> Row:
    own = read_number(row.get("margin"))
    return Row(
        level=str(row.get("level", "")),
        axis=str(row.get("axis", "")),
        task=str(row.get("task", "")),
        metric=str(row.get("metric", "")),
        split=str(row.get("split", "")),
        verdict=str(row.get("verdict", "")),
        n=read_number(row.get("n")),
        base=read_number(row.get("base")),
        tuned=read_number(row.get("tuned")),
        difference=read_number(row.get("difference")),
        fixed=read_number(row.get("fixed")),
        broken=read_number(row.get("broken")),
        primary=row.get("primary") is True,
        ci95=_pair(row.get("ci95")),
        ci90=_pair(row.get("ci90")),
        p=read_number(row.get("mcnemar_p")),
        needed=read_number(row.get("n_needed")),
        margin=own if own is not None else margin,
    )


def _pair(value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return (None, None)
    return (read_number(value[0]), read_number(value[1]))


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
