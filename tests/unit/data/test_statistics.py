"""Statistics over rows against numbers computed by hand, and which rows a page shows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from actune.core.types import Conversation, Message, Source, ToolCall
from actune.data.checks.rules import Finding
from actune.data.inspect.charts import draw_bar, draw_histogram
from actune.data.inspect.statistics import Bin, RowFacts, Statistics, choose_rows, count_row, make_histogram, summarise
from actune.render.tree import TrainingSequence, build_tree

SOURCE = Source(file="rows.jsonl", line=1, dataset="d")
ROW = RowFacts(file="a", style="chat", dialect="chat", tokens=100, longest=100, supervised=25, messages=2, turns=1)


def test_numbers_in_short():
    found = summarise([7, 1, 3, 5])
    assert (found.count, found.total, found.low, found.median, found.mean, found.high) == (4, 16, 1, 3, 4, 7)
    assert summarise(list(range(1, 21))).p95 == 19
    assert summarise(list(range(1, 101))).p95 == 95
    assert summarise([2]).p95 == summarise([2]).median == 2
    assert summarise([]) is None


def test_bins_have_round_widths_and_hold_every_value():
    assert make_histogram([0, 1, 1, 3]) == [
        Bin(low=0, high=1, count=1), Bin(low=1, high=2, count=2), Bin(low=2, high=3, count=0), Bin(low=3, high=4, count=1),
    ]  # fmt: skip
    bins = make_histogram([10, 119, 120, 480], most=24)
    assert {one.high - one.low for one in bins} == {50}
    assert [(one.low, one.count) for one in bins if one.count] == [(0, 1), (100, 2), (450, 1)]
    assert make_histogram([]) == []


def test_single_values_far_above_all_others_stand_in_one_open_bin():
    bins = make_histogram([*range(100), 100_000])
    assert bins[-1].open
    assert (bins[-1].count, bins[-1].high) == (1, math.inf)
    assert bins[-1].low <= 105
    assert sum(one.count for one in bins) == 101
    assert not make_histogram([*range(100), 200])[-1].open


def test_values_far_from_zero_do_not_start_there():
    bins = make_histogram([1000, 1010, 1024])
    assert bins[0].low == 1000
    assert [one.count for one in bins if one.count] == [1, 1, 1]


@pytest.mark.parametrize("values", [[5], [0], [0, 0], [3, 10**9], [1e-9, 0.5, 1 - 1e-9]])
def test_no_value_is_lost(values):
    assert sum(one.count for one in make_histogram(values)) == len(values)
    assert sum(one.count for one in make_histogram([value % 1 for value in values], width=0.05)) == len(values)


def test_what_is_counted_of_a_row():
    call = Message(
        role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"), ToolCall(name="g", arguments="{}"))
    )
    conversation = Conversation(
        messages=(Message(role="user", content="q"), call, Message(role="assistant", content="a")), source=SOURCE
    )
    tree = build_tree(
        [
            TrainingSequence(ids=[1, 2, 3, 4], start=2, weights=[1, 0.5]),
            TrainingSequence(ids=[1, 2, 5, 6, 7], start=4, weights=[2]),
        ],
        SOURCE,
    )
    finding = Finding(level="warning", code="c", field="", message="", fix="")
    facts = count_row("rows.jsonl", conversation, tree, dialect="react", problems=[finding, finding])
    assert facts == RowFacts(
        file="rows.jsonl", dataset="d", style="chat", dialect="react", branches=True, tokens=7, longest=5, supervised=3,
        messages=3, turns=2, calls=("f", "g"), codes=(("warning", "c"),) * 2, weights=((0.5, 1), (1.0, 1), (2.0, 1)),
    )  # fmt: skip
    assert facts.share == 3 / 7
    refused = count_row("rows.jsonl", None, None, problems=[finding])
    assert (refused.refused, refused.tokens, refused.turns, refused.share) == (True, 0, 0, 0)


def test_rows_add_up():
    total = Statistics(max_length=100)
    total.add(replace(ROW, calls=("f", "f", "g"), weights=((1.0, 20), (0.5, 5))))
    total.add(replace(ROW, file="b", longest=101, tokens=120, supervised=60, branches=True, weights=((1.0, 60),)))
    total.add(
        replace(
            ROW,
            refused=True,
            tokens=0,
            longest=0,
            supervised=0,
            codes=(("error", "x"), ("error", "x"), ("warning", "y")),
        )
    )
    total.add(RowFacts(file="b", refused=True, codes=(("error", "x"),)))
    assert (total.rows, total.refused, total.branching, total.over_length, total.with_problems) == (4, 2, 1, 1, 2)
    assert list(total.values["tokens"]) == [100, 120]
    assert list(total.values["share"]) == [0.25, 0.5]
    assert list(total.values["turns"]) == [1, 1, 1]
    assert list(total.values["calls"]) == [3, 0, 0]
    assert (total.files, total.tools) == ({"a": 2, "b": 2}, {"f": 2, "g": 1})
    assert total.codes == {("error", "x"): 2, ("warning", "y"): 1}
    assert total.findings == {("error", "x"): 3, ("warning", "y"): 1}
    assert total.weights == {1.0: 80, 0.5: 5}
    assert total.summary("longest").high == 101
    assert Statistics().summary("longest") is None
    assert not Statistics(max_length=-1).is_over(ROW)


def test_a_page_shows_some_of_every_kind_of_problem_and_an_even_spread():
    problems = {("warning", "common"): range(0, 1000, 2), ("warning", "rare"): [7], ("error", "bad"): [500, 501, 502]}
    chosen = choose_rows(1000, problems, 40)
    assert len(chosen) == len(set(chosen)) == 40
    assert chosen == sorted(chosen)
    assert {7, 500, 501, 502} <= set(chosen)
    assert max(b - a for a, b in pairwise(chosen)) < 150
    assert {0, 999} <= set(chosen)
    assert choose_rows(3, {}, 40) == [0, 1, 2]
    assert choose_rows(10, {}, 1) == [0]
    assert len(choose_rows(1000, {("error", str(kind)): [kind] for kind in range(300)}, 100)) == 100
    assert choose_rows(0, {}, 5) == []


def test_drawings_hold_one_column_a_bin_and_the_limit():
    bins = make_histogram([100, 200, 300, 2100])
    text = draw_histogram(bins, "c", limit=2048)
    assert text.count('<rect class="c-bin"') == 4
    assert "max_length 2,048" in text
    assert 'aria-labelledby="c-t c-d"' in text
    far = draw_histogram(bins, "c", limit=99_999)
    assert "max_length 99,999 →" in far
    assert 'x1="410"' in far
    assert "c-limit" not in draw_histogram(bins, "c")
    assert "≥" in draw_histogram(make_histogram([*range(100), 100_000]), "c")
    assert 'width="75"' in draw_bar(0.5)
    assert 'width="0"' in draw_bar(0)
