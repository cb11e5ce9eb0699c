"""What holds of any comparison: the order of lines is nothing, and swapping the files mirrors every interval."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actune.evals.compare import compare_scores
from actune.evals.items import Score
from actune.evals.statistics import measure

LIKELIHOODS = st.floats(min_value=-50, max_value=0, allow_subnormal=False)
KINDS = (st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.25, 0.5, 2 / 3, 1.0]), LIKELIHOODS)


@st.composite
def pairs(draw):
    kind = draw(st.sampled_from(KINDS))
    count = draw(st.integers(min_value=1, max_value=60))
    groups = draw(st.integers(min_value=1, max_value=count))
    values = draw(st.lists(st.tuples(kind, kind), min_size=count, max_size=count))
    return [(before, after, str(place % groups)) for place, (before, after) in enumerate(values)]


@st.composite
def many_pairs(draw):
    seed, count = draw(st.integers(min_value=0, max_value=10**6)), draw(st.integers(min_value=300, max_value=900))
    rng, unit = random.Random(seed), draw(st.sampled_from([1, 2, 3]))
    spread = draw(st.sampled_from([None, 0.5]))
    made = []
    for place in range(count):
        before = float(rng.random() < 0.5) if spread is None else -rng.gammavariate(2, 1)
        after = (1 - before if rng.random() < 0.1 else before) if spread is None else before + rng.gauss(0, spread)
        made.append((before, after, str(place // unit)))
    return made


def scores(made, side):
    return [
        Score(
            id=str(place),
            task="task",
            axis="agent",
            split="held-in" if place % 2 else "held-out",
            cluster=one[2],
            metric="strict_call",
            score=one[side],
            output=None,
            gold=None,
        )
        for place, one in enumerate(made)
    ]


@settings(max_examples=25, deadline=None)
@given(made=st.one_of(pairs(), many_pairs()), seed=st.integers(min_value=0, max_value=99))
def test_the_order_of_lines_does_not_matter(made, seed):
    base, tuned = scores(made, 0), scores(made, 1)
    expected = json.dumps(compare_scores(base, tuned).to_json(), allow_nan=False)
    random.Random(seed).shuffle(base)
    random.Random(seed + 1).shuffle(tuned)
    assert json.dumps(compare_scores(base, tuned).to_json()) == expected


@settings(max_examples=40, deadline=None)
@given(made=st.one_of(pairs(), many_pairs()))
def test_swapping_the_files_mirrors_the_interval(made):
    before, after, clusters = zip(*made, strict=True)
    there, back = measure(before, after, clusters), measure(after, before, clusters)
    assert there.difference == -back.difference
    assert there.ci95 == (-back.ci95[1], -back.ci95[0])
    assert there.ci90 == (-back.ci90[1], -back.ci90[0])
    assert (there.fixed, there.broken, there.mcnemar_p) == (back.broken, back.fixed, back.mcnemar_p)


@settings(max_examples=40, deadline=None)
@given(made=st.one_of(pairs(), many_pairs()))
@example(made=[(0.0, 0.0, "0"), (0.0, 0.0, "0"), (-5.0, -8.0, "0")])
@example(made=[(0.0, 0.0, "0"), (0.0, 0.0, "0"), (-8.0, -5.0, "0")])
def test_intervals_are_nested_and_hold_the_difference(made):
    before, after, clusters = zip(*made, strict=True)
    found = measure(before, after, clusters)
    slack = 1e-9
    assert found.ci95[0] <= found.ci90[0] + slack
    assert found.ci90[1] <= found.ci95[1] + slack
    assert found.ci90[0] - slack <= found.difference <= found.ci90[1] + slack
    assert found.difference == pytest.approx(found.tuned - found.base, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(made=pairs())
def test_clusters_never_narrow_the_interval(made):
    before, after, clusters = zip(*made, strict=True)
    alone = measure(before, after, [str(place) for place in range(len(made))])
    shared = measure(before, after, clusters)
    assert shared.ci95[1] - shared.ci95[0] >= alone.ci95[1] - alone.ci95[0] - 1e-12
