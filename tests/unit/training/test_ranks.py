from __future__ import annotations

import pytest
import torch
from torch import nn

from actune.core.errors import ConfigError
from actune.training.ranks import Ranks


def test_alone_nothing_is_sent(kit, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks.start(torch.device("cpu"))
    assert (ranks.rank, ranks.size, ranks.leads) == (0, 1, True)
    rows = kit.build_rows(2)
    assert ranks.broadcast_trees(rows) == rows
    assert ranks.sum([1.0, 2.0]) == [1.0, 2.0]
    with pytest.raises(ValueError, match="as it was"), ranks.together("a test"):
        raise ValueError("as it was")


def test_a_missing_gradient_becomes_zero():
    weight = nn.Parameter(torch.ones(3))
    Ranks().reduce_gradients([weight])
    assert weight.grad.tolist() == [0, 0, 0]


def test_a_wrong_environment_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        Ranks.start(torch.device("cpu"))
