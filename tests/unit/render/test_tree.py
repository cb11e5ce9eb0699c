from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actune.core.types import Source
from actune.render.tree import TokenTree, TrainingSequence, build_tree

SOURCE = Source(file="x.jsonl", line=1)


def contexts(tree: TokenTree) -> dict[tuple[tuple[int, ...], int], float]:
    """What a tree trains: {(visible tokens up to p, target): weight}."""
    trained: dict[tuple[tuple[int, ...], int], float] = {}
    for p, token, weight in zip(tree.target_positions, tree.target_ids, tree.target_weights, strict=True):
        seen = [k for k in range(p + 1) if p < tree.end[k]]
        assert tree.positions[p] == len(seen) - 1
        key = (tuple(int(tree.input_ids[k]) for k in seen), int(token))
        assert key not in trained
        trained[key] = float(weight)
    return trained


@st.composite
def sequence_sets(draw: st.DrawFn) -> list[TrainingSequence]:
    """Sequences that share prefixes often: few symbols, some built from others."""
    result: list[TrainingSequence] = []
    for _ in range(draw(st.integers(1, 5))):
        base: list[int] = []
        if result and draw(st.booleans()):
            other = list(draw(st.sampled_from(result)).ids)
            base = other[: draw(st.integers(1, len(other)))]
        ids = base + draw(st.lists(st.integers(0, 2), min_size=2 if not base else 1, max_size=8))
        start = draw(st.integers(1, len(ids) - 1)) if len(ids) > 1 else 1
        weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids) - start, max_size=len(ids) - start))
        result.append(TrainingSequence(ids=ids, start=start, weights=weights))
    return result


@given(sequence_sets())
def test_tree_trains_exactly_what_the_plain_sequences_train(sequences: list[TrainingSequence]):
    want: dict[tuple[tuple[int, ...], int], float] = {}
    for sequence in sequences:
        for offset, weight in enumerate(sequence.weights):
            if weight:
                index = sequence.start + offset
                key = (tuple(sequence.ids[:index]), sequence.ids[index])
                want[key] = want.get(key, 0.0) + weight
    assert contexts(build_tree(sequences, SOURCE)) == want


@given(sequence_sets())
def test_tree_holds_each_prefix_once(sequences: list[TrainingSequence]):
    tree = build_tree(sequences, SOURCE)
    prefixes = {tuple(s.ids[: i + 1]) for s in sequences for i in range(len(s.ids))}
    assert len(tree) == len(prefixes)
    assert tree.has_branches == (max(len(s.ids) for s in sequences) < len(prefixes))


def test_history_that_is_kept_makes_one_line():
    sequences = [
        TrainingSequence(ids=[1, 2, 3, 4], start=2, weights=[1.0, 1.0]),
        TrainingSequence(ids=[1, 2, 3, 4, 5, 6], start=5, weights=[1.0]),
    ]
    tree = build_tree(sequences, SOURCE)
    assert tree.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert tree.end.tolist() == [6] * 6
    assert list(zip(tree.target_positions, tree.target_ids, strict=True)) == [(1, 3), (2, 4), (4, 6)]
    assert not tree.has_branches


def test_rewritten_history_makes_a_branch():
    sequences = [
        TrainingSequence(ids=[1, 2, 9, 3], start=2, weights=[1.0, 1.0]),
        TrainingSequence(ids=[1, 2, 3, 4, 5], start=4, weights=[1.0]),
    ]
    tree = build_tree(sequences, SOURCE)
    assert tree.input_ids.tolist() == [1, 2, 9, 3, 3, 4, 5]
    assert tree.positions.tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert tree.end.tolist() == [7, 7, 4, 4, 7, 7, 7]
    assert tree.has_branches
