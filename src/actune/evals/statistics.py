"""Paired differences with intervals that hold at small n, the exact McNemar test, and how many items a verdict needs.

Which interval is used when, chosen by the coverage that `benchmarks/coverage.py` computes (30 to 1,000 items, 2 to 30 %
flips, no change, 3:1 and one-way change; bars: coverage >= 93 %, <= 97.5 % from 10 expected flips on, `gained` and
`lost` <= 2.5 % each where nothing changed):

- 0/1 scores, below 300 items or below 10 flips: a Wald interval around the observed difference with `ADDED_FLIPS` in
  the variance. What failed there: Wald (45 % at 30 items, 2 %), Agresti-Min (86.6 % at 100 items, 2 % all one way, and
  `gained` up to 2.57 %), Tango's score interval (`gained` up to 2.65 %, 92.98 % at 30 items, 30 % one way),
  Agresti-Min with a continuity correction of a quarter or half a step (90.8 and 92.2 %, above 97.5 % elsewhere).
- Other scores below 300 items: Student's t.
- From 300 items on: the percentile bootstrap (93.2 % or more, `gained` at most 2.36 %), its distribution computed
  and not drawn: with 10,000 draws its error alone took `gained` to 2.58 %, and 14,000 items took seconds.
- Other than 0/1 scores, of any number: each end no nearer than by Hall's transformation for skewed values. Student's t
  alone covered 85.6 % of 30 differences of which a tenth are large, and 88 % of lognormal ones; Johnson's corrected t
  90.9 and 92.0 %; with Hall's ends it is 93.6 %, and for normal differences the interval is 1 to 3 % wider.

Where items share a cluster the interval is computed by item and by cluster, and each end is the farther of the two:
the wider interval as a whole could be that of the items at 95 % and that of the clusters at 90 %, which are not nested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Floats = NDArray[np.float64]

BOOTSTRAP_FROM = 300  # independent units from which the bootstrap is used
FEW_UNLIKE = 10  # below this many units unlike the others a variance or a bootstrap knows too little
ADDED_FLIPS = 1.92  # half the squared normal quantile of 95 %; 1.75 to 2 meet every bar, 1.6 and less do not
_STEPS = 64  # of the bootstrap's grid in one standard deviation: adds less than 1e-4 to the variance
_NORMAL_FROM = 400  # degrees of freedom from which an expansion around the normal quantile is exact to 1e-7
# 0.8 for `kept`, the 0.025 of unchanged models that are called `gained` first, and what whole flips and an estimated
# rate cost. With 0.815 `kept` came to 0.776 to 0.798, with 0.84 to 0.794 at a margin of 0.01 and 2 % flips.
_POWER = 0.85
_LARGEST_N = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The paired difference tuned - base of one metric over n items.

    `clusters` is the number of groups of items that share something; n where none do. `squares` is the sum of the
    squared differences, for 0/1 scores the number of flips, and `largest` the square of
    a large one. `design_effect` is by how much clusters raise the variance.
    """

    n: int
    base: float
    tuned: float
    difference: float
    ci95: Interval
    ci90: Interval
    fixed: int
    broken: int
    mcnemar_p: float | None
    clusters: int
    binary: bool
    bounded: bool
    squares: float
    largest: float
    design_effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Independent units: the deviations of their items from the mean difference, summed by unit.

    `unlike` of them hold an item that did not change as most items did (which is mostly not at all). `changes`
    are those of 0/1 scores of items, which are whole numbers.
    """

    deviations: Floats
    unlike: int
    changes: Floats | None = None


def measure(base: Sequence[float], tuned: Sequence[float], clusters: Sequence[str]) -> Difference:
    """Return the paired difference of n >= 1 items, with intervals that depend on the set of pairs alone.

    Raises:
        ValueError: no items, or sequences of different length.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    if not len(before) or len(before) != len(after) or len(before) != len(clusters):
        raise ValueError("base, tuned and clusters must have one and the same length above 0")
    scores = np.concatenate([before, after])
    binary = bool(np.isin(scores, (0.0, 1.0)).all())
    bounded = bool(((scores >= 0) & (scores <= 1)).all())
    changes = after - before
    # fsum: the mean does not depend on the order of the items
    mean = math.fsum(changes) / len(changes)
    fixed, broken = int((changes > 0).sum()), int((changes < 0).sum())
    squares = math.fsum(changes**2)
    values, times = np.unique(changes, return_counts=True)
    unlike = changes != values[times.argmax()]
    items = _Unit(deviations=changes - mean, unlike=int(unlike.sum()), changes=changes if binary else None)
    groups = _group(items, unlike, clusters)
    # how far from the mean an item could be that is unlike those seen
    span = abs(mean) + (1.0 if bounded else max(1.0, float(np.abs(scores).max())))
    widths = _find_widths(items, groups, n=len(changes), binary=binary, bounded=bounded, span=span)
    ci95, ci90 = (_clip((float(mean - below), float(mean + above)), bounded) for below, above in widths)
    return Difference(
        n=len(changes),
        base=math.fsum(before) / len(changes),
        tuned=math.fsum(after) / len(changes),
        difference=mean,
        ci95=ci95,
        ci90=ci90,
        fixed=fixed,
        broken=broken,
        mcnemar_p=exact_mcnemar(fixed, broken) if binary else None,
        clusters=len(changes) if groups is None else len(groups.deviations),
        binary=binary,
        bounded=bounded,
        squares=squares,
        # Not `**4`: numpy's power rounds a negative base otherwise than its opposite on some CPUs, and swapped files
        # would not mirror each other.
        largest=1.0 if bounded else math.fsum((changes**2) ** 2) / squares if squares > 0 else 0.0,
        design_effect=_design_effect(items, groups),
    )


def exact_mcnemar(fixed: int, broken: int) -> float:
    """Return the two-sided binomial p that flips go either way equally often; 1.0 without flips."""
    flips = fixed + broken
    term = total = 1
    for done in range(min(fixed, broken)):
        term = term * (flips - done) // (done + 1)
        total += term
    return min(1.0, 2 * total / 2**flips)


def guess_variance(measured: Difference) -> float:
    """Return a cautious variance of one item's difference under no change; for 0/1 scores a flip rate.

    One large change more than was seen is taken to have happened, so that a rate estimated from few flips, or none,
    still gives the power on average.
    """
    return (measured.squares + measured.largest) / measured.n


def items_needed(measured: Difference, margin: float, variance: float) -> int | None:
    """Return the n at which an unchanged model is found `kept` at `margin` with probability 0.8; None beyond 10^9.

    `variance` is that of one item's difference (for 0/1 scores the flip rate), to which the design effect comes on top;
    cluster sizes are taken to stay as they are.
    """
    if margin <= 0:
        return None
    power = NormalDist().inv_cdf(_POWER)
    added = ADDED_FLIPS * measured.design_effect if measured.binary else 0.0
    per_item = variance * measured.design_effect
    size = measured.n / measured.clusters

    def holds(n: int) -> bool:
        normal = measured.binary and measured.clusters == measured.n
        quantile = NormalDist().inv_cdf(0.95) if normal else t_quantile(0.95, max(1, round(n / size) - 1))
        smoothed = added if n < BOOTSTRAP_FROM or n * variance < FEW_UNLIKE else 0.0
        return quantile * math.sqrt(per_item / n + smoothed / n**2) + power * math.sqrt(per_item / n) < margin

    low, high = 0, 1
    while not holds(high):
        low, high = high, high * 2
        if high > _LARGEST_N:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t for whole degrees of freedom, to 1e-7 relative."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    normal = NormalDist().inv_cdf(probability)
    if freedom >= _NORMAL_FROM:  # Abramowitz and Stegun 26.7.5, two terms
        first = (normal**3 + normal) / 4
        second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
        return normal + first / freedom + second / freedom**2
    low, high = 0.0, 2.0
    while _t_inside(high, freedom) < 2 * probability - 1:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, freedom) < 2 * probability - 1 else (low, middle)
    return (low + high) / 2


def _t_inside(value: float, freedom: int) -> float:
    """Return P(|T| < value), by the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3, .4)."""
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _group(items: _Unit, unlike: NDArray[np.bool_], clusters: Sequence[str]) -> _Unit | None:
    """Return the clusters as units, or None where no two items share one."""
    members: dict[str, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    if len(members) == len(clusters):
        return None
    sums = np.array([math.fsum(items.deviations[places]) for places in members.values()])
    return _Unit(deviations=sums, unlike=sum(bool(unlike[places].any()) for places in members.values()))


def _find_widths(
    items: _Unit, groups: _Unit | None, *, n: int, binary: bool, bounded: bool, span: float
) -> list[tuple[float, float]]:
    """Return how far the 95 % and the 90 % interval reach below and above the mean."""
    # few changes of bounded scores: as many again may have been missed
    few = bounded and (binary or items.unlike < FEW_UNLIKE)
    chosen = _widths(items, n=n, added=ADDED_FLIPS if few else 0.0, normal=binary, skewed=not binary, span=span)
    if groups is None:
        return chosen
    added = ADDED_FLIPS * _design_effect(items, groups) if few else 0.0
    wider = _widths(groups, n=n, added=added, normal=False, skewed=not binary, span=span)
    pairs = zip(chosen, wider, strict=True)
    return [(max(below, far_below), max(above, far_above)) for (below, above), (far_below, far_above) in pairs]


def _widths(unit: _Unit, *, n: int, added: float, normal: bool, skewed: bool, span: float) -> list[tuple[float, float]]:
    count = len(unit.deviations)
    squares = math.fsum(unit.deviations**2)
    # rounding leaves about 1e-16 of the scores where all differences are equal
    if count == 1 or (squares <= (1e-12 * span) ** 2 * n and not added):
        # nothing tells the spread: units unlike those seen may be as frequent as the rule of three allows
        return [((1 - tail ** (1 / count)) * span,) * 2 for tail in (0.025, 0.05)]
    if count >= BOOTSTRAP_FROM and unit.unlike >= FEW_UNLIKE:
        # totals of 0/1 scores are whole numbers of flips
        values = unit.deviations if unit.changes is None else unit.changes
        step = math.sqrt(squares / count) / _STEPS if unit.changes is None else 1.0
        chosen = [(below / n, above / n) for below, above in _resample(values, step)]
    else:
        correction = 1.0 if normal else count / (count - 1)
        error = math.sqrt(squares * correction + added) / n
        half = [NormalDist().inv_cdf(p) if normal else t_quantile(p, count - 1) for p in (0.975, 0.95)]
        chosen = [(quantile * error,) * 2 for quantile in half]
    if not skewed:
        return chosen
    ends = zip(chosen, _skewed_widths(unit.deviations, n), strict=True)
    return [(max(below, far_below), max(above, far_above)) for (below, above), (far_below, far_above) in ends]


def _skewed_widths(deviations: Floats, n: int) -> list[tuple[float, float]]:
    """Return how far intervals reach below and above the mean by Hall's cubic transformation of Student's t.

    (P. Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54, 1992.) The quantile q of the
    transformed statistic is that of the plain one at 3 r / g * (cbrt(1 + g / r * (q - g / (6 r))) - 1), with the
    skewness g and r the root of the number of values.
    """
    count, squares = len(deviations), math.fsum(deviations**2)
    error = math.sqrt(squares * count / (count - 1)) / n
    cubes = math.fsum(deviations**2 * deviations)  # not `**3`: see `measure`
    lean = cubes / count / (squares / count) ** 1.5 / math.sqrt(count) if squares > 0 else 0.0

    def plain(quantile: float) -> float:
        if abs(lean) < 1e-6:  # what is left out is smaller than this
            return quantile
        return 3 / lean * (math.cbrt(1 + lean * (quantile - lean / 6)) - 1)

    half = [t_quantile(p, count - 1) for p in (0.975, 0.95)]
    return [(plain(quantile) * error, -plain(-quantile) * error) for quantile in half]


def _resample(values: Floats, step: float) -> list[Interval]:
    """Return how far bootstrap totals of values reach below and above the total seen, for the 95 and 90 % interval.

    It depends on the set of values alone, and the negative values give the mirrored answer.
    """
    total = math.fsum(values)
    below, above = _find_quantiles(np.sort(values), step), _find_quantiles(np.sort(-values), step)
    return [(total - low, -total - high) for low, high in zip(below, above, strict=True)]


def _find_quantiles(values: Floats, step: float) -> list[float]:
    """Return the totals of resampled values that 2.5 and 5 % of the samples stay below.

    The total of n independent draws has the n-th power of the Fourier transform of one draw: what sampling would
    estimate is computed. Values between two multiples of `step` are shared out between them, which keeps the mean.
    """
    count, places = len(values), values / step
    # A ring wide enough that the distribution of the total does not meet itself.
    reach = 20 * math.sqrt(math.fsum(places**2)) + 16 * float(np.abs(places).max()) + 64
    ring = 2 ** math.ceil(math.log2(reach))
    low = np.floor(places).astype(np.int64)
    part = places - low
    one = np.bincount(low % ring, weights=1 - part, minlength=ring)
    one += np.bincount((low + 1) % ring, weights=part, minlength=ring)
    chances = np.fft.ifft(np.fft.fft(one / count) ** count).real
    first = round(math.fsum(places)) - ring // 2
    summed = np.cumsum(chances[(first + np.arange(ring)) % ring])
    return [(first + int(np.searchsorted(summed, tail))) * step for tail in (0.025, 0.05)]


def _design_effect(items: _Unit, groups: _Unit | None) -> float:
    """Return by how much clustering raises the variance of the mean; 1 where it does not."""
    squares = math.fsum(items.deviations**2)
    if groups is None or len(groups.deviations) < 2 or squares <= 0:
        return 1.0
    count = len(groups.deviations)
    return max(1.0, math.fsum(groups.deviations**2) * count / (count - 1) / squares)


def _clip(interval: Interval, bounded: bool) -> Interval:
    return (max(-1.0, interval[0]), min(1.0, interval[1])) if bounded else interval
