from __future__ import annotations

from collections import Counter
from dataclasses import replace

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


def line(ids: list[int]) -> TokenTree:
    """Tokens one after the other, with a target at each."""
    return build(list(range(-1, len(ids) - 1)), [(place, 5, 1.0) for place in range(len(ids))], ids)


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


@st.composite
def similar_trees(draw) -> list[TokenTree]:
    """Trees of which many begin alike: few different tokens."""
    rows = draw(st.lists(trees(), max_size=5))
    return [replace(row, input_ids=(row.input_ids % draw(st.sampled_from([1, 2, 3]))).astype(np.int32)) for row in rows]


@given(st.one_of(st.lists(trees(), max_size=4), similar_trees()), st.booleans())
def test_pack_keeps_what_every_target_sees(rows, share):
    batch = pack(rows, share=share)
    assert contexts(batch) == sum((contexts(row) for row in rows), Counter())
    assert [start for start, _ in batch.spans] == [0, *(stop for _, stop in batch.spans)][: len(batch.spans)]
    assert len(batch) == (batch.spans[-1][1] if batch.spans else 0)
    for start, stop in batch.spans:
        assert batch.end[start:stop].max() == stop


def test_shared_tokens_are_laid_out_once():
    one, two, other = line([1, 2, 3, 4]), line([1, 2, 5, 6, 7]), line([9, 1])
    branching = build([-1, 0, 1, 1], [(1, 6, 1.0), (2, 8, 1.0), (3, 8, 1.0)], [1, 2, 3, 8])
    batch = pack([one, other, two, branching], share=True)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 3, 8, 5, 6, 7, 9, 1]
    assert batch.end.tolist() == [9, 9, 4, 4, 5, 6, 9, 9, 9, 11, 11]
    assert batch.spans == ((0, 9), (9, 11))
    assert batch.branches
    assert len(pack([one, other, two, branching])) == 4 + 2 + 5 + 4
    twice = pack([one, one], share=True)
    assert (len(twice), twice.branches, len(twice.target_ids)) == (4, True, 8)


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
    plan = plan_step([line([7] * cost) for cost in costs], ranks=ranks, budget=budget)
    assert len(plan) == ranks
    assert sorted(row for rank in plan for batch in rank for row in batch) == list(range(len(costs)))
    for batch in (batch for rank in plan for batch in rank):
        assert len(batch) == 1 or sum(costs[row] for row in batch) <= budget
    loads = [sum(costs[row] for batch in rank for row in batch) for rank in plan]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_rows_that_begin_alike_stay_together():
    head, foot = list(range(100, 150)), [1] * 10
    rows = [line([*(head if number % 2 else head[::-1]), number, *foot]) for number in range(8)]
    plan = plan_step(rows, ranks=1, budget=50 + 4 * 11, share=True)
    assert [sorted(batch) for batch in plan[0]] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert all(len(pack([rows[row] for row in batch], share=True)) == 94 for batch in plan[0])
    # Two processes get a share each; what does not fit a micro-batch goes into the next.
    plan = plan_step(rows, ranks=2, budget=80, share=True)
    assert sorted(row for rank in plan for batch in rank for row in batch) == list(range(8))
    for batch in (batch for rank in plan for batch in rank):
        assert len(pack([rows[row] for row in batch], share=True)) <= 80


@given(similar_trees(), st.integers(1, 3), st.integers(1, 40))
def test_plan_step_with_sharing_deals_every_row_once(rows, ranks, budget):
    rows = [trim(row) for row in rows]
    plan = plan_step(rows, ranks=ranks, budget=budget, share=True)
    assert sorted(row for rank in plan for batch in rank for row in batch) == list(range(len(rows)))
    for batch in (batch for rank in plan for batch in rank):
        assert len(batch) == 1 or len(pack([rows[row] for row in batch], share=True)) <= budget


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
