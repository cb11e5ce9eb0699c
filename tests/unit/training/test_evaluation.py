"""Losses of held-back rows: of each source, and as a whole."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from actune.core.errors import TrainingError
from actune.core.types import Source
from actune.modeling.isolation import prepare_packing
from actune.training.dealing import Dealer
from actune.training.evaluation import Evaluator, group_rows
from actune.training.ranks import Ranks
from actune.training.step import TrainStep


def named(tree, dataset):
    return replace(tree, source=Source(file=dataset, line=tree.source.line, dataset=dataset))


def build_evaluator(model, validation, held_out, *, packed=True):
    return Evaluator(
        step_module=TrainStep(model),
        dealer=Dealer(ranks=1, packed=packed, share=True),
        ranks=Ranks(),
        packed=packed,
        groups=group_rows(validation, held_out),
    )


def no_cut(shortage, budget):
    raise AssertionError


def plain_loss(model, trees):
    """Loss of lines by the model's own forward pass, one after the other."""
    loss = weight = 0.0
    for tree in trees:
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(tree.input_ids).long()[None], use_cache=False).logits[0]
        scores = logits.log_softmax(-1)[tree.target_positions.tolist(), tree.target_ids.tolist()]
        loss -= float(scores @ torch.from_numpy(tree.target_weights))
        weight += float(tree.target_weights.sum())
    return loss / weight


def test_each_source_has_its_own_loss_and_only_validation_rows_make_the_whole(kit):
    plain, model = kit.build_model(), kit.build_model()
    assert prepare_packing(model) is None
    one = [named(kit.build_line(12, seed=seed), "/data/one.jsonl") for seed in range(3)]
    two = [named(kit.build_line(9, seed=seed), "two") for seed in range(3, 5)]
    general = [named(kit.build_line(15, seed=seed), "ms-bench") for seed in range(5, 8)]
    # Rows of a validated source that are evaluated besides count for it alone.
    more = [named(kit.build_line(7, seed=8), "two")]
    evaluator = build_evaluator(model, [one[0], two[0], *one[1:], two[1]], [*general, *more])
    model.train()
    found = evaluator.measure(budget=30, cut=no_cut)
    assert model.training
    assert found.notices == ()
    assert list(found.values) == ["loss", "loss/one.jsonl", "loss/two", "loss/ms-bench"]
    wanted = {
        "loss": [*one, *two],
        "loss/one.jsonl": one,
        "loss/two": [*two, *more],
        "loss/ms-bench": general,
    }
    for name, trees in wanted.items():
        assert found.values[name] == pytest.approx(plain_loss(plain, trees), rel=1e-5)


def test_what_has_no_loss_is_said_and_not_there(kit):
    model = kit.build_model()
    assert prepare_packing(model) is None
    tree = kit.build_line(9, seed=1)
    odd = replace(tree, target_weights=np.full_like(tree.target_weights, np.inf))
    blank = replace(tree, target_weights=np.zeros_like(tree.target_weights))
    held_out = [named(tree, "sound"), named(blank, "blank")]
    found = build_evaluator(model, [named(odd, "odd")], held_out).measure(budget=30, cut=no_cut)
    assert list(found.values) == ["loss/sound"]
    assert math.isfinite(found.values["loss/sound"])
    text = " ".join(found.notices)
    assert "no loss/blank" in text
    assert "the evaluation loss is no finite number" in text


def test_sources_of_one_name_in_different_folders_stay_apart(kit):
    rows = [named(kit.build_line(9, seed=1), name) for name in ("a/rows.jsonl", "b/rows.jsonl", "a/rows.jsonl")]
    assert [(group.name, len(group.trees)) for group in group_rows(rows, ())] == [
        ("a/rows.jsonl", 2),
        ("b/rows.jsonl", 1),
    ]


def test_no_memory_while_others_wait_ends_the_run(kit, monkeypatch):
    model = kit.build_model()
    evaluator = build_evaluator(model, [kit.build_line(12, seed=1)], [], packed=False)
    evaluator = replace(evaluator, dealer=replace(evaluator.dealer, even=True))

    def fail(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TrainStep, "forward", fail)
    with pytest.raises(TrainingError, match="the evaluation: a forward pass does not fit the memory"):
        evaluator.measure(budget=100, cut=no_cut)
