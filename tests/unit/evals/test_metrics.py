"""Metrics of agent steps and of likelihoods: exact values at the edges."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from actune.core.errors import ConfigError, DataError
from actune.evals.agent_metrics import best_sum, count_invented, same_value
from actune.evals.metrics import ANSWER_METRICS, CALL_METRICS, EVERY_STEP, METRICS, ZERO_ONE, rescore

SCHEMAS = {
    "weather": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "add": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
ANSWER = {"answer": "你好"}


def gold(*calls, **more):
    return {"calls": [{"name": name, "arguments": arguments} for name, arguments in calls], "tools": SCHEMAS} | more


def output(*calls, text="x", **more):
    return {"text": text, "calls": [{"name": name, "arguments": arguments} for name, arguments in calls]} | more


CITY = gold(("weather", {"city": "杭州"}))


@pytest.mark.parametrize("metric", CALL_METRICS + EVERY_STEP)
def test_the_gold_call_scores_one(metric):
    assert rescore(metric, output(("weather", '{"city": "杭州"}')), CITY) == 1.0


@pytest.mark.parametrize("metric", ANSWER_METRICS + EVERY_STEP)
def test_the_gold_answer_scores_one(metric):
    assert rescore(metric, output(text="你好", answer="你好"), ANSWER) == 1.0


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ('{"city": "杭州"}', 1.0),
        ('{"city": " 杭州\\n"}', 1.0),  # blanks around a text
        ("{'city': '杭州'}", 1.0),  # a Python literal, as some models write
        ('{"city": "杭 州"}', 0.0),
        ('{"city": "杭州", "day": null}', 0.0),
        ("{}", 0.0),
        ('{"City": "杭州"}', 0.0),
        ('{"city": ["杭州"]}', 0.0),
        ('{"city": "杭州"', 0.0),  # broken: nothing is mended for the model
        ('"杭州"', 0.0),
        ("", 0.0),
    ],
)
def test_strict_arguments(made, wanted):
    assert rescore("strict_call", output(("weather", made)), CITY) == wanted


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (5, 5.0, True),
        (True, 1, False),
        (0, False, False),
        ("5", 5, False),
        (None, "", False),
        (None, None, True),
        ("a", " a ", True),
        ("a", "A", False),
        ([1, 2], [2, 1], False),
        ([1, 2], [1, 2.0], True),
        ([1], [1, 2], False),
        ({"a": 1, "b": {"c": [1]}}, {"b": {"c": [1.0]}, "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": 1}, [1], False),
        (10**30, 1e30, False),
        (0.1, 0.1, True),
    ],
)
def test_same_value(one, other, same):
    assert same_value(one, other) is same
    assert same_value(other, one) is same


def test_deep_values_are_compared_without_recursion():
    one, other = [], []
    for _ in range(5000):
        one, other = [one], [other]
    assert same_value(one, other)
    assert not same_value(one, [other])


TWO = gold(("weather", {"city": "a"}), ("weather", {"city": "b"}))


@pytest.mark.parametrize(
    ("calls", "strict", "names", "keys"),
    [
        ([("weather", '{"city": "b"}'), ("weather", '{"city": "a"}')], 1.0, 1.0, 1.0),
        ([("weather", '{"city": "a"}'), ("weather", '{"city": "a"}')], 0.0, 1.0, 0.75),  # no gold call counts twice
        ([("weather", '{"city": "a"}')], 0.0, 0.5, 0.5),
        ([("weather", '{"city": "a"}'), ("weather", '{"city": "b"}'), ("add", "{}")], 0.0, 2 / 3, 2 / 3),
        ([("weather", '{"city": "a"}')] * 4, 0.0, 0.5, 1.5 / 4),
        ([("add", "{}"), ("weather", '{"city": "b"}')], 0.0, 0.5, 0.5),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_parallel_calls(calls, strict, names, keys):
    made = output(*calls)
    assert rescore("strict_call", made, TWO) == strict
    assert rescore("tool_name", made, TWO) == pytest.approx(names)
    assert rescore("key_f1", made, TWO) == pytest.approx(keys)


@pytest.mark.parametrize(
    ("made", "wanted", "score"),
    [
        ("{}", {}, 1.0),
        ("{}", {"a": 1}, 0.0),
        ('{"a": 1}', {}, 0.0),
        ('{"a": 1}', {"a": 1}, 1.0),
        ('{"a": 2}', {"a": 1}, 0.5),
        ('{"a": 1, "c": 3}', {"a": 1, "b": 2}, 0.5),
        ('{"a": 1, "b": 3, "c": 0}', {"a": 1, "b": 2}, 2 * 1.5 / 5),
        ("no json", {}, 0.0),
    ],
)
def test_key_f1(made, wanted, score):
    assert rescore("key_f1", output(("add", made)), gold(("add", wanted))) == pytest.approx(score)


def test_the_best_matching_is_the_best_of_all():
    rng = random.Random(3)
    for _ in range(60):
        rows, columns = rng.randint(1, 5), rng.randint(1, 5)
        gains = [[rng.choice([0.0, 0.25, 0.5, 1.0, rng.random()]) for _ in range(columns)] for _ in range(rows)]
        table = gains if rows <= columns else [list(column) for column in zip(*gains, strict=True)]
        best = max(
            sum(table[row][column] for row, column in enumerate(order))
            for order in itertools.permutations(range(len(table[0])), len(table))
        )
        assert best_sum(gains) == pytest.approx(best)


@pytest.mark.parametrize(
    ("made", "call_gold", "answer_gold", "false_call"),
    [
        (output(("weather", "{}")), 1.0, 0.0, 0.0),
        (output(answer="hi"), 0.0, 1.0, 1.0),
        (output(text="Action: weather", error="action-without-input"), 0.0, 0.0, 0.0),
        (output(text="Thought: hm", error="thought-only"), 0.0, 0.0, 1.0),
        (output(text='<tool_call>{"na', error="output-cut"), 0.0, 0.0, 0.0),
        (output(text="Action: rest a while", answer="Action: rest a while"), 0.0, 1.0, 1.0),
    ],
)
def test_decisions(made, call_gold, answer_gold, false_call):
    assert rescore("decision", made, CITY) == call_gold
    assert rescore("decision", made, ANSWER) == rescore("strict_call", made, ANSWER) == answer_gold
    assert rescore("no_false_call", made, ANSWER) == false_call


@pytest.mark.parametrize(
    ("calls", "offered", "fits"),
    [
        ([("weather", '{"city": "x"}')], 1.0, 1.0),
        ([("weather", '{"city": 3}')], 1.0, 0.0),
        ([("weather", "{}")], 1.0, 0.0),
        ([("add", '{"a": "1"}')], 1.0, 0.0),
        ([("weather", '{"city": "x"}'), ("add", "{}")], 1.0, 1.0),
        ([("weather", '{"city": "x"}'), ("fly", "{}")], 0.0, 0.0),
        ([("weather", "{")], 1.0, 0.0),
        ([], 1.0, 0.0),
    ],
)
def test_offered_tools_and_their_schemas(calls, offered, fits):
    assert rescore("no_hallucinated_tool", output(*calls), CITY) == offered
    assert rescore("no_hallucinated_tool", output(*calls), CITY | {"tools": ["weather", "add"]}) == offered
    assert rescore("schema_valid", output(*calls), CITY) == fits


CALL = 'Thought: t\nAction: a\nAction Input: {"x": 1}\n'


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (CALL + "Observation:", 0),
        (CALL + "Observation: ", 0),
        (CALL, 0),
        ("Action: a\nAction Input: {'x': 1}\nObservation:", 0),
        ('Action: a\nAction Input: {"x":\n 1}\nObservation:', 0),
        ("Thought: the Observation: above says so\nFinal Answer: 5", 0),
        ("Final Answer: 观察：晴", 0),  # not at a line start
        (CALL + "Observation: sunny\nThought: done\nFinal Answer: sunny", 1),
        (CALL + "observation: sunny\nObservation:", 1),
        (CALL + "Observation：晴\nFinal Answer: 晴", 1),
        (CALL + "观察: 晴\nObservation:", 1),
        (CALL + "**Observation:** sunny", 1),
        (CALL + "观察结果：晴\n观察：阴", 2),
        (CALL + "It is sunny.\nObservation:", 1),
        (CALL + "Final Answer: sunny", 1),
        ("Action: a\nAction Input: {'x': 1}\nIt is sunny.", 1),
        ("Action: a\nAction Input: {'x'\nThought: sunny", 1),
        ("Observation:", 1),  # no call that it could end
        ("sunny<tool_response>25</tool_response>", 2),
        ("<|im_start|>tool\n25", 1),
        ("<|start_header_id|>ipython<|end_header_id|>", 1),
        ("[TOOL_RESULTS] 25", 1),
        ("<|observation|>25", 1),
        ("", 0),
    ],
)
def test_invented_observations(text, count):
    assert count_invented(text) == count
    assert rescore("no_invented_observation", output(text=text), CITY) == float(count == 0)


def test_what_the_gold_itself_writes_is_not_invented():
    assert rescore("no_invented_observation", output(text="观察：A\n观察：B"), {"answer": "观察：A\n观察：B"}) == 1.0
    assert rescore("no_invented_observation", output(text="观察：A\n观察：B"), {"answer": "观察：A"}) == 0.0
    assert rescore("no_invented_observation", output(text="观察：A"), CITY | {"text": "观察：A"}) == 1.0


CHOICES = {"choice": 1, "choices": ["a long wrong one", "是"]}


@pytest.mark.parametrize(
    ("values", "whole", "per_byte"),
    [
        ([-9.0, -2.0], 1.0, 0.0),  # -9/16 bytes is above -2/3 bytes
        ([-16.0, -2.0], 1.0, 1.0),
        ([-1.0, -2.0], 0.0, 0.0),
        ([-2.0, -2.0], 0.0, 0.0),  # a tie is no hit
        ([-2.0], 0.0, 0.0),
        ([float("nan"), -2.0], 0.0, 0.0),
        ([-2.0, float("nan")], 0.0, 0.0),
        (["-9", -2.0], 0.0, 0.0),
    ],
)
def test_accuracy(values, whole, per_byte):
    made = {"log_likelihoods": values}
    assert rescore("general_accuracy", made, CHOICES) == whole
    assert rescore("general_accuracy_norm", made, CHOICES) == per_byte


def test_likelihood_is_minus_nats_a_token():
    assert rescore("general_nll", {"log_likelihood": -6.0, "tokens": 4}, {}) == -1.5
    for broken in (
        {},
        {"log_likelihood": -1.0},
        {"log_likelihood": -1.0, "tokens": 0},
        {"log_likelihood": math.nan, "tokens": 1},
        None,
    ):
        with pytest.raises(DataError) as caught:
            rescore("general_nll", broken, {})
        assert caught.value.code == "output-unreadable"


@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"general_nll"}))
@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {},
        {"calls": []},
        {"calls": [{"name": "x", "arguments": '{"a": 1}'}], "tools": SCHEMAS},
        {"calls": [{"name": "x", "arguments": {"a": math.nan}}], "tools": SCHEMAS},
        {"calls": [{"arguments": {}}]},
        {"answer": 3},
    ],
)
def test_a_gold_that_cannot_be_read_raises(metric, bad):
    with pytest.raises(DataError) as caught:
        rescore(metric, output(("x", "{}")), bad)
    assert caught.value.code == "gold-unreadable"


@pytest.mark.parametrize("metric", ["tool_name", "key_f1", "schema_valid", "no_hallucinated_tool"])
def test_metrics_of_calls_refuse_answers(metric):
    with pytest.raises(DataError, match="for gold calls"):
        rescore(metric, output(answer="x"), ANSWER | {"tools": SCHEMAS})


def test_the_metric_of_false_calls_refuses_calls():
    with pytest.raises(DataError, match="for gold answers"):
        rescore("no_false_call", output(answer="x"), CITY)


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        rescore("strict_cal", {}, {})
    assert caught.value.fix == "did you mean strict_call?"


def test_zero_one_metrics_are_those_without_shares():
    assert {"strict_call", "identity_hit", "general_accuracy"} <= ZERO_ONE
    assert not {"key_f1", "answer_rouge_l", "general_nll", "tool_name"} & ZERO_ONE
