"""The rows of a run: read, split, mixed and encoded, with a count of everything on the way."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actune.config.settings import Settings
from actune.core.errors import ConfigError, DataError
from actune.core.losses import is_loss, name_of
from actune.data.asked import overlap_notices
from actune.data.choose import Rows
from actune.data.encode import Account, Tally
from actune.data.reading.sources import Quarantined
from actune.data.store.cache import Cache, default_root, named_root
from actune.data.store.parts import Place, Trees
from actune.data.store.store import RowStore
from actune.data.store.table import Row
from actune.data.unused_weights import find_unused_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """One line of the table of a run: a source, its role, the rows read and chosen, and what became of them."""

    name: str
    role: str
    read: int
    unreadable: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that training needs of the data, and everything that a person must be told about it."""

    train: Trees
    validation: Trees
    counts: tuple[SourceCount, ...]
    quarantined: tuple[Quarantined, ...]
    notices: tuple[str, ...]
    fingerprint: str


@dataclass(slots=True, kw_only=True)
class _Part(Account):
    """The rows of training, or of validation, while they are counted."""

    items: list[tuple[Row, Place, int]] = field(default_factory=list)


def prepare(
    settings: Settings, rows: Rows, store: RowStore, *, advance: Callable[[int], None] = lambda _rows: None
) -> Prepared:
    """Return the encoded rows of a run and the account of what was left out; `advance` is told of rows that are done.

    Raises:
        DataError: a row is wrong and the strategy is `error`, a source has no row left, or the template loses part of
            a row and rows are not to be left out.
    """
    held, asked, notices = _find_asked(settings, rows)
    train, validation = (_encode(settings, part, store, advance) for part in (rows.train, held))
    unreadable = [item for opened in rows.sources for item in opened.quarantined]
    _refuse_empty(rows, train)
    if settings.data.check_dataset_strategy in ("warning", "error"):
        _refuse_losses([*train.quarantined, *validation.quarantined], len(rows.train) + len(rows.validation))
    trees, held_trees = Trees(train.items), Trees(validation.items)
    return Prepared(
        train=trees,
        validation=held_trees,
        counts=tuple(_count(rows, train.tallies, _add_left_out(validation.tallies, asked))),
        quarantined=tuple(_unique([*unreadable, *train.quarantined, *validation.quarantined, *asked])),
        notices=(
            *rows.notices,
            *notices,
            *_warning_notices(train, validation),
            *find_unused_weights(settings.render.loss_weights, rows.train),
        ),
        fingerprint=hashlib.sha256(trees.fingerprint() + held_trees.fingerprint()).hexdigest(),
    )


def _find_asked(settings: Settings, rows: Rows) -> tuple[Sequence[Row], list[Quarantined], list[str]]:
    """Return the validation rows that stay, those that ask what training asks and are left out, and notices.

    Raises:
        DataError: there are some and the strategy is `error`.
    """
    strategy = settings.data.overlap_strategy
    if strategy == "none" or not rows.validation:
        return rows.validation, [], []
    asked = rows.asked
    if strategy == "warning":
        return rows.validation, [], overlap_notices(asked, rows.validation)
    found = {overlap.held_row: overlap for overlap in asked.find(rows.validation)}
    left_out = [
        Quarantined(
            source=rows.validation[place].source,
            code="eval-overlap",
            message=f"asks what the training row {asked.rows[overlap.train_row].source} asks "
            f"({'word for word' if overlap.exact else f'{overlap.share:.0%} of its n-grams'}): it cannot validate",
            fix="hold back other rows, or remove the training row",
        )
        for place, overlap in sorted(found.items())
    ]
    if left_out and strategy == "error":
        first = left_out[0]
        raise DataError(f"{first.source}: {first.message}", code=first.code, fix=first.fix)
    kept = [row for place, row in enumerate(rows.validation) if place not in found]
    return kept, left_out, []


def _add_left_out(tallies: dict[str, Tally], left_out: Sequence[Quarantined]) -> dict[str, Tally]:
    for item in left_out:
        tallies.setdefault(item.source.dataset, Tally()).quarantined += 1
    return tallies


def _encode(settings: Settings, rows: Sequence[Row], store: RowStore, advance: Callable[[int], None]) -> _Part:
    """Find what each row becomes and decide whether it is trained; a row that was drawn several times counts each time."""
    data = settings.data
    result = _Part()
    for row, place in zip(rows, store.find(rows, advance), strict=True):
        part, number = place
        sizes = part.sizes(number)
        if part.is_plain(number, data.max_length):
            result.tally(row.table.name).add_trees(sizes)
        else:
            source = row.source
            trained = result.add(
                source,
                part.outcome(number, source),
                max_length=data.max_length,
                truncation=data.truncation_strategy,
                strategy=data.check_dataset_strategy,
            )
            if not trained:
                continue
        result.items.extend((row, place, tree) for tree in range(len(sizes)))
    return result


def open_cache(settings: Settings) -> tuple[Cache, list[str]]:
    """Return where a run keeps its encoded rows, and notices.

    It is a folder that goes with the process where nothing is to be kept, or where the user's cache cannot be written and
    no other folder was named.
    """
    data = settings.data
    limit = int(data.cache_limit * 2**30)
    if not data.cache:
        return Cache.temporary(), []
    if data.cache_dir:
        return Cache(Path(data.cache_dir).expanduser(), limit=limit), []
    root = default_root()
    if root is not None:
        cache = Cache(root, limit=limit)
        try:
            with cache.scratch():
                return cache, []
        except ConfigError as error:
            if named_root():
                raise
            reason = error.message
    else:
        reason = "this user has no home"
    return Cache.temporary(), [f"encoded rows are not kept for later runs: {reason}; --cache_dir names another folder"]


def _refuse_empty(rows: Rows, train: _Part) -> None:
    """A source that vanishes as a whole is a wrong setting, not a few bad rows."""
    wanted = {row.table.name for row in rows.train}
    for name in sorted(wanted):
        tally = train.tallies.get(name)
        if tally is None or tally.rows:
            continue
        first = next(item for item in train.quarantined if item.source.dataset == name)
        raise DataError(
            f"no row of {name} can be trained on; the first: {first.source}: {first.reason}",
            code=first.code,
            field=first.field,
            fix=first.fix,
        )


def _refuse_losses(left_out: Sequence[Quarantined], total: int) -> None:
    """What a template loses concerns the run, not a few bad rows: it is either accepted by name or left out on purpose."""
    lost = _unique(item for item in left_out if is_loss(item.code))
    if not lost:
        return
    codes = Counter(item.code for item in lost)
    first = {item.code: item for item in reversed(lost)}
    lines = [
        f"  {code}: {count:,} rows, for example {first[code].source}: {first[code].reason}"
        for code, count in codes.most_common()
    ]
    names = sorted({name for code in codes if (name := name_of(code)) is not None})
    allow = f"--allow_loss {' '.join(names)} to train them as the template writes them, " if names else ""
    raise DataError(
        f"the chat template cannot hold {len(lost):,} of {total:,} rows as they are:\n" + "\n".join(lines),
        code=lost[0].code,
        field=lost[0].field,
        fix=f"{allow}--check_dataset_strategy discard to leave them out, --dialect react, or another template; "
        "`actune check DATA --model DIR` lists all of them",
    )


def _count(rows: Rows, train: Mapping[str, Tally], validation: Mapping[str, Tally]) -> list[SourceCount]:
    counts = []
    for name in dict.fromkeys([*(opened.name for opened in rows.sources), *train]):
        # A source that is named twice, or as agent and as general rows, has one line: its rows are the same.
        same = [opened for opened in rows.sources if opened.name == name]
        role = " + ".join(dict.fromkeys(opened.role for opened in same)) or "identity"
        read = sum(len(opened.rows) + len(opened.quarantined) for opened in same)
        bad = sum(len(opened.quarantined) for opened in same)
        tally = train.get(name, Tally())
        counts.append(SourceCount(name=name, role=role, read=read or tally.rows, unreadable=bad, tally=tally))
    for name, tally in validation.items():
        read = tally.rows + tally.over_long + tally.quarantined
        counts.append(SourceCount(name=name, role="validation", read=read, unreadable=0, tally=tally))
    return counts


def _warning_notices(*parts: _Part) -> list[str]:
    """One line for each kind of warning: how many rows, and the first."""
    first: dict[str, str] = {}
    rows: dict[str, set[str]] = {}
    for encoded in parts:
        for source, finding in encoded.warnings:
            first.setdefault(finding.code, f"{source}, {finding.field}: {finding.message}")
            rows.setdefault(finding.code, set()).add(str(source))
    return [f"{code} in {len(rows[code])} rows, for example {example}" for code, example in first.items()]


def _unique(items: Iterable[Quarantined]) -> list[Quarantined]:
    """A row that was drawn several times is listed once."""
    return list({(item.source.file, item.source.line, item.code, item.field): item for item in items}.values())
