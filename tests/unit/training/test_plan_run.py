"""Which rows the steps of a run take: packs over the whole run, sources in turn."""

from __future__ import annotations

import numpy as np
import pytest

from actune.config.settings import Settings
from actune.core.types import Source
from actune.render.tree import TokenTree
from actune.training.dealing import plan_run


def tree(size: int, dataset: str) -> TokenTree:
    return TokenTree(
        input_ids=np.arange(size, dtype=np.int32),
        positions=np.arange(size, dtype=np.int32),
        end=np.full(size, size, np.int32),
        target_positions=np.array([size - 2], np.int32),
        target_ids=np.array([size - 1], np.int32),
        target_weights=np.ones(1, np.float32),
        source=Source(file="f", line=1, dataset=dataset),
    )


def settings(**training: object) -> Settings:
    given = {"batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, **training}
    return Settings.model_validate({"model": {"model_id_or_path": "m"}, "data": {"max_length": 32}, "training": given})


def test_a_step_of_packs_takes_whole_packs():
    trees = [tree(3 + n % 20, "a") for n in range(100)]
    plan = plan_run(settings(packing="global"), rows=100, ranks=1, trees=trees)
    assert plan.unit == "packs"
    assert plan.packs is not None
    assert all(sum(len(trees[row]) - 1 for row in pack) <= 32 for pack in plan.packs)
    per_epoch = len(plan.packs)
    assert plan.steps == -(-2 * per_epoch // 4)
    stream = [row for step in range(plan.steps) for row in plan.step(step)]
    assert sorted(stream) == sorted([*range(100)] * 2)
    first = plan.step(0)
    assert [pack for pack in plan.packs if set(pack) <= set(first)]
    assert len(first) > 4


def test_without_global_packing_a_step_takes_rows():
    trees = [tree(5, "a") for _ in range(20)]
    plan = plan_run(settings(), rows=20, ranks=1, trees=trees)
    assert (plan.unit, len(plan.step(0))) == ("rows", 4)
    assert plan.step(0) == plan_run(settings(), rows=20, ranks=1).step(0)


@pytest.mark.parametrize("epochs", [1, 3])
def test_interleaved_steps_hold_each_source_in_its_share(epochs: int):
    labels = ["agent"] * 10 + ["general"] * 20 + ["identity"] * 10
    trees = [tree(5, label) for label in labels]
    plan = plan_run(settings(row_order="interleaved", num_train_epochs=epochs), rows=40, ranks=1, trees=trees)
    orders = set()
    for epoch in range(epochs):
        rows = []
        for step in range(epoch * 10, epoch * 10 + 10):
            taken = plan.step(step)
            assert sorted(labels[row] for row in taken) == ["agent", "general", "general", "identity"]
            rows += taken
        assert sorted(rows) == list(range(40))
        orders.add(tuple(rows))
    assert len(orders) == epochs
