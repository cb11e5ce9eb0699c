"""Statistics over rows, in one pass and in numbers only: whatever their count, no row is kept.

`RowFacts` is what is counted of a row, `Statistics` adds rows up, `summarise` and `make_histogram` are pure functions
of numbers.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from actune.core.types import Conversation
from actune.data.checks.rules import Finding, Level
from actune.render.tree import TokenTree

Measure = Literal["longest", "tokens", "supervised", "share", "turns", "calls"]

_OUTLIER = 4
"""The last bin of a histogram is open where the largest value is more than so many times the 95 % value ..."""
_USUAL = 2
"""... and then holds what is above so many times that value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What is counted of one row.

    `file` and `dataset` say where it comes from. `tokens` are those laid out, `longest` those of the longest prompt + completion
    (what `max_length` bounds), `supervised` the targets; all three are 0 in a row that is not trained on. `turns` are
    assistant messages, `calls` the names of the tools called, one a call, `codes` the findings by (level, code),
    `weights` the targets by their weight.
    """

    file: str
    dataset: str = ""
    style: str = ""
    dialect: str = ""
    refused: bool = False
    branches: bool = False
    tokens: int = 0
    longest: int = 0
    supervised: int = 0
    messages: int = 0
    turns: int = 0
    calls: tuple[str, ...] = ()
    codes: tuple[tuple[Level, str], ...] = ()
    weights: tuple[tuple[float, int], ...] = ()

    @property
    def share(self) -> float:
        """Supervised tokens by tokens laid out."""
        return self.supervised / self.tokens if self.tokens else 0.0


def count_row(
    file: str,
    conversation: Conversation | None,
    tree: TokenTree | None,
    *,
    dialect: str = "",
    problems: Sequence[Finding] = (),
) -> RowFacts:
    """Return what is counted of a row; without a tree it is not trained on, without a conversation unreadable."""
    codes = tuple((found.level, found.code) for found in problems)
    messages = conversation.messages if conversation is not None else ()
    weights: tuple[tuple[float, int], ...] = ()
    if tree is not None:
        values, counts = np.unique(tree.target_weights, return_counts=True)
        weights = tuple((float(value), int(count)) for value, count in zip(values, counts, strict=True))
    return RowFacts(
        file=file,
        dataset=conversation.source.dataset if conversation is not None else "",
        style=conversation.style if conversation is not None else "",
        dialect=dialect,
        refused=tree is None,
        branches=tree is not None and tree.has_branches,
        tokens=len(tree) if tree is not None else 0,
        longest=int(tree.positions.max()) + 1 if tree is not None and len(tree) else 0,
        supervised=len(tree.target_ids) if tree is not None else 0,
        messages=len(messages),
        turns=sum(message.role == "assistant" for message in messages),
        calls=tuple(call.name for message in messages for call in message.tool_calls),
        codes=codes,
        weights=weights,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Some numbers in short. `median` and `p95` are values that occur: the smallest with at least half, or 95 %, at or below it."""

    count: int
    total: float
    low: float
    median: float
    mean: float
    p95: float
    high: float


def summarise(values: Sequence[float] | array) -> Summary | None:
    """Return numbers in short, None where there are none."""
    if not len(values):
        return None
    ordered = np.sort(np.asarray(values))
    return Summary(
        count=len(ordered),
        total=float(ordered.sum()),
        low=float(ordered[0]),
        median=float(_rank(ordered, 0.5)),
        mean=float(ordered.mean()),
        p95=float(_rank(ordered, 0.95)),
        high=float(ordered[-1]),
    )


def _rank(ordered: np.ndarray, share: float) -> float:
    """Return the smallest value with at least this share of all at or below it (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Values from `low` up to but without `high`; an open bin holds all from `low` on."""

    low: float
    high: float
    count: int
    open: bool = False


def make_histogram(values: Sequence[float] | array, *, most: int = 24, width: float | None = None) -> list[Bin]:
    """Return values by bins of one round width, empty ones between included, at most `most` (one more if open).

    The width is the smallest of 1, 2, 5, 10, 20 ... that does, unless given. Bins start at 0 where that costs no more than a third
    of them. Where single values lie far above all others, one open bin at the end holds them.
    """
    if not len(values):
        return []
    data = np.asarray(values, dtype=np.float64)
    low, high = float(data.min()), float(data.max())
    usual = float(_rank(np.sort(data), 0.95))
    top = high
    if width is None and usual > 0 and high > _OUTLIER * usual:
        top = float(data[data <= _USUAL * usual].max())
    start = 0.0 if 0 <= low <= top / 3 or width is not None else low
    step = width if width is not None else _round_step((top - start + 1) / most)
    first, last = math.floor(start / step + 1e-9), math.floor(top / step + 1e-9)
    last = min(last, first + most - 1)
    places = np.clip(np.floor(data / step + 1e-9).astype(np.int64) - first, 0, last - first + 1)
    counts = np.bincount(places, minlength=last - first + 2)
    bins = [
        Bin(low=(first + index) * step, high=(first + index + 1) * step, count=int(counts[index]))
        for index in range(last - first + 1)
    ]
    above = int(counts[last - first + 1])
    return [*bins, Bin(low=bins[-1].high, high=math.inf, count=above, open=True)] if above else bins


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20 ... that is no smaller than `least`."""
    power = 10.0 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least - 1e-9)


@dataclass(slots=True, kw_only=True)
class Statistics:
    """Counts over rows, added one by one.

    Of token counts only rows that are trained on are taken, of turns and calls every row that can be read.
    `findings` counts findings, `codes` the rows that have one, by (level, code); `calls` counts calls by tool and
    `weights` targets by weight. `over_length` are rows whose longest sequence is above `max_length` (-1: no limit).
    """

    max_length: int = -1
    rows: int = 0
    refused: int = 0
    branching: int = 0
    over_length: int = 0
    with_problems: int = 0
    values: dict[Measure, array] = field(
        default_factory=lambda: {
            "longest": array("q"),
            "tokens": array("q"),
            "supervised": array("q"),
            "share": array("d"),
            "turns": array("q"),
            "calls": array("q"),
        }
    )
    files: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[Level, str]] = field(default_factory=Counter)
    findings: Counter[tuple[Level, str]] = field(default_factory=Counter)
    weights: Counter[float] = field(default_factory=Counter)

    def add(self, row: RowFacts) -> None:
        """Count one more row."""
        self.rows += 1
        self.files[row.file] += 1
        self.refused += row.refused
        self.branching += row.branches
        self.over_length += self.is_over(row)
        self.with_problems += bool(row.codes)
        self.findings.update(row.codes)
        self.codes.update(set(row.codes))
        if row.messages:
            self.styles[row.style] += 1
            self.dialects[row.dialect] += 1
            self.tools.update(row.calls)
            self.values["turns"].append(row.turns)
            self.values["calls"].append(len(row.calls))
        if not row.refused:
            self.values["longest"].append(row.longest)
            self.values["tokens"].append(row.tokens)
            self.values["supervised"].append(row.supervised)
            self.values["share"].append(row.share)
            for weight, count in row.weights:
                self.weights[weight] += count

    def is_over(self, row: RowFacts) -> bool:
        """Return whether a row is longer than `max_length`."""
        return 0 <= self.max_length < row.longest

    def summary(self, measure: Measure) -> Summary | None:
        """Return one measure in short, None where no row has it."""
        return summarise(self.values[measure])


def choose_rows(count: int, problems: Mapping[tuple[Level, str], Sequence[int]], limit: int) -> list[int]:
    """Return the indices of at most `limit` of `count` rows to show, in order.

    `problems` holds the rows of each finding, by (level, code). Up to half of the rows are chosen for them, some of every
    kind: errors first, then the rarer kind first, none with more than its share of what is left. The others are spread
    evenly over the data. So a page shows what is wrong and what is usual.
    """
    if count <= limit:
        return list(range(count))
    chosen: set[int] = set()
    left = limit // 2
    kinds = sorted(problems.items(), key=lambda kind: (kind[0][0] != "error", len(kind[1]), kind[0]))
    for number, (_, rows) in enumerate(kinds):
        new = [row for row in rows if row not in chosen]
        taken = _spread(new, math.ceil(left / (len(kinds) - number)))
        chosen.update(taken)
        left -= len(taken)
    others = [row for row in range(count) if row not in chosen]
    return sorted([*chosen, *_spread(others, limit - len(chosen))])


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """Return `count` of the rows at even distances, both ends included from two on."""
    if count >= len(rows) or count < 2:
        return list(rows[:count])
    last = len(rows) - 1
    return [rows[round(number * last / (count - 1))] for number in range(count)]
