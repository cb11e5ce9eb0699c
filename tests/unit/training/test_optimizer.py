from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from actune.config.settings import TrainingSettings
from actune.core.errors import CheckpointError
from actune.training.optimizer import (
    clip_gradients,
    drop_gradients,
    learning_rate,
    make_optimizer,
    read_state,
    write_state,
)


@pytest.mark.parametrize(
    ("steps", "ratio", "warmup"), [(100, 0.03, 3), (7, 0.3, 3), (5, 0.0, 0), (1, 0.03, 1), (4, 1.0, 4)]
)
def test_the_schedule_is_the_one_of_transformers(steps, ratio, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        found = learning_rate(step, steps=steps, peak=0.5, warmup_ratio=ratio)
        assert found == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_vectors_do_not_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, TrainingSettings(weight_decay=0.5))
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert {name: decay[id(weight)] for name, weight in parameters.items()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


@pytest.mark.parametrize(("limit", "left"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_the_norm_returned_is_the_one_before_clipping(limit, left):
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2, 2))]
    weights[0].grad = torch.tensor([3.0])
    weights[1].grad = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    assert clip_gradients(weights, limit) == pytest.approx(5.0)
    after = torch.cat([weight.grad.reshape(-1) for weight in weights]).norm()
    assert float(after) == pytest.approx(left, rel=1e-4)


def stepped(seed, *, flat=False):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, TrainingSettings(weight_decay=0.5), flat=flat)
    for place in range(2):
        (model(torch.full((1, 3), 1.0 + place)).sum() ** 2).backward()
        optimizer.step()
        drop_gradients(optimizer)
    return parameters, optimizer


def test_flat_steps_are_the_steps_of_weights_one_by_one():
    (plain, optimizer), (flat, other) = stepped(0), stepped(0, flat=True)
    assert [len(group["params"]) for group in other.param_groups] == [1, 1]
    for name, weight in plain.items():
        assert torch.equal(flat[name], weight)
        assert not flat[name].grad.any()
    wanted, found = read_state(optimizer, plain), read_state(other, flat)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    saved = {key: value.clone() for key, value in found.items()}
    (fresh, last) = stepped(1, flat=True)
    write_state(last, fresh, saved, "x")
    assert all(torch.equal(read_state(last, fresh)[key], value) for key, value in wanted.items())
    # A state of one kind goes on in the other.
    (again, kind) = stepped(2)
    write_state(kind, again, found, "x")
    assert all(torch.equal(read_state(kind, again)[key], value) for key, value in wanted.items())


def test_state_goes_out_and_in():
    parameters, optimizer = stepped(0)
    state = read_state(optimizer, parameters)
    assert set(state) == {f"{name}/{entry}" for name in parameters for entry in ("exp_avg", "exp_avg_sq", "step")}
    others, fresh = stepped(1)
    write_state(fresh, others, state, "here")
    assert all(torch.equal(value, state[key]) for key, value in read_state(fresh, others).items())


def test_state_of_another_model_is_refused():
    parameters, optimizer = stepped(0)
    state = read_state(optimizer, parameters)
    with pytest.raises(CheckpointError, match=r"here: weight/exp_avg has shape \(2, 3\), not \(5, 3\)"):
        write_state(optimizer, {"weight": nn.Parameter(torch.zeros(5, 3)), "bias": parameters["bias"]}, state, "here")
    with pytest.raises(CheckpointError, match="belongs to no trained weight"):
        write_state(optimizer, {"weight": parameters["weight"]}, state, "here")
    state = {key: value for key, value in state.items() if not key.startswith("bias")}
    with pytest.raises(CheckpointError, match="no state for bias"):
        write_state(optimizer, parameters, state, "here")
