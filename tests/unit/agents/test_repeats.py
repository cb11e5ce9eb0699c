"""What counts as going in circles, and what does not."""

from __future__ import annotations

import pytest

from actune.agents.repeats import Repeats
from actune.core.types import ToolCall


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def watch(limit: int, steps: list[tuple[str, str]]) -> list[str | None]:
    repeats = Repeats(limit)
    return [repeats.add((call(name),), (observation,)) for name, observation in steps]


@pytest.mark.parametrize("circle", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "a", "b"]])
def test_equal_rounds_are_a_circle_once_there_are_enough(circle: list[str]):
    found = watch(3, [("start", "0")] + [(name, "same") for name in circle * 3])
    assert found[:-1] == [None] * (3 * len(circle))
    assert found[-1] is not None
    assert " -> ".join(circle) in found[-1]


def test_arguments_that_mean_the_same_are_the_same():
    repeats = Repeats(2)
    assert repeats.add((call("a", '{"x": 1, "y": 2}'),), ("o",)) is None
    assert repeats.add((call("a", "{'y': 2,  'x': 1}"),), ("o",)) is not None


@pytest.mark.parametrize(
    "steps",
    [
        [("poll", str(number)) for number in range(12)],
        [("poll", "waiting"), ("poll", "waiting"), ("poll", "done")] * 2,
        [("a", "x"), ("b", "x"), ("c", "x"), ("d", "x")] * 3,
    ],
)
def test_what_changes_is_no_circle(steps: list[tuple[str, str]]):
    assert watch(3, steps) == [None] * len(steps)


def test_other_arguments_are_no_circle_and_unreadable_ones_are_compared_as_text():
    repeats = Repeats(2)
    given = ["{", "}", "{", '{"a": 1}', '{"a": 2}']
    assert [repeats.add((call("a", text),), ("o",)) for text in given] == [None] * 5
    assert repeats.add((call("a", '{"a": 2}'),), ("o",)) is not None


def test_it_can_be_switched_off_and_steps_without_calls_do_not_count():
    assert watch(0, [("a", "x")] * 20) == [None] * 20
    repeats = Repeats(1)
    assert repeats.add((), ()) is None
    assert "once" in (repeats.add((call("a"),), ("x",)) or "")
