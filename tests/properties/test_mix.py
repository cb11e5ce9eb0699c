"""Mixing: exact counts, no repetition while rows last, nothing lost, the same for the same seed."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from actune.core.types import Conversation, Message, Source
from actune.data.mix import draw, draw_weighted, interleave, mix, plan_mix, plan_validation, split_validation
from actune.data.pack import order, steps

COUNTS = st.integers(0, 60)
SEEDS = st.integers(0, 2**32 - 1)
RATIOS = st.one_of(st.just(0.0), st.floats(0.01, 8.0), st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 3.0]))


def rows_of(count, dataset):
    return tuple(
        Conversation(
            messages=(Message(role="user", content=str(n)), Message(role="assistant", content="ok")),
            source=Source(file=f"{dataset}.jsonl", line=n + 1, dataset=dataset),
        )
        for n in range(count)
    )


def count_lines(rows):
    return Counter((row.source.dataset, row.source.line) for row in rows)


@given(rows=COUNTS, ratio=st.floats(0, 1), seed=SEEDS)
def test_validation_is_disjoint_complete_and_ordered(rows, ratio, seed):
    everything = rows_of(rows, "agent")
    train, validation = split_validation(everything, ratio=ratio, seed=seed)
    assert count_lines(train) + count_lines(validation) == count_lines(everything)
    assert not set(count_lines(train)) & set(count_lines(validation))
    for part in (train, validation):
        lines = [row.source.line for row in part]
        assert lines == sorted(lines)
    assert len(validation) == plan_validation(rows, ratio=ratio).count
    assert bool(validation) == (ratio > 0 and rows > 1)
    assert (train, validation) == split_validation(everything, ratio=ratio, seed=seed)


@given(rows=st.integers(1, 40), count=st.integers(0, 150), seed=SEEDS)
def test_draw_uses_rows_evenly(rows, count, seed):
    everything = rows_of(rows, "general")
    drawn = draw(everything, count, seed)
    assert len(drawn) == count
    times = count_lines(drawn)
    assert all(count // rows <= times[key] <= -(-count // rows) for key in count_lines(everything))
    # Whole passes first: every full window of the drawn rows is the whole source.
    for start in range(0, count - rows + 1, rows):
        assert count_lines(drawn[start : start + rows]) == count_lines(everything)
    assert drawn == draw(everything, count, seed)


@given(agent=COUNTS, general=st.integers(1, 60), sample=st.integers(-1, 200), ratio=RATIOS)
def test_plan_counts_are_exact(agent, general, sample, ratio):
    plan = plan_mix(agent, general, sample=sample, ratio=ratio)
    assert 0 <= plan.agent <= agent
    assert plan.general >= 0
    exhausted = any("agent rows" in notice for notice in plan.notices)
    if sample >= 0 and not exhausted:
        assert plan.agent + plan.general == sample
    if sample == -1 or exhausted:
        assert plan.agent == agent
    if exhausted:
        assert plan.agent + plan.general < sample + 1
    assert abs(plan.general - ratio * plan.agent) <= max(0.5, ratio) + 1
    assert any("general rows are wanted" in notice for notice in plan.notices) == (plan.general > general)
    if ratio == 0:
        assert plan.general == 0


@given(agent=COUNTS, general=st.integers(1, 60), identity=st.integers(0, 20), sample=st.integers(-1, 120),
       ratio=RATIOS, seed=SEEDS)  # fmt: skip
def test_mix_is_the_planned_multiset_in_seeded_order(agent, general, identity, sample, ratio, seed):
    sources = rows_of(agent, "agent"), rows_of(general, "general"), rows_of(identity, "identity")
    plan = plan_mix(agent, general, sample=sample, ratio=ratio)
    mixed = mix(*sources, plan, seed)
    times = count_lines(mixed)
    by_kind = Counter(row.source.dataset for row in mixed)
    assert by_kind == +Counter(agent=plan.agent, general=plan.general, identity=identity)
    assert all(times["agent", line] <= 1 for line in range(1, agent + 1))
    assert all(times["general", line] <= -(-plan.general // general) for line in range(1, general + 1))
    assert all(times["identity", line] == 1 for line in range(1, identity + 1))
    assert mixed == mix(*sources, plan, seed)


@given(rows=st.integers(40, 60), seed=SEEDS, other=SEEDS)
def test_another_seed_gives_another_order(rows, seed, other):
    if seed != other:
        everything = rows_of(rows, "agent")
        plan = plan_mix(rows, 0, sample=-1, ratio=0.0)
        assert mix(everything, (), (), plan, seed) != mix(everything, (), (), plan, other)


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(min_value=0, max_value=400), min_size=1, max_size=6))
def test_interleaving_keeps_every_share_in_every_window(counts):
    places = interleave(counts)
    total = sum(counts)
    assert [places.count(part) for part in range(len(counts))] == counts
    placed = [0] * len(counts)
    for turn, part in enumerate(places, 1):
        placed[part] += 1
        for one, count in enumerate(counts):
            assert abs(placed[one] * total - turn * count) < total
    for size in range(1, total + 1):  # windows in which all shares are whole rows have exactly these
        if all(size * count % total == 0 for count in counts):
            for start in range(0, total - size + 1, size):
                window = places[start : start + size]
                assert all(window.count(one) * total == size * count for one, count in enumerate(counts))


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(min_value=1, max_value=5), min_size=2, max_size=4),
    rows=st.integers(min_value=1, max_value=90),
    epoch=st.integers(min_value=0, max_value=3),
)
def test_an_interleaved_epoch_has_every_row_once(sizes, rows, epoch):
    labels = [str(number % len(sizes)) for number in range(rows)]
    plan = steps(rows=rows, size=sizes[0], epochs=4, seed=1, labels=labels)
    shuffled = order(rows, epoch, 1, plan.groups)
    assert sorted(shuffled.tolist()) == list(range(rows))
    counts = [labels.count(str(one)) for one in range(len(sizes))]
    groups = [int(labels[row]) for row in shuffled]
    for turn in range(1, rows + 1):
        for one, count in enumerate(counts):
            assert abs(groups[:turn].count(one) * rows - turn * count) < rows


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=4),
    weights=st.lists(st.fractions(min_value="1/9", max_value=4, max_denominator=9), min_size=4, max_size=4),
    seed=st.integers(min_value=0, max_value=99),
)
def test_weighted_draws_keep_shares_and_repeat_evenly(counts, weights, seed):
    parts = [[(part, row) for row in range(count)] for part, count in enumerate(counts)]
    stream = draw_weighted(parts, weights[: len(parts)], seed, purpose="test")
    drawn = list(itertools.islice(stream, 60))
    total = sum(weights[: len(parts)])
    for size in range(1, 61):
        for part, weight in enumerate(weights[: len(parts)]):
            assert abs(sum(one == part for one, _ in drawn[:size]) - size * weight / total) < 1
    for rows in parts:
        times = [drawn.count(row) for row in rows]
        assert max(times) - min(times) <= 1
