import dataclasses
import json
import random

import pytest

from actune.core.errors import ConfigError
from actune.evals.compare import FLAG_CODES, compare_scores
from actune.evals.items import Score, read_scores, write_scores
from actune.recipes.compare import compare

ROW_KEYS = {
    *("level", "axis", "task", "metric", "split", "primary", "n", "base", "tuned", "difference", "ci95", "ci90"),
    *("fixed", "broken", "mcnemar_p", "verdict", "n_needed"),
}


def score(number, value, *, axis="agent", split="held-in", task="tools", metric="strict_call", **other):
    fields = {"cluster": f"{task}-{number}", "output": None, "gold": None} | other
    return Score(id=str(number), task=task, axis=axis, split=split, metric=metric, score=float(value), **fields)


def counts(n, *, fixed=0, broken=0, right=0, start=0, **fields):
    """Return (base, tuned) scores with so many items fixed, broken, right in both and wrong in both."""
    before = [0] * fixed + [1] * broken + [1] * right + [0] * (n - fixed - broken - right)
    after = [1] * fixed + [0] * broken + [1] * right + [0] * (n - fixed - broken - right)
    return tuple([score(start + i, value, **fields) for i, value in enumerate(side)] for side in (before, after))


def join(*pairs):
    return [one for base, _ in pairs for one in base], [one for _, tuned in pairs for one in tuned]


def other_axes(n=400):
    """Return items of the other two axes, so that nothing is missing."""
    general = counts(n, right=n, axis="general", split="all", task="choices", metric="general_accuracy")
    return join(general, counts(n, right=n, axis="identity", split="all", task="names", metric="identity_hit"))


def row_of(comparison, level, split, axis="agent", metric=None):
    rows = [row for row in comparison.rows if (row.level, row.split, row.axis) == (level, split, axis)]
    return next(row for row in rows if metric in (None, row.metric))


def test_a_gain_that_hides_a_collapse_on_unseen_tools_is_flagged_first():
    # the shape of published raw predictions: 0.56 -> 0.84 over all, 0.95 -> 0.35 on the held-out tool
    seen = counts(80, fixed=41, broken=1, right=36)
    unseen = counts(20, broken=12, right=7, start=80, split="held-out")
    comparison = compare_scores(*join(seen, unseen))
    axis, held_out = row_of(comparison, "axis", "all"), row_of(comparison, "split", "held-out")
    assert (axis.base, axis.tuned, axis.verdict) == (pytest.approx(0.56), pytest.approx(0.84), "gained")
    assert (axis.fixed, axis.broken, axis.mcnemar_p) == (41, 13, pytest.approx(1.75e-4, rel=0.01))
    # the paired bootstrap said +0.15 to +0.41
    assert axis.ci95 == pytest.approx((0.15, 0.41), abs=0.01)
    assert (held_out.base, held_out.tuned, held_out.verdict) == (pytest.approx(0.95), pytest.approx(0.35), "lost")
    first = comparison.flags[0]
    assert (first.code, first.axis, first.split) == ("lost-split", "agent", "held-out")
    assert all(figure in first.message for figure in ("0.950", "0.350", "0.560", "0.840", "20 items"))


def test_a_lost_split_is_flagged_only_where_the_axis_hides_it():
    comparison = compare_scores(*join(counts(80, broken=20, right=60), counts(80, right=80, start=80, split="no-tool")))
    assert row_of(comparison, "split", "held-in").verdict == "lost"
    assert row_of(comparison, "axis", "all").verdict == "lost"
    assert "lost-split" not in {flag.code for flag in comparison.flags}


@pytest.mark.parametrize(
    ("fixed", "broken", "verdict"),
    [(40, 10, "gained"), (30, 30, "kept"), (10, 50, "lost"), (200, 200, "undecided"), (40, 55, "undecided")],
)
def test_verdicts_follow_from_the_intervals(fixed, broken, verdict):
    comparison = compare_scores(*counts(1500, fixed=fixed, broken=broken, right=900))
    row = row_of(comparison, "axis", "all")
    expected = (
        "gained"
        if row.ci95[0] > 0
        else "lost"
        if row.ci95[1] < 0 and row.ci90[0] <= -0.02
        else "kept"
        if row.ci90[0] > -0.02
        else "undecided"
    )
    assert row.verdict == expected == verdict


def test_a_sure_loss_within_the_margin_is_kept_and_flagged_once():
    comparison = compare_scores(*join(counts(4000, broken=24, right=3000), other_axes()))
    row = row_of(comparison, "axis", "all")
    assert (row.verdict, row.ci95[1] < 0, row.n_needed) == ("kept", True, None)
    assert [(flag.code, flag.axis, flag.split) for flag in comparison.flags] == [("small-loss", "agent", "all")]
    assert "0.02" in comparison.flags[0].message


def test_a_wider_margin_turns_a_loss_into_a_small_one():
    pairs = counts(2000, fixed=10, broken=80, right=1000)
    assert row_of(compare_scores(*pairs), "axis", "all").verdict == "lost"
    assert row_of(compare_scores(*pairs, margin=0.1), "axis", "all").verdict == "kept"


def test_n_needed_is_said_of_undecided_rows_that_more_items_would_decide():
    row = row_of(compare_scores(*counts(200, fixed=10, broken=10, right=100)), "axis", "all")
    assert row.verdict == "undecided"
    assert row.n_needed == pytest.approx(1888, rel=0.03)
    known = row_of(compare_scores(*counts(3000, fixed=200, broken=232, right=1000)), "axis", "all")
    assert (known.verdict, known.n_needed) == ("undecided", None)


def test_json_has_the_keys_of_the_contract_and_no_others():
    text = [
        [
            score(i, -3 - i / 9 + gain * i, axis="general", split="all", task="text", metric="general_nll")
            for i in range(9)
        ]
        for gain in (0, 0.01)
    ]
    comparison = compare_scores(*join(counts(30, fixed=3), text), files=("a.jsonl", "b.jsonl"))
    found = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert set(found) == {"version", "files", "flags", "rows"}
    assert found["version"] == 1
    assert found["files"] == {"base_file": "a.jsonl", "tuned_file": "b.jsonl"}
    assert all(set(row) == ROW_KEYS for row in found["rows"])
    assert all(set(flag) == {"code", "axis", "split", "message"} for flag in found["flags"])
    likelihood = next(row for row in found["rows"] if row["metric"] == "general_nll")
    assert likelihood["mcnemar_p"] is None
    assert {flag["code"] for flag in found["flags"]} <= set(FLAG_CODES)


def test_rows_of_every_level():
    agent = [
        counts(40, fixed=4, split="held-in"),
        counts(30, fixed=2, start=40, split="held-out"),
        counts(40, fixed=3, split="held-in", metric="name"),
        counts(30, fixed=3, start=40, split="held-out", metric="name"),
        counts(20, fixed=1, split="held-out", task="more tools"),
    ]
    rows = compare_scores(*join(*agent, other_axes(30))).rows
    assert {(row.axis, row.task, row.n, row.primary) for row in rows if row.level == "axis"} == {
        ("agent", "all", 90, True),
        ("general", "choices", 30, True),
        ("identity", "names", 30, True),
    }
    assert {
        (row.split, row.task, row.n, row.primary) for row in rows if (row.level, row.axis) == ("split", "agent")
    } == {
        ("held-in", "tools", 40, True),
        ("held-out", "all", 50, True),
    }
    metrics = [row for row in rows if (row.level, row.axis) == ("metric", "agent")]
    assert {(row.task, row.metric, row.split, row.n, row.primary) for row in metrics} == {
        ("tools", "strict_call", "all", 70, True),
        ("tools", "strict_call", "held-in", 40, True),
        ("tools", "strict_call", "held-out", 30, True),
        ("tools", "name", "all", 70, False),
        ("tools", "name", "held-in", 40, False),
        ("tools", "name", "held-out", 30, False),
        ("more tools", "strict_call", "held-out", 20, True),
    }


def test_accuracy_is_primary_where_there_is_any_else_the_likelihood():
    fields = {"axis": "general", "split": "all", "task": "text"}
    text = tuple([score(i, -2 - i, metric="general_nll", **fields) for i in range(5)] for _ in range(2))
    choices = counts(5, fixed=1, metric="general_accuracy", **fields)
    assert row_of(compare_scores(*text), "axis", "all", "general").metric == "general_nll"
    assert row_of(compare_scores(*join(text, choices)), "axis", "all", "general").metric == "general_accuracy"


def test_little_evidence_and_missing_axes_are_flagged():
    few = counts(7, fixed=2)
    grouped = tuple(
        [dataclasses.replace(one, cluster=f"page {int(one.id) % 3}") for one in side]
        for side in counts(60, fixed=2, axis="identity", split="all", task="names", metric="identity_hit")
    )
    flags = {(flag.code, flag.axis): flag.message for flag in compare_scores(*join(few, grouped)).flags}
    assert set(flags) == {("few-items", "agent"), ("few-clusters", "identity"), ("axis-missing", "general")}
    assert "7 items" in flags["few-items", "agent"]
    assert "3 groups" in flags["few-clusters", "identity"]


def test_another_gold_is_flagged():
    base, tuned = counts(40)
    tuned[3] = dataclasses.replace(tuned[3], gold="other")
    flag = next(flag for flag in compare_scores(base, tuned).flags if flag.code == "gold-differs")
    assert "tools strict_call 3" in flag.message


def test_unpaired_items_are_listed_with_the_counts_of_both_sides():
    base, tuned = counts(20)
    with pytest.raises(ConfigError) as caught:
        compare_scores(base[1:], tuned[:-8], files=("a", "b"))
    assert caught.value.exit_code == 2
    for part in (
        "1 only in b: tools strict_call 0",
        "8 only in a: tools strict_call 12",
        "and 3 more",
        "19 scores in a",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize(("field", "other"), [("axis", "identity"), ("split", "no-tool"), ("cluster", "elsewhere")])
def test_items_that_differ_between_the_files_are_refused(field, other):
    base, tuned = counts(20)
    tuned[4] = dataclasses.replace(tuned[4], **{field: other})
    with pytest.raises(ConfigError, match=f"another {field}.*{other}"):
        compare_scores(base, tuned)


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), float("inf")])
def test_a_margin_that_is_no_positive_number_is_refused(margin):
    with pytest.raises(ConfigError, match="margin"):
        compare_scores(*counts(5), margin=margin)


def test_nothing_to_compare_and_items_given_twice_are_refused():
    with pytest.raises(ConfigError, match="no scores"):
        compare_scores([], [])
    base, tuned = counts(5)
    with pytest.raises(ConfigError, match="twice"):
        compare_scores([*base, base[0]], tuned)


@pytest.fixture
def files(tmp_path):
    """Two files with a lost split under a gained axis, lines shuffled."""
    pairs = join(counts(80, fixed=41, broken=1, right=36), counts(20, broken=12, right=7, start=80, split="held-out"))
    for name, scores in zip(("base.jsonl", "tuned.jsonl"), pairs, strict=True):
        random.Random(name).shuffle(scores)
        write_scores(tmp_path / name, scores)
    return tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"


def call(files, **given):
    options = {"margin": 0.02, "json_output": False, "html": None, "fail_on": [], "overwrite": False}
    return compare(base=files[0], tuned=files[1], **(options | given))


def test_the_table_shows_flags_before_rows(files, capsys):
    assert call(files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lost-split: ")
    axis = next(line for line in lines if line.split()[:3] == ["agent", "tools", "all"])
    assert all(part in axis for part in ("0.560", "0.840", "+0.280 [+0.144, +0.416]", "41/13", "gained"))
    assert any("held-out" in line and "0/12" in line and "lost" in line for line in lines)


def test_json_output_is_the_comparison_of_the_files(files, capsys):
    assert call(files, json_output=True) == 0
    comparison = compare_scores(read_scores(files[0]), read_scores(files[1]), files=(str(files[0]), str(files[1])))
    assert json.loads(capsys.readouterr().out) == comparison.to_json()


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        ([], 0),
        (["lost"], 1),
        (["lost-split"], 1),
        (["undecided,gained"], 1),
        (["kept", "undecided"], 0),
        (["small-loss"], 0),
        (["axis-missing"], 1),
    ],
)
def test_fail_on_names_verdicts_and_flags(files, fail_on, code, capsys):
    assert call(files, fail_on=fail_on) == code


def test_fail_on_does_not_look_at_other_metrics(tmp_path, capsys):
    pairs = join(counts(200, right=100), counts(200, broken=100, right=100, metric="name"))
    for name, scores in zip(("a", "b"), pairs, strict=True):
        write_scores(tmp_path / name, scores)
    assert call((tmp_path / "a", tmp_path / "b"), fail_on=["lost"]) == 0
    assert "lost" in capsys.readouterr().out


def test_an_unknown_value_of_fail_on_is_refused(files):
    with pytest.raises(ConfigError, match="'worse' is no verdict"):
        call(files, fail_on=["worse"])


def test_a_file_against_itself_shows_no_difference(files, capsys):
    assert call((files[0], files[0]), json_output=True, fail_on=["lost", "gained"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(row["difference"] == 0 and row["fixed"] == row["broken"] == 0 for row in rows)


def test_a_page_is_written_and_not_replaced_unasked(files, tmp_path, capsys):
    page = tmp_path / "page.html"
    call(files, html=page)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(ConfigError, match="there already"):
        call(files, html=page)
    assert call(files, html=page, overwrite=True) == 0
    with pytest.raises(ConfigError):
        call(files, html=files[0], overwrite=True)
    with pytest.raises(ConfigError):
        call(files, html=tmp_path / "missing" / "page.html")


def test_lost_metric_beside_a_gained_axis_is_flagged_once():
    def score(metric: str, number: int, value: float, split: str) -> Score:
        return Score(
            id=str(number), task="t", axis="identity", split=split, cluster=str(number), metric=metric, score=value,
            output=None, gold=None,
        )  # fmt: skip

    base = [score("identity_hit", n, 0.0, "all") for n in range(60)]
    tuned = [score("identity_hit", n, 1.0, "all") for n in range(60)]
    for split, start in (("held-in", 100), ("no-tool", 160)):
        base += [score("no_over_trigger", n, 1.0, split) for n in range(start, start + 60)]
        tuned += [score("no_over_trigger", n, float(n % 2), split) for n in range(start, start + 60)]
    comparison = compare_scores(base, tuned)
    lost = [flag for flag in comparison.flags if flag.code == "lost-metric"]
    assert [(flag.axis, flag.split) for flag in lost] == [("identity", "all")]
    assert "no_over_trigger fell from 1.000 to 0.500" in lost[0].message
    assert row_of(comparison, "axis", "all", "identity").verdict == "gained"


def test_splits_that_happen_to_have_equal_figures_are_flagged_each():
    seen = counts(4, right=2)
    unseen = counts(4, right=2, start=4, split="held-out")
    flags = compare_scores(*join(seen, unseen, other_axes())).flags
    assert [(flag.code, flag.split) for flag in flags] == [
        ("few-items", "all"), ("few-items", "held-in"), ("few-items", "held-out"),
    ]  # fmt: skip
