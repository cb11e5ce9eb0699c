"""Which rows a run trains on: sources opened, rows held back, and the rest mixed by rows or by tokens."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from actune.config.settings import DataSettings, Settings
from actune.core.errors import ConfigError, DataError
from actune.core.values import read_numbers
from actune.data.asked import Asked
from actune.data.encode import judge
from actune.data.identity import DATASET, identity_rows
from actune.data.mix import (
    cut_at,
    draw_weighted,
    mix,
    plan_mix,
    plan_validation,
    shuffle,
    split_validation,
)
from actune.data.reading.files import find_files
from actune.data.reading.sources import Quarantined, split_count
from actune.data.store.cache import Cache
from actune.data.store.index import count_lines, open_table
from actune.data.store.store import RowStore
from actune.data.store.table import Row, RowTable

_MOST = 0.7
"""Share of a file's rows from which all of them are encoded at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A dataset as the user named it, in its role: its rows, and what could not be read.

    `available` is the number of readable rows before `#N` chose some; a row is used `times` times a pass.
    """

    name: str
    role: str
    rows: tuple[Row, ...]
    quarantined: tuple[Quarantined, ...]
    available: int
    times: Fraction
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows chosen for a run, not yet encoded.

    `spare_agent` and `spare_general` are the rows of the sources that are neither trained on nor validated with.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    spare_agent: tuple[Row, ...]
    spare_general: tuple[Row, ...]
    sources: tuple[Opened, ...]
    notices: tuple[str, ...]

    @cached_property
    def asked(self) -> Asked:
        """What the training rows ask: validation, comparison and probes are held against it."""
        return Asked(self.train)


def choose_rows(
    settings: Settings,
    cache: Cache,
    store: RowStore,
    *,
    processes: int,
    advance: Callable[[int], None] = lambda _bytes: None,
) -> Rows:
    """Read the sources and choose the rows: validation first, then the mixture, then identity rows.

    `store` encodes rows where the mixture is one of tokens; `advance` is told of bytes that were read.

    Raises:
        ConfigError: a source is missing or holds no readable row.
        DataError: a row is wrong and the strategy is `error`.
    """
    data, seed = settings.data, settings.training.seed
    ratio = data.train_dataset_mix_ratio
    given = [("agent", spec, data.format) for spec in data.dataset]
    given += [("general", spec, None) for spec in data.train_dataset_mix_ds] if ratio > 0 else []
    opener = _Opener(settings, cache, store, processes, advance)
    sources: list[Opened] = []
    for role, spec, format_name in given:
        agents = sum(len(opened.rows) for opened in sources if opened.role == "agent")
        sources.append(opener.open(role, spec, format_name, needed=ratio * agents if role == "general" else None))
    agent, general = ([one for one in sources if one.role == role] for role in ("agent", "general"))
    rows = [row for opened in agent for row in opened.rows]
    train, validation = split_validation(rows, ratio=data.validation_ratio, seed=seed)
    notices = [*_repeated(data), *plan_validation(len(rows), ratio=data.validation_ratio).notices]
    others = tuple(row for opened in general for row in opened.rows)
    identity = _identity(settings)
    if data.train_dataset_mix_by == "rows" and all(opened.times == 1 for opened in sources):
        plan = plan_mix(len(train), len(others), sample=data.train_dataset_sample, ratio=ratio)
        mixed = mix(train, others, identity, plan, seed)
        notices += plan.notices
        empty = plan.agent == 0
    else:
        mixture = _Mixture(settings, agent, general, train, store)
        chosen_agent, chosen_general = mixture.draw()
        mixed = shuffle((*chosen_agent, *chosen_general, *identity), seed)
        notices += mixture.notices
        empty = not chosen_agent
    if empty:
        notices.append(f"train_dataset_sample {data.train_dataset_sample} at ratio {ratio:g} leaves no agent row")
    # A row given twice is read twice: what counts is where it stands.
    used = {row.place for row in (*mixed, *validation)}
    return Rows(
        train=mixed,
        validation=validation,
        spare_agent=tuple(row for row in train if row.place not in used),
        spare_general=tuple(row for row in others if row.place not in used),
        sources=tuple(sources),
        notices=(*(notice for opened in sources for notice in opened.notices), *notices),
    )


class _Mixture:
    """Draws agent and general rows where sources have weights, or where the ratio counts tokens."""

    def __init__(
        self,
        settings: Settings,
        agent: Sequence[Opened],
        general: Sequence[Opened],
        train: Sequence[Row],
        store: RowStore,
    ) -> None:
        self._settings, self._store = settings, store
        self.notices: list[str] = []
        kept = set(train)
        self._agent = [[row for row in opened.rows if row in kept] for opened in agent]
        self._counts = [_round(opened.times * len(part)) for opened, part in zip(agent, self._agent, strict=True)]
        self._general = [opened.rows for opened in general]
        self._shares = [opened.times * len(opened.rows) for opened in general]

    def draw(self) -> tuple[Sequence[Row], Sequence[Row]]:
        """Return the agent rows and the general rows, in no particular order."""
        data = self._settings.data
        total, sample, ratio = sum(self._counts), data.train_dataset_sample, data.train_dataset_mix_ratio
        by_rows = data.train_dataset_mix_by == "rows"
        if sample >= 0 and ratio > 0 and not by_rows:
            agent, general = self._sample_tokens(min(sample, total), sample)
        else:
            # How often rows repeat is said below, by source.
            enough = 10**12 if any(self._general) else 0
            plan = plan_mix(total, enough, sample=sample, ratio=ratio if by_rows else 0.0)
            self.notices += plan.notices
            agent = self._take_agent(plan.agent)
            general = self._take_general(plan.general) if by_rows else self._match(agent)
        for role, rows in (("agent", agent), ("general", general)):
            self.notices += _repetitions(role, rows)
        return agent, general

    def _take_agent(self, count: int) -> list[Row]:
        shares = [Fraction(count) for count in self._counts]
        return self._take(self._agent, shares, count, "agent")

    def _take_general(self, count: int) -> list[Row]:
        return self._take(self._general, self._shares, count, "general")

    def _take(self, parts: Sequence[Sequence[Row]], shares: Sequence[Fraction], count: int, purpose: str) -> list[Row]:
        if not count:
            return []
        stream = draw_weighted(parts, shares, self._settings.training.seed, purpose=purpose)
        return list(itertools.islice(stream, count))

    def _match(self, agent: Sequence[Row]) -> Sequence[Row]:
        """Return general rows whose tokens are `ratio` times those of the agent rows, to the nearest row."""
        data = self._settings.data
        target = data.train_dataset_mix_ratio * sum(self._measure(agent))
        if not target:
            return []
        stream = draw_weighted(self._general, self._shares, self._settings.training.seed, purpose="general")
        taken: list[Row] = []

        def sizes(first: int, last: int) -> Sequence[int]:
            taken.extend(itertools.islice(stream, last - len(taken)))
            return self._measure(taken[first:last])

        count = cut_at(sizes, target, barren=sum(len(part) for part in self._general))
        if count is None:
            raise ConfigError(
                "no general row can be trained on, so none has tokens to mix by",
                fix="check --train_dataset_mix_ds with `actune check`, or raise --max_length",
            )
        return taken[:count]

    def _sample_tokens(self, most_agent: int, sample: int) -> tuple[Sequence[Row], Sequence[Row]]:
        """Return `sample` rows in all whose tokens are as 1 : ratio, as nearly as whole rows allow."""
        agent, general = self._take_agent(most_agent), self._take_general(sample)
        ratio = self._settings.data.train_dataset_mix_ratio
        have = np.concatenate([[0], np.cumsum(self._measure(agent))])
        other = np.concatenate([[0], np.cumsum(self._measure(general))])
        counts = np.arange(len(agent) + 1)
        best = int(np.argmin(np.abs(other[sample - counts] - ratio * have)))
        return agent[:best], general[: sample - best]

    def _measure(self, rows: Sequence[Row]) -> list[int]:
        """Return the tokens that training sees of each row, all or the supervised ones; 0 for rows that are left out."""
        data = self._settings.data
        which = 1 if data.train_dataset_mix_by == "supervised_tokens" else 0
        found = []
        for row, (part, place) in zip(rows, self._store.find(rows), strict=True):
            if not part.is_plain(place, data.max_length) and judge(
                part.outcome(place, row.source),
                row.source,
                max_length=data.max_length,
                truncation=data.truncation_strategy,
                strategy=data.check_dataset_strategy,
            ):
                found.append(0)
                continue
            found.append(sum(size[which] for size in part.sizes(place)))
        return found


def _repetitions(role: str, rows: Sequence[Row]) -> list[str]:
    """Say which sources repeat, and how often."""
    notices = []
    for name, count in Counter(row.table.name for row in rows).items():
        times = Counter((row.table.shown, row.number) for row in rows if row.table.name == name)
        least, most = min(times.values()), max(times.values())
        if most > 1:
            shown = f"{most}" if least == most else f"{least} to {most}"
            notices.append(f"{count:,} {role} rows come from {name}: each of {len(times):,} is used {shown} times")
    return notices


class _Opener:
    """Opens the sources of a run."""

    def __init__(
        self, settings: Settings, cache: Cache, store: RowStore, processes: int, advance: Callable[[int], None]
    ) -> None:
        self._settings, self._cache, self._store = settings, cache, store
        self._processes, self._advance = processes, advance
        self._weights = _read_weights(settings.data)

    def open(self, role: str, spec: str, format_name: str | None, *, needed: float | None) -> Opened:
        """Return a source; `needed` is how many of its rows the run will take, None for all that it asks for."""
        name, count = split_count(spec)
        files, notices = find_files(name)
        tables = [
            open_table(
                path,
                name=name,
                shown=shown,
                format_name=format_name,
                cache=self._cache,
                processes=self._processes,
                store=self._store if self._takes_most(path, count, needed) else None,
                advance=self._advance,
            )
            for path, shown in files
        ]
        quarantined = [item for table in tables for item in table.quarantined]
        rows = [row for table in tables for row in table.rows()]
        self._refuse(spec, rows, quarantined)
        available, times = len(rows), self._weights.get(name, Fraction(1))
        if count is not None and count <= available:
            chosen = sorted(random.Random(self._settings.training.seed).sample(range(available), count))
            rows = [rows[index] for index in chosen]
        elif count is not None:
            times *= Fraction(count, available)
            notices.append(f"{spec}: {count} rows were asked for, {available} can be read: they are repeated")
        return Opened(
            name=name,
            role=role,
            rows=tuple(rows),
            quarantined=tuple(quarantined),
            available=available,
            times=times,
            notices=tuple(notices),
        )

    def _takes_most(self, path: Path, count: int | None, needed: float | None) -> bool:
        """Whether the run will take most rows of a file, so that they may be encoded while they are found."""
        if count is not None or (needed is None and self._settings.data.train_dataset_sample >= 0):
            return False
        return needed is None or needed >= _MOST * count_lines(path) > 0

    def _refuse(self, spec: str, rows: Sequence[Row], quarantined: Sequence[Quarantined]) -> None:
        first = quarantined[0] if quarantined else None
        if first is not None and self._settings.data.check_dataset_strategy == "error":
            raise DataError(f"{first.source}: {first.reason}", code=first.code, field=first.field, fix=first.fix)
        if not rows:
            reason = f"; the first of {len(quarantined)}: {first.source}: {first.reason}" if first else ""
            raise ConfigError(
                f"{spec} holds no readable row{reason}", fix=(first.fix if first else None) or "check the file"
            )


def _read_weights(data: DataSettings) -> dict[str, Fraction]:
    """Return the weights of sources by their names.

    Raises:
        ConfigError: a weight is no number of 0 or more, or of no source.
    """
    weights = read_numbers(data.dataset_weights, "dataset_weights")
    known = {split_count(spec)[0] for spec in (*data.dataset, *data.train_dataset_mix_ds)}
    for name in weights:
        if name not in known:
            raise ConfigError(
                f"dataset_weights names {name!r}, which is no source of this run: {', '.join(sorted(known))}",
                fix="write it as in --dataset or --train_dataset_mix_ds, without #N",
            )
    return {name: Fraction(repr(weight)) for name, weight in weights.items()}


def _identity(settings: Settings) -> tuple[Row, ...]:
    data = settings.data
    if not data.self_cognition_sample:
        return ()
    drawn = identity_rows(
        data.self_cognition_sample,
        names=data.model_name,
        authors=data.model_author,
        seed=settings.training.seed,
        file=data.self_cognition_file,
    )
    different = list({id(one): one for one in drawn}.values())
    places = {id(one): place for place, one in enumerate(different)}
    table = RowTable.of_conversations(different, name=DATASET)
    return tuple(Row(table=table, number=places[id(one)]) for one in drawn)


def _repeated(data: DataSettings) -> list[str]:
    """Name the datasets that are given more than once: their rows count each time, held-out ones too."""
    general = data.train_dataset_mix_ds if data.train_dataset_mix_ratio > 0 else []
    given = Counter(str(Path(spec).resolve()) if Path(spec).exists() else spec for spec in [*data.dataset, *general])
    return [
        f"{name} is given {count} times: its rows count each time, and those held out for validation are trained on too"
        for name, count in given.items()
        if count > 1
    ]


def _round(number: Fraction) -> int:
    return int(number + Fraction(1, 2))
