"""Do the intervals and verdicts of `compare` keep what they promise? Exits with 1 if a bar is missed.

Base and tuned model answer n items; each item flips with a fixed probability, and a flip is a fixed item with
probability `share` (0.5: no change, 0.75: three fixed for one broken, 1: all one way). The interval of 0/1 scores
depends on the counts of fixed and broken items alone, so their coverage is not simulated but summed over all counts:
no Monte-Carlo error. So is the share of `kept` at the n that `n_needed` names for a known flip rate. Clustered items,
differences other than flips, and `n_needed` after a pilot are simulated: a bar is missed when chance does not explain it.

Bars: coverage of the 95 % interval >= 93 % everywhere and <= 97.5 % where n x flips >= 10; `gained` and `lost` under no
change <= 2.5 % each; `kept` under no change with probability >= 0.8 at the n that `n_needed` names.

Usage: python benchmarks/coverage.py [--quick]
"""

from __future__ import annotations

import argparse
import bisect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from actune.evals.compare import find_verdict
from actune.evals.statistics import Difference, guess_variance, items_needed, measure

SIZES = (30, 50, 100, 200, 300, 500, 1000)
FLIPS = (0.02, 0.05, 0.1, 0.2, 0.3)
SHARES = (0.5, 0.75, 1.0)
MARGIN = 0.02
LOW, HIGH, ENOUGH = 0.93, 0.975, 10
WRONG, POWER = 0.025, 0.8
MARGINS = (0.01, 0.02, 0.05)
_SLOW = 6_000  # n_needed above which the sum takes minutes
VALUES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "t, 3 degrees": (lambda rng, n: rng.standard_t(3, size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
    "lognormal, downwards": (lambda rng, n: -rng.lognormal(size=n), -math.exp(0.5)),
    "a tenth much worse": (
        lambda rng, n: np.where(rng.random(n) < 0.1, rng.normal(-1, 0.5, n), rng.normal(0, 0.05, n)),
        -0.1,
    ),
}
"""Differences by name: how n of them are drawn, and their true mean."""
_RARE = 1e-7  # counts rarer than this are left out and taken as not covered
_SLACK = 3.0  # standard errors that a simulated share may miss its bar by


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table and the bars that it misses."""

    text: str
    missed: tuple[str, ...]


@lru_cache(maxsize=300_000)
def measure_counts(n: int, fixed: int, broken: int) -> Difference:
    """Return what `compare` finds for n items of which some were fixed and some broken."""
    base, tuned = np.zeros(n), np.zeros(n)
    tuned[:fixed] = 1
    base[fixed : fixed + broken] = 1
    return measure(base, tuned, [str(item) for item in range(n)])


def counts(n: int, flips: float, share: float) -> Iterator[tuple[int, int, float]]:
    """Yield (fixed, broken, probability) of all counts that matter."""
    for flipped in range(n + 1):
        outer = binomial(flipped, n, flips)
        if outer < _RARE:
            continue
        for fixed in range(flipped + 1):
            probability = outer * binomial(fixed, flipped, share)
            if probability >= _RARE:
                yield fixed, flipped - fixed, probability


def binomial(hits: int, n: int, rate: float) -> float:
    """Return the probability of so many hits."""
    if rate >= 1:
        return float(hits == n)
    log = math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1)
    return math.exp(log + hits * math.log(rate) + (n - hits) * math.log1p(-rate))


def check_cell(n: int, flips: float, share: float) -> Line:
    """Return coverage and shares of verdicts, summed over all counts."""
    truth = flips * (2 * share - 1)
    covered = 0.0
    verdicts = dict.fromkeys(("gained", "lost", "kept", "undecided"), 0.0)
    for fixed, broken, probability in counts(n, flips, share):
        found = measure_counts(n, fixed, broken)
        covered += probability * (found.ci95[0] - 1e-9 <= truth <= found.ci95[1] + 1e-9)
        verdicts[find_verdict(found, MARGIN)] += probability
    missed = [] if covered >= LOW else ["coverage low"]
    if n * flips >= ENOUGH - 1e-9 and covered > HIGH:
        missed.append("coverage high")
    if share == 0.5:
        missed += [name for name in ("gained", "lost") if verdicts[name] > WRONG]
    shown = "  ".join(f"{name} {value:6.4f}" for name, value in verdicts.items())
    return Line(
        text=f"n {n:5}  flips {flips:4.2f}  {share:4.2f} up  coverage {covered:.4f}  {shown}", missed=(*missed,)
    )


def check_clusters(n: int, flips: float, size: int, draws: int, rng: np.random.Generator) -> Line:
    """Return coverage where items of a cluster flip together, under no change."""
    names = [str(item // size) for item in range(n)]
    covered = gained = lost = 0
    for _ in range(draws):
        # half of the clusters' items follow their cluster's own flip
        together = np.repeat(draw_flips(-(-n // size), flips, rng), size)[:n]
        changes = np.where(rng.random(n) < 0.5, together, draw_flips(n, flips, rng))
        found = measure((changes < 0).astype(float), (changes > 0).astype(float), names)
        covered += found.ci95[0] <= 0 <= found.ci95[1]
        verdict = find_verdict(found, MARGIN)
        gained, lost = gained + (verdict == "gained"), lost + (verdict == "lost")
    missed = [] if at_least(covered, draws, LOW) else ["coverage low"]
    missed += [name for name, hits in (("gained", gained), ("lost", lost)) if not at_most(hits, draws, WRONG)]
    text = f"n {n:5}  flips {flips:4.2f}  clusters of {size}  coverage {covered / draws:.4f}  "
    return Line(text=text + f"gained {gained / draws:.4f}  lost {lost / draws:.4f}", missed=tuple(missed))


def check_needed(n: int, flips: float, draws: int, rng: np.random.Generator) -> Line:
    """Return how often an unchanged model is kept at the n named after a pilot of n items, pilot by pilot."""
    kept = trials = 0
    named: list[int] = []
    for _ in range(draws):
        pilot = measure_counts(n, *draw_counts(n, flips, rng))
        if find_verdict(pilot, MARGIN) != "undecided":
            continue
        needed = items_needed(pilot, MARGIN, guess_variance(pilot))
        if needed is None:
            continue
        named.append(needed)
        trials += 1
        kept += find_verdict(measure_counts(needed, *draw_counts(needed, flips, rng)), MARGIN) == "kept"
    missed = () if not trials or at_least(kept, trials, POWER) else ("kept",)
    middle = int(np.median(named)) if named else 0
    share = f"{kept / trials:.3f}" if trials else "  -  "
    text = f"n {n:5}  flips {flips:4.2f}  n_needed {middle:5} (median)  kept there {share} of {trials} pilots"
    return Line(text=text, missed=missed)


def check_rate(flips: float, margin: float) -> Line:
    """Return how often an unchanged model is kept at the n named for its true flip rate, summed over all counts."""
    needed = items_needed(measure_counts(100, 0, 0), margin, flips)
    assert needed is not None
    kept = sum_kept(needed, flips, margin)
    measure_counts.cache_clear()  # counts of another n
    text = f"margin {margin:4.2f}  flips {flips:4.2f} known  n_needed {needed:5}  kept there {kept:.4f}"
    return Line(text=text, missed=() if kept >= POWER else ("kept",))


def sum_kept(n: int, flips: float, margin: float) -> float:
    """Return the probability of `kept` under no change.

    Of so many flips, the more are fixes the higher is the interval: the counts that are `kept` lie between two limits.
    """
    kept = 0.0
    for flipped in range(n + 1):
        outer = binomial(flipped, n, flips)
        if outer < _RARE:
            continue

        def verdict(fixed: int, flipped: int = flipped) -> str:
            return find_verdict(measure_counts(n, fixed, flipped - fixed), margin)

        fixes = range(flipped + 1)
        first = bisect.bisect_left(fixes, x=True, key=lambda fixed: verdict(fixed) in ("kept", "gained"))
        end = bisect.bisect_left(fixes, x=True, key=lambda fixed: verdict(fixed) == "gained")
        kept += outer * sum(binomial(fixed, flipped, 0.5) for fixed in range(first, end))
    return kept


def check_values(n: int, name: str, draws: int, rng: np.random.Generator) -> Line:
    """Return coverage where the differences are no flips but numbers, some of them skewed."""
    draw, truth = VALUES[name]
    items = [str(item) for item in range(n)]
    low = high = 0
    for _ in range(draws):
        found = measure(np.full(n, -20.0), draw(rng, n) - 20.0, items)
        low, high = low + (found.ci95[0] > truth), high + (found.ci95[1] < truth)
    covered = draws - low - high
    missed = [] if at_least(covered, draws, LOW) else ["coverage low"]
    if name == "normal" and not at_most(covered, draws, HIGH):
        missed.append("coverage high")
    text = f"n {n:5}  {name:22}  coverage {covered / draws:.4f}  above the truth {low / draws:.4f}  below "
    return Line(text=text + f"{high / draws:.4f}", missed=tuple(missed))


def rates(flips: Sequence[float], *, quick: bool) -> Iterator[tuple[float, float]]:
    """Yield (flip rate, margin) whose sums are no work of minutes."""
    for margin in (MARGIN,) if quick else MARGINS:
        for rate in flips:
            if rate / margin**2 * 7 <= _SLOW:  # 7: the squared sum of two normal quantiles
                yield rate, margin


def draw_flips(n: int, flips: float, rng: np.random.Generator) -> np.ndarray:
    """Return n changes of -1, 0 or 1, as many up as down on average."""
    return rng.choice([-1, 0, 1], size=n, p=[flips / 2, 1 - flips, flips / 2])


def draw_counts(n: int, flips: float, rng: np.random.Generator) -> tuple[int, int]:
    """Return how many of n items are fixed and broken in one sample without a real change."""
    fixed, broken, _ = rng.multinomial(n, [flips / 2, flips / 2, 1 - flips])
    return int(fixed), int(broken)


def at_least(hits: int, draws: int, bar: float) -> bool:
    """Return whether a simulated share is not below its bar by more than chance explains."""
    return hits / draws >= bar - _SLACK * math.sqrt(bar * (1 - bar) / draws)


def at_most(hits: int, draws: int, bar: float) -> bool:
    """Return whether a simulated share is not above its bar by more than chance explains."""
    return hits / draws <= bar + _SLACK * math.sqrt(bar * (1 - bar) / draws)


def run(quick: bool, show: Callable[[str], object] = print) -> int:
    """Check every bar, show the table and return the number of lines that miss one."""
    sizes, draws = ((30, 100, 300), 200) if quick else (SIZES, 2_000)
    flips = (0.02, 0.1) if quick else FLIPS
    rng = np.random.default_rng(3)
    missed = 0
    parts: list[tuple[str, Iterator[Line]]] = [
        ("0/1 scores, exact sums", (check_cell(n, rate, up) for n in sizes for rate in flips for up in SHARES)),
        ("clustered items, no change", (check_clusters(n, r, 5, draws, rng) for n in sizes if n > 30 for r in flips)),
        ("other differences", (check_values(n, name, draws, rng) for name in VALUES for n in sizes)),
        ("n_needed, true flip rate, exact sums", (check_rate(*case) for case in rates(flips, quick=quick))),
        ("n_needed, flip rate of a pilot", (check_needed(n, rate, draws // 2, rng) for n in sizes for rate in flips)),
    ]
    for title, lines in parts:
        show(f"\n{title}")
        for line in lines:
            show(line.text + (f"  MISSED: {', '.join(line.missed)}" if line.missed else ""))
            missed += bool(line.missed)
    show(f"\n{missed} lines miss a bar")
    return missed


def main() -> int:
    """Run the check from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and draws, in seconds")
    return 1 if run(parser.parse_args().quick) else 0


if __name__ == "__main__":
    sys.exit(main())
