"""Mixing: which rows a run trains on, in exact numbers and a seeded order.

Pure functions on sequences of anything. What has to be said about a mixture (rows that repeat, too few rows) is returned
as notices. The meanings are the reference recipe's: validation rows first, then agent and general rows 1 : ratio, then
identity.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

from actune.core.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPlan:
    """How many agent and general rows to train on; `notices` are for the user."""

    agent: int
    general: int
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPlan:
    """How many rows are held back for the evaluation loss; `notices` are for the user."""

    count: int
    notices: tuple[str, ...] = ()


# --- numbers --------------------------------------------------------------------------------------------------------


def plan_validation(rows: int, *, ratio: float) -> ValidationPlan:
    """Return how many of `rows` are held back: ratio x rows, rounded half up, at least 1 unless `ratio` is 0.

    One row always stays for training, so fewer than two rows give no validation row.

    Raises:
        ConfigError: `ratio` is not between 0 and 1.
    """
    if not 0 <= ratio <= 1:
        raise ConfigError(f"validation_ratio is {ratio}", fix="give a share from 0 (none) to 1")
    if ratio == 0:
        return ValidationPlan(count=0)
    wanted = max(1, _round(_exact(ratio) * rows))
    count = max(0, min(wanted, rows - 1))
    if count == wanted:
        return ValidationPlan(count=count)
    notice = f"{wanted} validation rows wanted, {count} taken: of {rows} rows at least one has to stay for training"
    return ValidationPlan(count=count, notices=(notice,))


def plan_mix(agent_rows: int, general_rows: int, *, sample: int, ratio: float) -> MixPlan:
    """Return how many rows of either kind to draw, given how many there are.

    `sample` -1: all agent rows, and ratio x agent rows (rounded half up) general rows. `sample` N: N rows in total,
    agent = N / (1 + ratio) rounded half up, general = the rest. Where that is more agent rows than there are, all of
    them are taken once, the ratio is kept, and a notice says that the total is below N: agent rows never repeat.
    General rows repeat when there are too few, with a notice. With `ratio` 0 `general_rows` is not looked at, so the
    caller need not read that source.

    Raises:
        ConfigError: `ratio` is negative or not finite, `sample` is below -1, or general rows are wanted and there
            are none.
    """
    if sample < -1:
        raise ConfigError(f"train_dataset_sample is {sample}", fix="give -1 (all agent rows) or a number of rows")
    if not math.isfinite(ratio) or ratio < 0:
        raise ConfigError(f"train_dataset_mix_ratio is {ratio}", fix="give 0 or a positive number")
    share = _exact(ratio)
    agent, notices = agent_rows, []
    general = _round(share * agent_rows)
    if sample >= 0:
        wanted = _round(sample / (1 + share))
        if wanted <= agent_rows:
            agent, general = wanted, sample - wanted
        else:
            notices.append(
                f"train_dataset_sample {sample} at ratio {ratio:g} needs {wanted} agent rows, there are {agent_rows}: "
                f"all of them are used once, {agent + general} rows in total"
            )
    if general > 0 and general_rows == 0:
        raise ConfigError(
            f"{general} general rows are wanted (train_dataset_mix_ratio {ratio:g}), the general source has none",
            fix="check the files of --train_dataset_mix_ds, or set --train_dataset_mix_ratio 0",
        )
    if general > general_rows:
        passes, rest = divmod(general, general_rows)
        times = f"{passes} or {passes + 1}" if rest else f"{passes}"
        notices.append(f"{general} general rows are wanted, there are {general_rows}: each is used {times} times")
    return MixPlan(agent=agent, general=general, notices=tuple(notices))


# --- rows -----------------------------------------------------------------------------------------------------------


def split_validation(rows: Sequence[T], *, ratio: float, seed: int) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Return (training rows, validation rows), both in the order of `rows`; `plan_validation` says how many.

    Raises:
        ConfigError: as for `plan_validation`.
    """
    count = plan_validation(len(rows), ratio=ratio).count
    held = {int(index) for index in generator(seed, "validation").permutation(len(rows))[:count]}
    train = tuple(row for index, row in enumerate(rows) if index not in held)
    return train, tuple(rows[index] for index in sorted(held))


def draw(rows: Sequence[T], count: int, seed: int, *, purpose: str = "draw") -> tuple[T, ...]:
    """Return `count` rows, without repetition while they last.

    Beyond `len(rows)` come whole further passes, then a remainder without repetition: how often two rows appear
    differs by one at most. Each pass has its own seeded order. `purpose` names the random stream, so that two draws
    of one run are independent.

    Raises:
        ConfigError: `count` is negative, or rows are wanted and there are none.
    """
    if count < 0 or (count > 0 and not rows):
        raise ConfigError(
            f"{count} rows cannot be drawn from {len(rows)}", fix="check the number of rows asked for and the source"
        )
    stream = generator(seed, purpose)
    drawn: list[T] = []
    while len(drawn) < count:
        order = stream.permutation(len(rows))[: count - len(drawn)]
        drawn.extend(rows[int(index)] for index in order)
    return tuple(drawn)


def mix(agent: Sequence[T], general: Sequence[T], identity: Sequence[T], plan: MixPlan, seed: int) -> tuple[T, ...]:
    """Return the training rows in seeded order: `plan.agent` + `plan.general` drawn rows and all `identity` rows.

    Raises:
        ConfigError: `plan` was made for more agent rows than there are, or for a general source that is empty.
    """
    if plan.agent > len(agent):
        raise ConfigError(
            f"the plan takes {plan.agent} agent rows, there are {len(agent)}", fix="plan with the rows that are there"
        )
    drawn = (draw(agent, plan.agent, seed, purpose="agent"), draw(general, plan.general, seed, purpose="general"))
    return shuffle((*drawn[0], *drawn[1], *identity), seed)


def shuffle(rows: Sequence[T], seed: int) -> tuple[T, ...]:
    """Return the rows of a run in seeded order; depends on the arguments only, never on workers or processes."""
    return tuple(rows[int(index)] for index in generator(seed, "order").permutation(len(rows)))


def draw_weighted(parts: Sequence[Sequence[T]], shares: Sequence[Fraction], seed: int, *, purpose: str) -> Iterator[T]:
    """Yield rows of several parts without end, each as often as its share; repetition as in `draw`.

    Among the first n rows each part has its share of n, up or down by less than one row. Parts without rows, or with a
    share of 0, give none.

    Raises:
        ConfigError: no part has both rows and a share.
    """
    given = [(part, share) for part, share in zip(parts, shares, strict=True) if len(part) and share > 0]
    if not given:
        raise ConfigError("no source has both rows and a weight above 0", fix="check --dataset_weights")
    total = sum(share for _, share in given)
    streams = [
        _repeat(part, generator(seed, purpose if len(given) == 1 else f"{purpose} {place}"))
        for place, (part, _) in enumerate(given)
    ]
    for place in _take_turns([share / total for _, share in given]):
        yield next(streams[place])


def _repeat(rows: Sequence[T], stream: np.random.RandomState) -> Iterator[T]:
    while True:
        for index in stream.permutation(len(rows)):
            yield rows[int(index)]


def interleave(counts: Sequence[int]) -> list[int]:
    """Return which part each place takes, `counts[s]` places for part s, as evenly as whole rows allow.

    Among the first n places part s has n x its share, up or down by less than one; so a window of steps in which every
    share is a whole number of rows has exactly these numbers.
    """
    total = sum(counts)
    turns = _take_turns([Fraction(count, total) for count in counts]) if total else iter(())
    return [next(turns) for _ in range(total)]


def _take_turns(shares: Sequence[Fraction]) -> Iterator[int]:
    """Yield parts so that after n turns each has had n x its share, up or down by less than one; shares add up to 1.

    The k-th turn of a part with share u may come at turn floor((k - 1) / u) or later and has to come before ceil(k / u);
    the earliest deadline first keeps all of them (C. L. Liu and J. W. Layland, J. ACM 20, 1973: one resource, whole turns).
    """
    parts = [place for place, share in enumerate(shares) if share > 0]
    taken = [0] * len(shares)
    release = [0] * len(shares)
    deadline = [math.ceil(1 / share) if share > 0 else 0 for share in shares]
    turn = 0
    while True:
        best = min((place for place in parts if release[place] <= turn), key=lambda place: deadline[place])
        yield best
        taken[best] += 1
        share, count = shares[best], taken[best]
        release[best] = count * share.denominator // share.numerator
        deadline[best] = -((-(count + 1) * share.denominator) // share.numerator)
        turn += 1


def cut_at(sizes: Callable[[int, int], Sequence[int]], target: float, *, barren: int) -> int | None:
    """Return how many rows, in their order, come closest to `target` tokens; `sizes(a, b)` tells those of rows a..b.

    Rows are asked for in blocks, so that only about as many are looked at as are needed. None where the first `barren`
    rows have no token at all: more of them would not help.
    """
    total, count = 0, 0
    while total < target:
        if total == 0 and count >= barren:
            return None
        mean = total / count if count else 0
        wanted = math.ceil((target - total) / mean * 1.02) if mean else 256
        for size in sizes(count, count + max(wanted, 16)):
            if total + size >= target:
                return count + (total + size - target <= target - total)
            total, count = total + size, count + 1
    return count


def generator(seed: int, purpose: str) -> np.random.RandomState:
    """Return the random stream of one purpose of a run.

    `RandomState` because numpy guarantees its streams for good (NEP 19); those of `Generator` may change. Each purpose
    has a stream of its own: another validation share does not change which general rows are drawn.

    Raises:
        ConfigError: `seed` is not in [0, 2**32).
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed}", fix="give a whole number from 0 to 4294967295")
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "little")
    return np.random.RandomState([seed, key])


def _exact(number: float) -> Fraction:
    """Return the decimal number as the user wrote it: 0.3 x 5 is 1.5 and rounds up, whatever its binary form."""
    return Fraction(repr(float(number)))


def _round(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))
