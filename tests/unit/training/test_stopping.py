from __future__ import annotations

from dataclasses import replace

import pytest

from actune.config.settings import MonitorSettings
from actune.training.checkpoint import State
from actune.training.stopping import Judge

STATE = State(step=0, rows=0, step_size=1, seed=0, fingerprint="f", settings={}, scaler={})


def judge(metric="loss", patience=2, **more) -> Judge:
    return Judge(MonitorSettings(metric_for_best_model=metric, early_stopping_patience=patience, **more))


@pytest.mark.parametrize(
    ("metric", "values", "best", "stops"),
    [
        ("loss", [3, 2, 1, 2, 1.5], 3, True),
        ("loss", [3, 2, 1, 2, 0.5], 5, False),
        ("loss/general", [3, 3, 3], 1, True),
        ("probe/strict_call", [0.1, 0.3, 0.2, 0.4], 4, False),
        ("probe/strict_call", [0.4, 0.3, 0.4], 1, True),
    ],
)
def test_best_and_patience(metric, values, best, stops):
    watched = judge(metric)
    for step, value in enumerate(values, 1):
        watched.add(step, {metric: value, "other": 0.0})
        watched.mark_saved(step)
        assert watched.stops == (stops and step == len(values))
    assert watched.best.step == best


def test_the_best_is_one_of_the_saved_and_evaluated_ones():
    watched = judge()
    for step, value in ((1, 3.0), (2, 1.0), (3, 2.0)):
        watched.add(step, {"loss": value})
        if step != 2:
            watched.mark_saved(step)
    watched.mark_saved(4)
    assert (watched.best.step, watched.top) == (3, 1.0)


def test_too_small_a_gain_is_no_improvement_but_raises_the_bar():
    watched = judge(early_stopping_threshold=0.5)
    assert watched.add(1, {"loss": 2.0})
    assert watched.add(2, {"loss": 1.6})
    assert watched.stale == 1
    assert watched.add(3, {"loss": 1.2})
    assert watched.stops
    assert not judge(patience=0).stops


def test_an_evaluation_without_the_metric_does_not_improve():
    watched = judge()
    watched.add(1, {"loss": 1.0})
    assert not watched.add(2, {})
    watched.add(3, {"other": 1.0})
    assert watched.stops


def test_resuming_keeps_the_count_and_another_metric_starts_anew():
    state = replace(STATE, best_step=3, best_value=0.5, metric="loss", top=0.4, stale=1)
    watched = judge()
    assert watched.restore(state) is None
    assert not watched.add(5, {"loss": 0.45})
    assert watched.stops
    other = judge("probe/strict_call")
    assert "by loss; from here on it is by probe/strict_call" in other.restore(state)
    assert (other.best, other.top, other.stale) == (None, None, 0)


def test_a_checkpoint_of_before_knows_its_best_loss():
    watched = judge()
    watched.restore(replace(STATE, best_step=3, best_value=0.5))
    assert not watched.add(4, {"loss": 0.6})
    watched.mark_saved(4)
    assert watched.best.step == 3
