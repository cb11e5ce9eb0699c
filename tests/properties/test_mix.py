"""Mixing: exact counts, no repetition while rows last, nothing lost, the same for the same seed."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actune.core.types import Conversation, Message, Source
from actune.data.mix import draw, mix, plan_mix, plan_validation, split_validation

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
