"""Whatever a model writes: every metric gives a score from 0 to 1, and the same one again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.core.errors import DataError
from actune.core.react import parse_step
from actune.evals.answer_metrics import rouge_l
from actune.evals.metrics import METRICS, rescore

SCHEMAS = {"f": {"type": "object", "properties": {"a": {"type": "integer"}}}, "g": {}}
GOLDS = {
    "call": {"calls": [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}], "tools": SCHEMAS},
    "answer": {"answer": "杭州 is sunny"},
    "identity": {"question": "Are you Qwen?", "answer": "I am X of Y", "name": "X", "author": "Y", "names": ["X", "Y"]},
    "choice": {"choice": 0, "choices": ["a", "b"]},
}
OF_CALLS = ("tool_name", "key_f1", "schema_valid", "no_hallucinated_tool")
OF_BOTH = ("strict_call", "decision", "format_valid", "no_invented_observation")
PAIRS = [
    *((metric, "call") for metric in OF_CALLS + OF_BOTH),
    *((metric, "answer") for metric in (*OF_BOTH, "no_false_call", "answer_rouge_l")),
    *((m, "identity") for m in ("identity_hit", "name_hit", "author_hit", "no_old_identity", "no_over_trigger")),
    *((metric, "choice") for metric in ("general_accuracy", "general_accuracy_norm")),
]

text = st.text(max_size=40)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
arguments = text | st.dictionaries(st.sampled_from(["a", "b"]), json_value, max_size=2).map(json.dumps)
call = st.fixed_dictionaries({"name": st.sampled_from(["f", "g", "h"]) | text, "arguments": arguments})
pieces = ["Thought: ", "Action: f", "Action Input: ", '{"a": 1}', "Observation:", "观察：", "Final Answer: ", "\n", "X"]
raw = st.lists(st.sampled_from(pieces) | text, max_size=12).map("".join)
outputs = (
    st.fixed_dictionaries(
        {"text": raw},
        optional={
            "calls": st.lists(call, max_size=6),
            "answer": raw,
            "error": text,
            "log_likelihoods": st.lists(st.floats(), max_size=3),
        },
    )
    | st.fixed_dictionaries(
        {}, optional={"text": json_value, "calls": json_value, "answer": json_value, "error": json_value}
    )
    | json_value
)


def test_every_metric_is_tried():
    assert {metric for metric, _ in PAIRS} == set(METRICS) - {"general_nll"}


@settings(max_examples=400, deadline=None)
@given(outputs)
def test_no_output_breaks_a_metric(output):
    for metric, kind in PAIRS:
        score = rescore(metric, output, GOLDS[kind])
        assert isinstance(score, float)
        assert 0.0 <= score <= 1.0
        assert rescore(metric, output, GOLDS[kind]) == score


@settings(max_examples=200, deadline=None)
@given(raw)
def test_what_the_parser_refuses_is_no_valid_format(written):
    try:
        parse_step(written)
        error = {}
    except DataError as fault:
        error = {"error": fault.code}
    assert rescore("format_valid", {"text": written, "calls": []} | error, GOLDS["answer"]) == float(not error)


gold_calls = st.lists(
    st.tuples(
        st.sampled_from(["f", "g"]), st.dictionaries(text, st.none() | st.booleans() | st.integers() | text, max_size=3)
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(gold_calls, st.randoms(use_true_random=False))
def test_the_gold_in_any_order_is_right(calls, random):
    gold = {"calls": [{"name": name, "arguments": value} for name, value in calls], "tools": ["f", "g"]}
    made = [{"name": name, "arguments": json.dumps(value)} for name, value in calls]
    random.shuffle(made)
    output = {"text": "", "calls": made}
    for metric in ("strict_call", "tool_name", "key_f1", "decision", "no_hallucinated_tool"):
        assert rescore(metric, output, gold) == pytest.approx(1.0)
    fewer = {"text": "", "calls": made[1:]}
    assert rescore("strict_call", fewer, gold) == 0.0
    assert rescore("key_f1", fewer, gold) < 1.0


@settings(max_examples=200, deadline=None)
@given(text, text)
def test_rouge_is_symmetric_and_one_on_itself(one, other):
    assert rouge_l(one, one) == 1.0
    assert rouge_l(one, other) == rouge_l(other, one)
