"""Everything the page shows, worked out: the template only lays it out."""

from __future__ import annotations

import datetime
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from actune.evals.charts import MOST_POINTS, LossLabels, Point, loss_chart
from actune.evals.report import ReportData
from actune.evals.report_examples import (
    Card,
    Group,
    Trained,
    primary_metrics,
    show_items,
    show_trained,
    show_transcripts,
)
from actune.evals.report_numbers import count, fixed, plain, read_number, seconds, share, size
from actune.evals.report_rows import (
    SYMBOLS,
    Flag,
    Line,
    Mark,
    Verdict,
    mark,
    read_rows,
    split_rows,
    write_flags,
    write_lines,
    write_verdicts,
)
from actune.evals.report_texts import (
    LANGUAGES,
    LONGEST_LABEL,
    Language,
    Words,
    joined,
    label,
    named,
    reveal,
    same,
    words,
)

_WIDTHS = {"wide": 860, "narrow": 360}
"""The loss curve is drawn for both, so that its letters keep their size on a phone."""
_MOST_EVALUATIONS = 50
_RATES = ("over_trigger", "invented_observations")
_LEFT_OUT_OF_NUMBERS = ("margin",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A chart in one language and width."""

    language: Language
    width: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The loss curve: drawings, what they say in words, and evaluation losses as a table."""

    drawings: tuple[Drawing, ...]
    words: Words
    evaluations: tuple[tuple[str, str], ...]
    title: Words
    more: Words | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A plain table; the first cells of a row are names, the others numbers."""

    heads: tuple[Words, ...]
    names: int
    rows: tuple[tuple[Words, ...], ...]
    total: tuple[Words, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What run.json says."""

    sources: Table | None
    left_out: Words | None
    notices: tuple[Words, ...]
    settings: Table
    versions: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The whole page; what is None or empty has no part in it, and `missing` says why."""

    name: Words | None
    plain_title: Mapping[Language, str]
    compared: Words
    about: tuple[Words, ...]
    flags: tuple[Flag, ...]
    verdicts: tuple[Verdict, ...]
    main: tuple[Line, ...]
    others: tuple[Line, ...]
    legend: Words
    numbers: tuple[tuple[Words, Words], ...]
    curve: Curve | None
    facts: Facts | None
    trained: Trained | None
    transcripts: tuple[Card, ...]
    more_transcripts: tuple[Card, ...]
    has_scores: bool
    items: tuple[Group, ...]
    reading: tuple[tuple[Mark, Words], ...]
    command: Markup
    missing: tuple[Words, ...]


def build_view(data: ReportData, *, made: datetime.date) -> View:
    """Return what the page of `data` shows."""
    margin = read_number(data.comparison.get("margin"))
    margin = read_number(data.extra.get("margin")) if margin is None else margin
    rows = read_rows(data.comparison, margin)
    main, others = split_rows(rows)
    files = _files(data.comparison)
    open_cards, folded_cards = show_transcripts(data.transcripts)
    raw_rows = data.comparison.get("rows") or ()
    primary = primary_metrics(raw_rows, data.tuned_scores)
    return View(
        name=same(data.title) if data.title else None,
        plain_title={language: _plain_title(data.title, language) for language in LANGUAGES},
        compared=words("compared", base=_file(files[0]), tuned=_file(files[1])),
        about=_about(data.run, made),
        flags=write_flags(data.comparison, rows),
        verdicts=write_verdicts(rows),
        main=write_lines(main),
        others=write_lines(others),
        legend=words("bar_legend", margin="" if margin is None else words("bar_margin", margin=plain(margin))),
        numbers=_numbers(data.extra),
        curve=_curve(data.metrics),
        facts=_facts(data.run) if data.run is not None else None,
        trained=show_trained(data.trained) if data.trained is not None else None,
        transcripts=open_cards,
        more_transcripts=folded_cards,
        has_scores=bool(data.base_scores and data.tuned_scores),
        items=show_items(data.base_scores, data.tuned_scores, primary, files),
        reading=_reading(margin),
        command=label(_command(files, margin)),
        missing=_missing(data),
    )


def _plain_title(name: str, language: Language) -> str:
    title = str(words("title").of(language))
    # The title of a window holds no elements, so what is unseen is named without its frame.
    return f"{reveal(name[:LONGEST_LABEL]).striptags()} – {title}" if name else title


def _files(comparison: Mapping[str, Any]) -> tuple[str, str]:
    files = comparison.get("files")
    files = files if isinstance(files, Mapping) else {}
    return (str(files.get("base_file", "BASE.jsonl")), str(files.get("tuned_file", "TUNED.jsonl")))


def _file(name: str) -> Markup:
    return Markup("<code>{}</code>").format(label(PurePath(name).name or name))


def _about(run: Mapping[str, Any] | None, made: datetime.date) -> tuple[Words, ...]:
    parts = []
    if run is not None:
        model = _at(run, "settings", "model", "model_id_or_path") or run.get("model_dir")
        if model:
            parts.append(words("model", name=str(model)))
        if run.get("date"):
            parts.append(words("trained_on", date=str(run["date"])))
        if run.get("seed") is not None:
            parts.append(words("seed", seed=str(run["seed"])))
    parts.append(words("made", date=made.isoformat()))
    return tuple(parts)


def _command(files: tuple[str, str], margin: float | None) -> str:
    command = f"actune compare {shlex.quote(files[0])} {shlex.quote(files[1])}"
    return command if margin is None else f"{command} --margin {margin:g}"


def _numbers(extra: Mapping[str, Any]) -> tuple[tuple[Words, Words], ...]:
    return tuple(
        (named("extra", name), _whose(name, value, _measurement(str(name), value)))
        for name, value in extra.items()
        if name not in _LEFT_OUT_OF_NUMBERS
    )


def _whose(name: str, value: object, shown: Words) -> Words:
    """Say of a rate without a side that it is the tuned model's."""
    return words("of_tuned", value=shown) if name in _RATES and read_number(value) is not None else shown


def _measurement(name: str, value: object) -> Words:
    number = read_number(value)
    if number is not None:
        writers = {"seconds": seconds, "peak_memory_bytes": size}
        if name in _RATES and isinstance(value, float) and 0 <= number <= 1:
            return same(f"{fixed(100 * number, 1)}\u202f%")
        return same(writers.get(name, plain)(number))
    if isinstance(value, Mapping) and value:
        parts = [(named("extra", key), _measurement(name, part)) for key, part in value.items()]
        return Words(
            *(
                Markup(" · ").join(Markup("{} {}").format(key.of(language), part.of(language)) for key, part in parts)
                for language in LANGUAGES
            )
        )
    return same(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _curve(metrics: Sequence[Mapping[str, Any]]) -> Curve | None:
    train, evaluations, rates, gaps = _read_curve(metrics)
    if not train and not evaluations:
        return None
    lines = []
    if train:
        first, last = train[0], train[-1]
        lines.append(
            words(
                "loss_train",
                first=fixed(first.value, 3), first_step=count(first.step),
                last=fixed(last.value, 3), last_step=count(last.step),
            )
        )  # fmt: skip
    if evaluations:
        last, best = evaluations[-1], min(evaluations, key=lambda point: point.value)
        lines.append(
            words(
                "loss_eval",
                last=fixed(last.value, 3), last_step=count(last.step),
                best=fixed(best.value, 3), best_step=count(best.step),
            )
        )  # fmt: skip
    if len(train) > MOST_POINTS:
        lines.append(words("loss_ranges", n=count(len(train))))
    if gaps:
        lines.append(words("loss_gaps", n=count(gaps)))
    drawings = tuple(
        Drawing(
            language=language,
            width=kind,
            svg=loss_chart(
                train, evaluations, rates, _labels(language, lines), width=width, name=f"loss-{language}-{kind}"
            ),
        )
        for language in LANGUAGES
        for kind, width in _WIDTHS.items()
    )
    hidden = len(evaluations) - _MOST_EVALUATIONS
    return Curve(
        drawings=drawings,
        words=joined(lines),
        evaluations=tuple((count(point.step), fixed(point.value, 4)) for point in evaluations[:_MOST_EVALUATIONS]),
        title=words("eval_table", n=count(len(evaluations))),
        more=words("eval_more", n=count(hidden)) if hidden > 0 else None,
    )


def _read_curve(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[Point], list[Point], list[Point], int]:
    """Return training losses, evaluation losses, learning rates, and how many logged steps have no loss."""
    train, evaluations, rates = [], [], []
    gaps = 0
    for line in metrics:
        step = read_number(line.get("step"))
        if step is None:
            continue
        evaluation = line.get("eval")
        if isinstance(evaluation, Mapping):
            _add(evaluations, step, evaluation.get("loss"))
            continue
        gaps += not _add(train, step, line.get("loss"))
        _add(rates, step, line.get("learning_rate"))
    for points in (train, evaluations, rates):
        points.sort(key=lambda point: point.step)
    return train, evaluations, rates, gaps


def _add(points: list[Point], step: float, value: object) -> bool:
    number = read_number(value)
    if number is not None:
        points.append(Point(step=int(step), value=number))
    return number is not None


def _labels(language: Language, lines: Sequence[Words]) -> LossLabels:
    def text(key: str) -> str:
        return str(words(key).of(language))

    return LossLabels(
        title=text("loss_title"),
        description=Markup(joined(lines).of(language)).striptags(),
        steps=text("steps_axis"),
        loss=text("loss_axis"),
        rate=text("rate_axis"),
    )


def _facts(run: Mapping[str, Any]) -> Facts:
    sources = _at(run, "data", "sources")
    sources = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, list) else []
    notices = run.get("notices")
    versions = run.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    told = [(same(name), _value(value)) for name, value in versions.items()]
    if run.get("platform"):
        told.append((words("platform"), _value(run["platform"])))
    if _at(run, "data", "fingerprint"):
        told.append((words("fingerprint"), _value(_at(run, "data", "fingerprint"))))
    settings = run.get("settings")
    flat = [(_code(name), _value(value)) for name, value in _flatten(settings)] if isinstance(settings, Mapping) else []
    return Facts(
        sources=_sources(sources) if sources else None,
        left_out=_left_out(sources) if sources else None,
        notices=tuple(same(notice) for notice in notices) if isinstance(notices, list) else (),
        settings=Table(heads=(words("col_setting"), words("col_value")), names=2, rows=tuple(flat)),
        versions=Table(heads=(words("col_package"), words("col_value")), names=2, rows=tuple(told)),
    )


def _sources(sources: Sequence[Mapping[str, Any]]) -> Table:
    counted = [_counts(source) for source in sources]
    names = ["read", "rows", "tokens", "supervised", "long", "bad"]
    names += [name for name in ("shortened", "warnings") if any(counts[name] for counts in counted)]
    training = [counts for source, counts in zip(sources, counted, strict=True) if source.get("role") != "validation"]
    total = {name: sum(counts[name] for counts in training) for name in ("rows", "tokens", "supervised")}
    return Table(
        heads=(words("col_source"), words("col_role"), *(words(f"col_{name}") for name in names)),
        names=2,
        rows=tuple(
            (same(_short(str(source.get("name", "")))), _role(str(source.get("role", ""))), *_cells(names, counts))
            for source, counts in zip(sources, counted, strict=True)
        ),
        total=(words("data_total"), same(""), *_cells(names, total)),
    )


def _cells(names: Sequence[str], counts: Mapping[str, int]) -> Iterator[Words]:
    for name in names:
        text = count(counts[name]) if name in counts else ""
        if name == "supervised" and counts["tokens"]:
            text += f" ({share(counts[name], counts['tokens'])})"
        yield same(text)


def _counts(source: Mapping[str, Any]) -> dict[str, int]:
    tally = source.get("tally")
    tally = tally if isinstance(tally, Mapping) else {}

    def read(values: Mapping[str, Any], name: str) -> int:
        return int(read_number(values.get(name)) or 0)

    counts = {name: read(tally, name) for name in ("rows", "tokens", "supervised", "shortened", "warnings")}
    bad = read(source, "unreadable") + read(tally, "quarantined")
    return {**counts, "read": read(source, "read"), "long": read(tally, "over_long"), "bad": bad}


def _left_out(sources: Sequence[Mapping[str, Any]]) -> Words:
    counted = [_counts(source) for source in sources]
    long, bad = (sum(counts[name] for counts in counted) for name in ("long", "bad"))
    if long + bad == 0:
        return words("left_out_none")
    return words("left_out", n=count(long + bad), long=count(long), bad=count(bad))


def _short(source: str) -> str:
    """Return a source as its table shows it: of a path only the file; the rest stands among the settings."""
    return source if source.startswith(("hf:", "ms:")) else PurePath(source).name or source


def _role(role: str) -> Words:
    parts = [named("role", part) for part in role.split(" + ")]
    return Words(*(Markup(" + ").join(part.of(language) for part in parts) for language in LANGUAGES))


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _code(text: object) -> Words:
    code = Markup("<code>{}</code>").format(label(text))
    return Words(code, code)


def _value(value: object) -> Words:
    if isinstance(value, float) and not math.isfinite(value):
        return same(value)
    return _code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _at(content: Mapping[str, Any], *keys: str) -> object:
    value: object = content
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _reading(margin: float | None) -> tuple[tuple[Mark, Words], ...]:
    shown = words("margin_unknown") if margin is None else same(fixed(-margin, 3).rstrip("0").rstrip("."))
    return tuple((mark(name), words(f"read_{name}", margin=shown)) for name in SYMBOLS)


def _missing(data: ReportData) -> tuple[Words, ...]:
    absent = {
        "metrics": not data.metrics,
        "run": data.run is None,
        "trained": data.trained is None,
        "transcripts": not data.transcripts,
        "scores": not (data.base_scores and data.tuned_scores),
    }
    return tuple(words(f"missing_{name}") for name, is_absent in absent.items() if is_absent)
