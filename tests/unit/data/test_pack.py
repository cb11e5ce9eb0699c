from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.core.types import Source
from actune.data.pack import order, pack, plan_step, steps, trim, unroll
from actune.render.tree import TokenTree


def build(parents: list[int], targets: list[tuple[int, int, float]], ids: list[int] | None = None) -> TokenTree:
    """A tree from depth-first parents (-1: root)."""
    count = len(parents)
    positions, end = [0] * count, [0] * count
    for token in reversed(range(count)):
        end[token] = max([token + 1] + [end[child] for child in range(token + 1, count) if parents[child] == token])
    for token, parent in enumerate(parents):
        positions[token] = 0 if parent < 0 else positions[parent] + 1
    return TokenTree(
        input_ids=np.array(ids if ids is not None else range(count), np.int32),
        positions=np.array(positions, np.int32),
        end=np.array(end, np.int32),
        target_positions=np.array([p for p, _, _ in targets], np.int32),
        target_ids=np.array([i for _, i, _ in targets], np.int32),
        target_weights=np.array([w for _, _, w in targets], np.float32),
        source=Source(file="made", line=1),
    )


@st.composite
def trees(draw) -> TokenTree:
    parents = [-1]
    for token in range(1, draw(st.integers(1, 14))):
        # Depth first: the parent is the last token or one of its ancestors.
        ancestors, place = [], token - 1
        while place >= 0:
            ancestors.append(place)
            place = parents[place]
        parents.append(draw(st.sampled_from(ancestors)))
    target = st.tuples(st.integers(0, len(parents) - 1), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
    ids = draw(st.lists(st.integers(0, 99), min_size=len(parents), max_size=len(parents)))
    return build(parents, draw(st.lists(target, max_size=8)), ids)


def contexts(tree) -> Counter:
    """Every target as (tokens it sees with their depths, id, weight): what training depends on."""
    found = Counter()
    for p, i, w in zip(tree.target_positions, tree.target_ids, tree.target_weights, strict=True):
        seen = [k for k in range(int(p) + 1) if p < tree.end[k]]
        if w > 0:
            found[tuple((int(tree.input_ids[k]), int(tree.positions[k])) for k in seen), int(i), float(w)] += 1
    return found


@given(trees())
def test_trim_keeps_what_every_target_sees_and_nothing_without_a_target(tree):
    small = trim(tree)
    assert contexts(small) == contexts(tree)
    for k in range(len(small)):
        assert ((small.target_positions >= k) & (small.target_positions < small.end[k])).any()


@given(st.lists(trees(), max_size=4))
def test_pack_keeps_what_every_target_sees(rows):
    batch = pack(rows)
    assert contexts(batch) == sum((contexts(row) for row in rows), Counter())
    assert [start for start, _ in batch.spans] == [0, *(stop for _, stop in batch.spans)][: len(batch.spans)]
    assert len(batch) == (batch.spans[-1][1] if batch.spans else 0)
    for start, stop in batch.spans:
        assert batch.end[start:stop].max() == stop


@given(trees())
def test_unroll_gives_each_target_once_in_plain_sequences(tree):
    lines = unroll(tree)
    assert sum((contexts(line) for line in lines), Counter()) == contexts(tree)
    for line in lines:
        assert not line.has_branches
        assert line.positions.tolist() == list(range(len(line)))
        assert line.target_positions.max() == len(line) - 1


def test_trim_drops_the_tail_and_a_branch_without_targets():
    tree = build([-1, 0, 1, 2, 1, 4], [(4, 9, 1.0)])
    small = trim(tree)
    assert small.input_ids.tolist() == [0, 1, 4]
    assert small.end.tolist() == [3, 3, 3]
    assert small.target_positions.tolist() == [2]
    assert not small.has_branches


@given(
    st.lists(st.integers(0, 50), max_size=40),
    st.integers(1, 5),
    st.integers(1, 60),
)
def test_plan_step_deals_every_row_once_within_the_budget(costs, ranks, budget):
    plan = plan_step(costs, ranks=ranks, budget=budget)
    assert len(plan) == ranks
    assert sorted(row for rank in plan for batch in rank for row in batch) == list(range(len(costs)))
    for batch in (batch for rank in plan for batch in rank):
        assert len(batch) == 1 or sum(costs[row] for row in batch) <= budget
    loads = [sum(costs[row] for batch in rank for row in batch) for rank in plan]
    assert max(loads) - min(loads) <= max(costs, default=0)


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 12), st.floats(0.1, 4), st.integers(0, 3))
def test_steps_follow_the_shuffled_stream_without_gaps(rows, size, epochs, seed):
    plan = steps(rows=rows, size=size, epochs=epochs, seed=seed)
    stream = [row for step in range(plan.steps) for row in plan.step(step)]
    assert len(stream) == plan.total
    assert len(plan.step(plan.steps - 1)) == plan.last_size
    assert all(len(plan.step(step)) == size for step in range(plan.steps - 1))
    expected = [row for epoch in range(plan.total // rows + 1) for row in order(rows, epoch, seed).tolist()]
    assert stream == expected[: plan.total]


def test_epochs_are_permutations_that_differ_by_epoch_and_seed():
    first, second, other = order(20, 0, 1), order(20, 1, 1), order(20, 0, 2)
    assert sorted(first.tolist()) == list(range(20))
    assert first.tolist() != second.tolist() != other.tolist() != first.tolist()


@pytest.mark.parametrize(
    ("epochs", "max_steps", "total", "count"), [(0.5, -1, 5, 2), (2, -1, 20, 5), (1, 7, 28, 7), (0.3, 0, 3, 1)]
)
def test_total_rows(epochs, max_steps, total, count):
    plan = steps(rows=10, size=4, epochs=epochs, max_steps=max_steps, seed=0)
    assert (plan.total, plan.steps) == (total, count)
