"""Token trees as runs, against plain sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actune.core.types import Source
from actune.data.inspect.tree_runs import find_runs, follow, tree_weights
from actune.render.tree import TrainingSequence, build_tree

SOURCE = Source(file="rows.jsonl", line=1)
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=7).flatmap(
        lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids)) if len(ids) > 1 else st.just(1))
    ),
    min_size=1,
    max_size=5,
)


@given(SEQUENCES, st.sampled_from([1.0, 0.5, 2.0]))
def test_a_sequence_is_the_runs_it_goes_through_with_its_weights(sequences, weight):
    tree = build_tree(
        [TrainingSequence(ids=ids, start=start, weights=[weight] * (len(ids) - start)) for ids, start in sequences],
        SOURCE,
    )
    runs, weights = find_runs(tree), tree_weights(tree)
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(tree)))
    assert sum(weights) == sum(tree.target_weights)
    expected: dict[tuple[int, ...], float] = {}
    for ids, start in sequences:
        for end in range(start, len(ids)):
            expected[tuple(ids[: end + 1])] = expected.get(tuple(ids[: end + 1]), 0) + weight
    for ids, _ in sequences:
        path = follow(tree, runs, ids)
        places = [place for run in path for place in range(runs[run].start, runs[run].stop)][: len(ids)]
        assert tree.input_ids[places].tolist() == ids
        assert [int(tree.positions[place]) for place in places] == list(range(len(ids)))
        assert weights[places].tolist() == [expected.get(tuple(ids[: end + 1]), 0) for end in range(len(ids))]
        assert [runs[after].after for after in path] == [-1, *path[:-1]]


def test_a_row_without_branches_is_one_run():
    tree = build_tree([TrainingSequence(ids=[4, 5, 6], start=1, weights=[1, 1])], SOURCE)
    (run,) = find_runs(tree)
    assert (run.start, run.stop, run.depth, run.after) == (0, 3, 0, -1)
