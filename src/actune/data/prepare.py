"""The rows of a run: read, split, mixed and encoded, with a count of everything on the way."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actune.config.settings import DataSettings, Settings
from actune.core.errors import ConfigError, DataError
from actune.core.losses import is_loss, name_of
from actune.core.types import Conversation
from actune.data.encode import Encoded, Tally, encode_rows
from actune.data.identity import identity_rows
from actune.data.mix import mix, plan_mix, plan_validation, split_validation
from actune.data.sources import Loaded, Quarantined, load_conversations
from actune.render.encoder import Encoder
from actune.render.tree import TokenTree


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

    train: list[TokenTree]
    validation: list[TokenTree]
    counts: tuple[SourceCount, ...]
    quarantined: tuple[Quarantined, ...]
    notices: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Conversations chosen for a run, not yet encoded.

    `spare_agent` and `spare_general` are the rows of the sources that are neither trained on nor validated with.
    """

    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]
    spare_agent: tuple[Conversation, ...]
    spare_general: tuple[Conversation, ...]
    loaded: tuple[tuple[str, Loaded], ...]
    notices: tuple[str, ...]


def choose_rows(settings: Settings) -> Rows:
    """Read the sources and choose the rows: validation first, then the mixture, then identity rows.

    Raises:
        ConfigError: a source is missing or holds no readable row.
        DataError: a row is wrong and the strategy is `error`.
    """
    data, seed = settings.data, settings.training.seed
    agent = [_load(spec, data.format, settings) for spec in data.dataset]
    rows = _conversations(agent)
    train, validation = split_validation(rows, ratio=data.validation_ratio, seed=seed)
    notices = (*_repeated(data), *plan_validation(len(rows), ratio=data.validation_ratio).notices)
    ratio = data.train_dataset_mix_ratio
    general = [_load(spec, None, settings) for spec in data.train_dataset_mix_ds] if ratio > 0 else []
    others = _conversations(general)
    plan = plan_mix(len(train), len(others), sample=data.train_dataset_sample, ratio=ratio)
    if plan.agent == 0:
        notices = (*notices, f"train_dataset_sample {data.train_dataset_sample} at ratio {ratio:g} leaves no agent row")
    identity: tuple[Conversation, ...] = ()
    if data.self_cognition_sample:
        identity = identity_rows(
            data.self_cognition_sample,
            names=data.model_name,
            authors=data.model_author,
            seed=seed,
            file=data.self_cognition_file,
        )
    loaded = [("agent", one) for one in agent] + [("general", one) for one in general]
    mixed = mix(train, others, identity, plan, seed)
    # A row given twice is read twice: what counts is where it stands.
    used = {row.source for row in (*mixed, *validation)}
    return Rows(
        train=mixed,
        validation=validation,
        spare_agent=tuple(row for row in train if row.source not in used),
        spare_general=tuple(row for row in others if row.source not in used),
        loaded=tuple(loaded),
        notices=(*(notice for _, one in loaded for notice in one.notices), *notices, *plan.notices),
    )


def prepare(
    settings: Settings, rows: Rows, encoder: Encoder, *, advance: Callable[[], None] = lambda: None
) -> Prepared:
    """Return the encoded rows of a run and the account of what was left out; `advance` is called after each row.

    Raises:
        DataError: a row is wrong and the strategy is `error`, a source has no row left, or the template loses part of
            a row and rows are not to be left out.
    """
    train, validation = (
        encode_rows(
            part,
            encoder,
            max_length=settings.data.max_length,
            truncation=settings.data.truncation_strategy,
            strategy=settings.data.check_dataset_strategy,
            advance=advance,
        )
        for part in (rows.train, rows.validation)
    )
    unreadable = [item for _, loaded in rows.loaded for item in loaded.quarantined]
    _refuse_empty(rows, train)
    if settings.data.check_dataset_strategy in ("warning", "error"):
        _refuse_losses([*train.quarantined, *validation.quarantined], len(rows.train) + len(rows.validation))
    return Prepared(
        train=train.trees,
        validation=validation.trees,
        counts=tuple(_count(rows, train, validation)),
        quarantined=tuple(_unique([*unreadable, *train.quarantined, *validation.quarantined])),
        notices=(*rows.notices, *_warning_notices(train, validation)),
        fingerprint=fingerprint([*train.trees, *validation.trees]),
    )


def fingerprint(trees: Iterable[TokenTree]) -> str:
    """Return a hash of ids, structure, targets and weights: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for tree in trees:
        arrays = (
            tree.input_ids, tree.positions, tree.end, tree.target_positions, tree.target_ids, tree.target_weights,
        )  # fmt: skip
        for array in arrays:
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(array.tobytes())
    return digest.hexdigest()


def _load(spec: str, format_name: str | None, settings: Settings) -> Loaded:
    loaded = load_conversations(spec, format_name=format_name, seed=settings.training.seed)
    if loaded.quarantined and settings.data.check_dataset_strategy == "error":
        first = loaded.quarantined[0]
        raise DataError(f"{first.source}: {first.reason}", code=first.code, field=first.field, fix=first.fix)
    if not loaded.conversations:
        first = loaded.quarantined[0] if loaded.quarantined else None
        reason = f"; the first of {len(loaded.quarantined)}: {first.source}: {first.reason}" if first else ""
        raise ConfigError(
            f"{spec} holds no readable row{reason}", fix=(first.fix if first else None) or "check the file"
        )
    return loaded


def _repeated(data: DataSettings) -> list[str]:
    """Name the datasets that are given more than once: their rows count each time, held-out ones too."""
    general = data.train_dataset_mix_ds if data.train_dataset_mix_ratio > 0 else []
    given = Counter(str(Path(spec).resolve()) if Path(spec).exists() else spec for spec in [*data.dataset, *general])
    return [
        f"{name} is given {count} times: its rows count each time, and those held out for validation are trained on too"
        for name, count in given.items()
        if count > 1
    ]


def _conversations(sources: Sequence[Loaded]) -> tuple[Conversation, ...]:
    return tuple(row for loaded in sources for row in loaded.conversations)


def _refuse_empty(rows: Rows, train: Encoded) -> None:
    """A source that vanishes as a whole is a wrong setting, not a few bad rows."""
    wanted = {row.source.dataset for row in rows.train}
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


def _count(rows: Rows, train: Encoded, validation: Encoded) -> list[SourceCount]:
    counts = []
    names = [loaded.name for _, loaded in rows.loaded]
    for name in dict.fromkeys([*names, *train.tallies]):
        # A source that is named twice, or as agent and as general rows, has one line: its rows are the same.
        same = [(role, loaded) for role, loaded in rows.loaded if loaded.name == name]
        role = " + ".join(dict.fromkeys(role for role, _ in same)) or "identity"
        read = sum(len(loaded.conversations) + len(loaded.quarantined) for _, loaded in same)
        bad = sum(len(loaded.quarantined) for _, loaded in same)
        tally = train.tallies.get(name, Tally())
        counts.append(SourceCount(name=name, role=role, read=read or tally.rows, unreadable=bad, tally=tally))
    for name, tally in validation.tallies.items():
        read = tally.rows + tally.over_long + tally.quarantined
        counts.append(SourceCount(name=name, role="validation", read=read, unreadable=0, tally=tally))
    return counts


def _warning_notices(*parts: Encoded) -> list[str]:
    """One line for each kind of warning: how many rows, and the first."""
    first: dict[str, str] = {}
    rows: dict[str, set[str]] = {}
    for encoded in parts:
        for conversation, finding in encoded.warnings:
            first.setdefault(finding.code, f"{conversation.source}, {finding.field}: {finding.message}")
            rows.setdefault(finding.code, set()).add(str(conversation.source))
    return [f"{code} in {len(rows[code])} rows, for example {example}" for code, example in first.items()]


def _unique(items: Iterable[Quarantined]) -> list[Quarantined]:
    """A row that was drawn several times is listed once."""
    return list({(item.source.file, item.source.line, item.code): item for item in items}.values())
