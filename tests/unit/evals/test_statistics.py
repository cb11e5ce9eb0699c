import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from actune.evals.statistics import (
    BOOTSTRAP_FROM,
    exact_mcnemar,
    guess_variance,
    items_needed,
    measure,
    t_quantile,
)


def flips(n, fixed, broken, clusters=None):
    base, tuned = np.zeros(n), np.zeros(n)
    tuned[:fixed] = 1
    base[fixed : fixed + broken] = 1
    return measure(base, tuned, clusters or [str(item) for item in range(n)])


def width(interval):
    return interval[1] - interval[0]


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).parents[3] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [  # printed tables of Student's t
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.95, 3, 2.3534),
        (0.975, 10, 2.2281),
        (0.95, 29, 1.6991),
        (0.975, 120, 1.9799),
        (0.025, 5, -2.5706),
    ],
)
def test_t_quantiles_are_those_of_the_tables(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=6e-5)


def test_t_quantile_has_no_step_where_the_expansion_takes_over():
    assert t_quantile(0.975, 399) > t_quantile(0.975, 400) > t_quantile(0.975, 401)
    assert t_quantile(0.975, 399) - t_quantile(0.975, 400) == pytest.approx(
        t_quantile(0.975, 400) - t_quantile(0.975, 401), rel=0.02
    )


@pytest.mark.parametrize(
    ("fixed", "broken", "expected"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (3, 1, 0.625), (42, 8, 1.2e-6), (41, 13, 1.75e-4), (42, 11, 2.25e-5)],
)
def test_mcnemar_is_the_two_sided_binomial_test(fixed, broken, expected):
    assert exact_mcnemar(fixed, broken) == pytest.approx(expected, rel=0.05)
    assert exact_mcnemar(fixed, broken) == exact_mcnemar(broken, fixed)


def test_mcnemar_is_exact_for_many_flips():
    normal = math.erfc(100 / math.sqrt(10_000) / math.sqrt(2))
    assert exact_mcnemar(5_050, 4_950) == pytest.approx(normal, rel=0.02)
    assert exact_mcnemar(9_000, 1_000) == 0.0 or exact_mcnemar(9_000, 1_000) < 1e-300


def test_few_binary_items_get_the_widened_interval_around_the_observed_difference():
    found = flips(100, 6, 2)
    error = math.sqrt(8 + 1.92 - 16 / 100) / 100
    assert found.difference == pytest.approx(0.04)
    assert found.ci95 == pytest.approx((0.04 - 1.96 * error, 0.04 + 1.96 * error), abs=2e-5)
    assert found.ci90 == pytest.approx((0.04 - 1.645 * error, 0.04 + 1.645 * error), abs=2e-5)
    assert (found.fixed, found.broken, found.binary) == (6, 2, True)


def test_many_binary_items_get_the_percentiles_of_resampled_counts():
    found = flips(1000, 70, 40)
    totals = np.random.default_rng(5).multinomial(1000, [0.07, 0.04, 0.89], size=200_000) @ [1, -1, 0] / 1000
    assert found.ci95 == pytest.approx(np.percentile(totals, [2.5, 97.5]), abs=1.01e-3)
    assert found.ci90 == pytest.approx(np.percentile(totals, [5, 95]), abs=1.01e-3)


def test_binary_interval_does_not_jump_where_the_bootstrap_takes_over():
    below, above = (flips(n, 20, 20) for n in (BOOTSTRAP_FROM - 1, BOOTSTRAP_FROM))
    assert width(above.ci95) == pytest.approx(width(below.ci95), rel=0.08)


def test_other_scores_get_students_t_where_they_are_not_skewed():
    rng = np.random.default_rng(0)
    base = -rng.gamma(2.0, size=20)
    half_of_them = rng.normal(0, 0.3, size=10)
    changes = 0.1 + np.concatenate([half_of_them, -half_of_them])
    found = measure(base, base + changes, [str(i) for i in range(20)])
    half = 2.0930 * changes.std(ddof=1) / math.sqrt(20)
    assert found.ci95 == pytest.approx((changes.mean() - half, changes.mean() + half), abs=1e-4)
    assert found.mcnemar_p is None
    assert not found.bounded


def test_skewed_scores_reach_farther_on_the_side_of_the_tail():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        changes = rng.lognormal(size=30)
        found = measure(np.zeros(30), changes, [str(i) for i in range(30)])
        low, high = found.difference - found.ci95[0], found.ci95[1] - found.difference
        assert high >= low * (1 - 1e-9)  # Student's t at least on both sides, more above
        covered += found.ci95[0] <= math.exp(0.5) <= found.ci95[1]
    assert covered / 400 > 0.905  # Student's t alone: 0.88


def test_the_wider_of_the_intervals_by_item_and_by_cluster_counts():
    changes = [1] * 10 + [0] * 80 + [-1] * 10
    base, tuned = [float(c < 0) for c in changes], [float(c > 0) for c in changes]
    alone = measure(base, tuned, [str(i) for i in range(100)])
    together = measure(base, tuned, [str(i // 10) for i in range(100)])  # flips share a cluster
    spread = measure(base, tuned, [str(i % 10) for i in range(100)])  # each cluster has one flip each way
    assert width(together.ci95) > 2 * width(alone.ci95)
    assert together.design_effect == pytest.approx(10 * 10 / 9, rel=0.01)
    assert spread.ci95 == alone.ci95
    assert (alone.clusters, together.clusters) == (100, 10)


def test_cluster_bootstrap_agrees_with_t_over_many_clusters():
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.normal(0, 0.3, 600), 3)
    base = rng.normal(-3, 1, 1800)
    tuned = base + shared + rng.normal(0, 0.1, 1800)
    found = measure(base, tuned, [str(i // 3) for i in range(1800)])
    sums = (tuned - base - found.difference).reshape(600, 3).sum(1)
    half = 1.96 * math.sqrt((sums**2).sum()) / 1800
    assert width(found.ci95) == pytest.approx(2 * half, rel=0.03)
    assert width(found.ci95) > 1.6 * width(measure(base, tuned, [str(i) for i in range(1800)]).ci95)


@pytest.mark.parametrize(
    ("base", "tuned", "clusters"),
    [
        ([0.0], [0.0], ["a"]),
        ([0.0], [1.0], ["a"]),
        ([-3.0], [-2.0], ["a"]),
        ([0.3, 0.3], [0.8, 0.8], ["a", "b"]),
        ([0.0] * 40, [1.0] * 40, [str(i) for i in range(40)]),
        ([0.0] * 400, [1.0] * 400, [str(i) for i in range(400)]),
        ([-3.1] * 40, [-3.1] * 40, [str(i) for i in range(40)]),
        ([-3.1, -0.7] * 200, [-3.0, -0.6] * 200, [str(i) for i in range(400)]),
        ([0.0, 1.0] * 50, [1.0, 0.0] * 50, ["one"] * 100),
        ([-1.0, -2.0] * 50, [-2.0, -1.5] * 50, ["one"] * 100),
        ([0.0, 1.0, 0.5], [0.5, 1.0, 0.5], ["a", "a", "b"]),
    ],
)
def test_little_evidence_gives_a_finite_and_wide_interval(base, tuned, clusters):
    found = measure(base, tuned, clusters)
    for interval in (found.ci95, found.ci90):
        json.dumps(interval, allow_nan=False)
        assert interval[0] <= found.difference <= interval[1]
        assert interval[0] <= 0 or len(set(clusters)) > 1
        assert width(interval) > 1.4 / len(set(clusters))
    assert width(found.ci95) >= width(found.ci90)


def test_identical_outputs_of_a_few_items_do_not_prove_that_nothing_changed():
    assert flips(30, 0, 0).ci90[0] < -0.02
    assert flips(200, 0, 0).ci90[0] > -0.02


def test_n_needed_is_what_power_of_four_fifths_takes_and_some():
    # 2.487 ** 2 x flips / margin ** 2 = 1,546 is the textbook's; the unchanged models called `gained` come on top
    known = flips(1000, 50, 50)
    assert 1546 < items_needed(known, 0.02, 0.1) < 1.18 * 1546
    assert 1546 < items_needed(known, 0.02, guess_variance(known)) < 1.19 * 1546
    assert items_needed(known, 0.01, 0.1) == pytest.approx(4 * items_needed(known, 0.02, 0.1), rel=0.01)


def test_n_needed_grows_with_clustering_and_is_not_said_where_it_cannot_be():
    changes = np.repeat([1, 0, 0, 0, 0, 0, 0, 0, 0, -1], 10)
    base, tuned = (changes < 0).astype(float), (changes > 0).astype(float)
    alone = measure(base, tuned, [str(i) for i in range(100)])
    together = measure(base, tuned, [str(i // 10) for i in range(100)])
    assert items_needed(together, 0.02, 0.2) > 8 * items_needed(alone, 0.02, 0.2)
    assert items_needed(alone, 0.0, 0.2) is None
    assert items_needed(alone, 1e-9, 0.2) is None


def test_n_needed_without_flips_is_an_upper_guess():
    found = flips(30, 0, 0)
    needed = items_needed(found, 0.02, guess_variance(found))
    assert items_needed(found, 0.02, 0.02) < needed < items_needed(found, 0.02, 0.1)


@pytest.mark.parametrize(
    ("n", "flipped"), [(30, 0.02), (30, 0.1), (30, 0.3), (100, 0.02), (100, 0.1), (300, 0.02), (300, 0.05)]
)
def test_coverage_and_wrong_verdicts_meet_their_bars(coverage, n, flipped):
    for share in coverage.SHARES:
        line = coverage.check_cell(n, flipped, share)
        assert not line.missed, line.text


def test_an_unchanged_model_is_kept_at_the_n_named(coverage):
    rng = np.random.default_rng(4)
    known = [coverage.check_rate(*case) for case in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.05))]
    for line in (*known, coverage.check_needed(100, 0.1, 300, rng)):
        assert not line.missed, line.text


def test_the_coverage_benchmark_notices_an_interval_that_is_too_narrow(coverage, monkeypatch):
    monkeypatch.setattr("actune.evals.statistics.ADDED_FLIPS", 0.0)
    coverage.measure_counts.cache_clear()
    assert "gained" in coverage.check_cell(30, 0.3, 0.5).missed
    coverage.measure_counts.cache_clear()
