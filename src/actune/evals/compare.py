"""Before against after on the same items: rows with intervals and verdicts, and flags on what a headline would hide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from actune.core.errors import ConfigError
from actune.evals.items import PRIMARY, Axis, Score, Split
from actune.evals.statistics import Difference, guess_variance, items_needed, measure

Level = Literal["metric", "split", "axis"]
Verdict = Literal["gained", "lost", "kept", "undecided"]
Key = tuple[str, str, str]

FLAG_CODES = ("lost-split", "lost-metric", "small-loss", "few-items", "few-clusters", "axis-missing", "gold-differs")
_SHOWN = 5  # items listed in a message
_FEW_ITEMS = 30
_FEW_CLUSTERS = 10
_ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric over one set of items; `difference` is tuned - base, higher is better."""

    level: Level
    axis: Axis
    task: str
    metric: str
    split: Split
    primary: bool
    n: int
    base: float
    tuned: float
    difference: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    fixed: int
    broken: int
    mcnemar_p: float | None
    verdict: Verdict
    n_needed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Something that the rows alone would hide."""

    code: str
    axis: Axis
    split: Split
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `compare` reports: flags first, then rows by level."""

    files: tuple[str, str]
    flags: tuple[Flag, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        rows = [asdict(row) | {"ci95": list(row.ci95), "ci90": list(row.ci90)} for row in self.rows]
        base, tuned = self.files
        return {
            "version": 1,
            "files": {"base_file": base, "tuned_file": tuned},
            "flags": [asdict(flag) for flag in self.flags],
            "rows": rows,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """One metric of one item, before and after."""

    base: Score
    tuned: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A row and what flags need besides it; rows of equal `items` speak of one and the same set."""

    row: Row
    clusters: int
    items: int


def compare_scores(
    base: Sequence[Score],
    tuned: Sequence[Score],
    *,
    margin: float = 0.02,
    files: tuple[str, str] = ("base", "tuned"),
) -> Comparison:
    """Compare two measurements of the same items; the order of the scores does not matter.

    Args:
        base: scores before.
        tuned: scores after, of the same (task, metric, id).
        margin: the loss that still counts as kept, in units of the score.
        files: what the two are called in messages and in the report.

    Raises:
        ConfigError: the margin is no positive number, no scores, unpaired items, or items that differ between the two.
    """
    if not 0 < margin < float("inf"):
        raise ConfigError(f"margin {margin} is no positive number", fix="give the loss that still counts as kept: 0.02")
    pairs = _pair(base, tuned, files)
    measured = [*_axis_rows(pairs, margin), *_split_rows(pairs, margin), *_metric_rows(pairs, margin)]
    flags = [
        *_lost_splits(measured),
        *_lost_metrics(measured),
        *_small_losses(measured, margin),
        *_thin_evidence(measured),
        *_gaps(pairs),
    ]
    return Comparison(files=files, flags=tuple(flags), rows=tuple(one.row for one in measured))


def find_verdict(measured: Difference, margin: float) -> Verdict:
    """Return the verdict; the order of the questions is part of its meaning."""
    if measured.ci95[0] > 0:
        return "gained"
    if measured.ci95[1] < 0 and measured.ci90[0] <= -margin:
        return "lost"
    return "kept" if measured.ci90[0] > -margin else "undecided"


def _pair(base: Sequence[Score], tuned: Sequence[Score], files: tuple[str, str]) -> list[_Pair]:
    before, after = (_index(scores, file) for scores, file in zip((base, tuned), files, strict=True))
    if not before and not after:
        raise ConfigError("nothing to compare: no scores", fix="give two files written by `actune eval --out`")
    only = [sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())]
    if any(only):
        parts = [
            f"{len(keys):,} only in {file}: {_list(map(_write_key, keys))}"
            for keys, file in zip(only, files, strict=True)
            if keys
        ]
        raise ConfigError(
            f"unpaired items, by task, metric and id; {'; '.join(parts)} ({len(before):,} scores in {files[0]}, "
            f"{len(after):,} in {files[1]}, {len(before.keys() & after.keys()):,} in both)",
            fix="measure both models with `actune eval` on the same tasks, with the same options",
        )
    pairs = [_Pair(base=before[key], tuned=after[key]) for key in sorted(before)]
    for field in ("axis", "split", "cluster"):
        _check_same(pairs, field, files)
    return pairs


def _index(scores: Iterable[Score], file: str) -> dict[Key, Score]:
    found: dict[Key, Score] = {}
    for score in scores:
        key = (score.task, score.metric, score.id)
        if key in found:
            raise ConfigError(f"{file}: {_write_key(key)} is there twice", fix="give every item of a task its own id")
        found[key] = score
    return found


def _check_same(pairs: list[_Pair], field: str, files: tuple[str, str]) -> None:
    bad = [pair for pair in pairs if getattr(pair.base, field) != getattr(pair.tuned, field)]
    if bad:
        shown = (
            f"{_write_key((pair.base.task, pair.base.metric, pair.base.id))} is {getattr(pair.base, field)!r} "
            f"and {getattr(pair.tuned, field)!r}"
            for pair in bad
        )
        raise ConfigError(
            f"{len(bad):,} items have another {field} in {files[0]} than in {files[1]}: {_list(shown)}",
            fix="measure both models with `actune eval` on the same tasks, with the same options",
        )


def _write_key(key: Key) -> str:
    return f"{key[0]} {key[1]} {key[2]}"


def _list(items: Iterable[str]) -> str:
    everything = list(items)
    rest = f" and {len(everything) - _SHOWN:,} more" if len(everything) > _SHOWN else ""
    return ", ".join(everything[:_SHOWN]) + rest


def _primary_metric(pairs: Iterable[_Pair], axis: Axis) -> str | None:
    """Return the first primary metric of an axis that any item has."""
    there = {pair.base.metric for pair in pairs if pair.base.axis == axis}
    return next((metric for metric in PRIMARY[axis] if metric in there), None)


def _axis_rows(pairs: list[_Pair], margin: float) -> list[_Measured]:
    return [
        _measure(chosen, "axis", axis, _ALL, primary=True, margin=margin)
        for axis in get_args(Axis)
        if (chosen := _primary_pairs(pairs, axis))
    ]


def _split_rows(pairs: list[_Pair], margin: float) -> list[_Measured]:
    rows = []
    for axis in get_args(Axis):
        chosen = _primary_pairs(pairs, axis)
        for split in get_args(Split):
            members = [pair for pair in chosen if pair.base.split == split]
            if members:
                rows.append(_measure(members, "split", axis, split, primary=True, margin=margin))
    return rows


def _primary_pairs(pairs: list[_Pair], axis: Axis) -> list[_Pair]:
    metric = _primary_metric(pairs, axis)
    return [pair for pair in pairs if pair.base.axis == axis and pair.base.metric == metric]


def _metric_rows(pairs: list[_Pair], margin: float) -> list[_Measured]:
    groups: dict[tuple[Axis, str, str], list[_Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.base.axis, pair.base.task, pair.base.metric].append(pair)
    rows = []
    for (axis, _, metric), members in groups.items():
        primary = metric == _primary_metric(pairs, axis)
        there = {pair.base.split for pair in members}
        if len(there) > 1:
            rows.append(_measure(members, "metric", axis, _ALL, primary=primary, margin=margin))
        for split in get_args(Split):
            # beside other splits, `all` is the row over all of them
            if split in there and (split != _ALL or len(there) == 1):
                some = [pair for pair in members if pair.base.split == split]
                rows.append(_measure(some, "metric", axis, split, primary=primary, margin=margin))
    return rows


def _measure(pairs: list[_Pair], level: Level, axis: Axis, split: Split, *, primary: bool, margin: float) -> _Measured:
    found = measure(
        [pair.base.score for pair in pairs],
        [pair.tuned.score for pair in pairs],
        [pair.base.cluster for pair in pairs],
    )
    verdict = find_verdict(found, margin)
    tasks = {pair.base.task for pair in pairs}
    row = Row(
        level=level,
        axis=axis,
        task=tasks.pop() if len(tasks) == 1 else _ALL,
        metric=pairs[0].base.metric,
        split=split,
        primary=primary,
        n=found.n,
        base=found.base,
        tuned=found.tuned,
        difference=found.difference,
        ci95=found.ci95,
        ci90=found.ci90,
        fixed=found.fixed,
        broken=found.broken,
        mcnemar_p=found.mcnemar_p,
        verdict=verdict,
        n_needed=_needed(found, margin) if verdict == "undecided" else None,
    )
    # pairs are sorted everywhere
    items = hash(tuple((pair.base.task, pair.base.metric, pair.base.id) for pair in pairs))
    return _Measured(row=row, clusters=found.clusters, items=items)


def _needed(found: Difference, margin: float) -> int | None:
    """Return how many items an unchanged model would need to be found `kept`.

    None where so many were measured already: the model is then probably worse by less than can be told, and how many
    items would tell depends on by how much.
    """
    needed = items_needed(found, margin, guess_variance(found))
    return needed if needed is not None and needed > found.n else None


def _lost_splits(measured: list[_Measured]) -> list[Flag]:
    gained = {one.row.axis: one.row for one in measured if one.row.level == "axis" and one.row.verdict == "gained"}
    return [
        Flag(
            code="lost-split",
            axis=row.axis,
            split=row.split,
            message=f"{row.axis}: {row.split} fell from {row.base:.3f} to {row.tuned:.3f} ({_interval(row)}, "
            f"{row.n:,} items) while {row.metric} as a whole rose from {gained[row.axis].base:.3f} to "
            f"{gained[row.axis].tuned:.3f}.",
        )
        for row in (one.row for one in measured)
        if row.level == "split" and row.verdict == "lost" and row.axis in gained
    ]


def _lost_metrics(measured: list[_Measured]) -> list[Flag]:
    """Return flags on metrics besides the primary one that were lost: the axis may have gained in spite of them.

    One flag a metric and task, on the row over all its splits.
    """
    flags, seen = [], set()
    for row in (one.row for one in measured):
        # the row over all splits stands before those of single splits
        if row.level != "metric" or row.primary or (row.task, row.metric) in seen:
            continue
        seen.add((row.task, row.metric))
        if row.verdict == "lost":
            message = (
                f"{row.axis}, {row.task}: {row.metric} fell from {row.base:.3f} to {row.tuned:.3f} "
                f"({_interval(row)}, {row.n:,} items)."
            )
            flags.append(Flag(code="lost-metric", axis=row.axis, split=row.split, message=message))
    return flags


def _small_losses(measured: list[_Measured], margin: float) -> list[Flag]:
    flags, seen = [], set()
    for one in measured:
        # one set of items is a row of several levels, but one loss
        row = one.row
        if row.verdict == "kept" and row.ci95[1] < 0 and one.items not in seen:
            seen.add(one.items)
            task = "" if row.primary and row.level != "metric" else f", {row.task}"
            message = (
                f"{row.axis}, {row.split}{task}: {row.metric} fell from {row.base:.3f} to {row.tuned:.3f} "
                f"({_interval(row)}, {row.n:,} items); that is a loss, but less than the margin of {margin:g}."
            )
            flags.append(Flag(code="small-loss", axis=row.axis, split=row.split, message=message))
    return flags


def _thin_evidence(measured: list[_Measured]) -> list[Flag]:
    """Return flags on primary rows that rest on little, each set of items once."""
    flags, seen = [], set()
    for one in measured:
        row = one.row
        if row.level == "metric" or one.items in seen:
            continue
        seen.add(one.items)
        where = f"{row.axis}, {row.split}: {row.metric}"
        if row.n < _FEW_ITEMS:
            message = f"{where} rests on {row.n} item{'s' * (row.n > 1)}; its interval is wide ({_interval(row)})."
            flags.append(Flag(code="few-items", axis=row.axis, split=row.split, message=message))
        elif one.clusters < _FEW_CLUSTERS and one.clusters < row.n:
            groups = f"{one.clusters} group{'s' * (one.clusters > 1)}"
            message = f"{where} rests on {row.n:,} items in only {groups} that share a cluster ({_interval(row)})."
            flags.append(Flag(code="few-clusters", axis=row.axis, split=row.split, message=message))
    return flags


def _gaps(pairs: list[_Pair]) -> list[Flag]:
    """Return flags on axes that were not measured, and on items whose gold is not the same in both files."""
    flags = []
    for axis in get_args(Axis):
        if _primary_metric(pairs, axis) is None:
            there = sum(pair.base.axis == axis for pair in pairs)
            wanted = " or ".join(PRIMARY[axis])
            what = f"none of its {there:,} scores is of {wanted}" if there else "no item measures it"
            message = f"{axis}: {what}, so nothing is said about whether the training helped or harmed it."
            flags.append(Flag(code="axis-missing", axis=axis, split=_ALL, message=message))
        other: Mapping[Key, None] = {
            (pair.base.task, pair.base.metric, pair.base.id): None
            for pair in pairs
            if pair.base.axis == axis and pair.base.gold != pair.tuned.gold
        }
        if other:
            message = f"{axis}: {len(other):,} scores were given against another gold: {_list(map(_write_key, other))}."
            flags.append(Flag(code="gold-differs", axis=axis, split=_ALL, message=message))
    return flags


def _interval(row: Row) -> str:
    return f"difference {row.difference:+.3f}, 95 % interval {row.ci95[0]:+.3f} to {row.ci95[1]:+.3f}"
