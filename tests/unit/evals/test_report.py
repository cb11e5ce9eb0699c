import base64
import datetime
import hashlib
import html
import itertools
import json
import re
import string
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from actune.core.errors import ConfigError
from actune.evals import charts, report_numbers
from actune.evals.charts import Point
from actune.evals.compare import FLAG_CODES, compare_scores
from actune.evals.items import Score
from actune.evals.report import Part, ReportData, Side, TrainedExample, Transcript, page, write_page
from actune.evals.report_examples import LONGEST, fold, show_items
from actune.evals.report_texts import TEXTS, reveal, same

DAY = datetime.date(2026, 11, 22)
HOSTILE = "<script>alert(1)</script></style><img src=x onerror=y>\"'&lt;{{ 7*7 }}{base}"


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "level": "axis", "axis": "agent", "task": "calls", "metric": "strict_call", "split": "all", "primary": True,
        "n": 1120, "base": 0.4166, "tuned": 0.8083, "difference": 0.3917, "ci95": [0.3012, 0.4721],
        "ci90": [0.32, 0.46], "fixed": 500, "broken": 61, "mcnemar_p": 0.0031, "verdict": "gained", "n_needed": None,
    }  # fmt: skip
    return base | changes


LOST = row(level="split", split="held-out", n=30, base=0.4667, tuned=0.2333, difference=-0.2333, ci95=[-0.41, -0.04],
           ci90=[-0.38, -0.07], mcnemar_p=0.00001, verdict="lost")  # fmt: skip
NLL = row(axis="general", metric="general_nll", task="text", base=-2.31, tuned=-2.35, difference=-0.04,
          ci95=[-0.05, -0.03], ci90=[-0.048, -0.032], mcnemar_p=None, verdict="undecided", n_needed=5000)  # fmt: skip


def comparison(*rows: dict[str, Any], flags: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    files = {"base_file": "runs/a b/base.jsonl", "tuned_file": "runs/a b/tuned.jsonl"}
    return {"version": 1, "files": files, "flags": list(flags), "rows": list(rows)}


def flag(code: str, axis: str = "agent", split: str = "held-out") -> dict[str, Any]:
    message = f"message of {code}: general_nll from -2.310 to -2.350"
    return {"code": code, "axis": axis, "split": split, "message": message}


def little(*rows: dict[str, Any], **values: Any) -> ReportData:
    return ReportData(comparison=comparison(*(rows or (row(), LOST, NLL))), made=DAY, **values)


def score(
    name: str, value: float, *, split: Any = "held-in", output: Any = "out", metric: str = "strict_call"
) -> Score:
    return Score(
        id=name, task="calls", axis="agent", split=split, cluster=name, metric=metric, score=value, output=output, gold="g"
    )  # fmt: skip


RUN = {
    "version": 1, "date": "2026-11-20", "seed": 42, "model_dir": "/models/tiny",
    "settings": {"model": {"model_id_or_path": "org/tiny"}, "training": {"seed": 42, "learning_rate": 5e-5}},
    "data": {
        "fingerprint": "abc",
        "sources": [
            {"name": "/d/agent.jsonl", "role": "agent", "read": 3600, "unreadable": 2,
             "tally": {"rows": 3559, "tokens": 6600599, "supervised": 890944, "over_long": 3, "quarantined": 1,
                       "shortened": 0, "warnings": 12}},
            {"name": "/d/agent.jsonl", "role": "validation", "read": 36, "unreadable": 0,
             "tally": {"rows": 36, "tokens": 64194, "supervised": 8660, "over_long": 0, "quarantined": 0,
                       "shortened": 0, "warnings": 0}},
        ],
    },
    "notices": ["a notice <b>"], "versions": {"torch": "2.13.0"}, "platform": "Linux",
}  # fmt: skip
TRANSCRIPT = Transcript(
    id="fire", axis="agent", title="Fire", question="着火了吗？",
    base=Side(parts=(Part(kind="output", text="no idea"),), note="ended early"),
    tuned=Side(
        parts=(Part(kind="output", text="Action: look\nObservation:"), Part(kind="observation", text="there is fire"))
    ),
    gold="look",
)  # fmt: skip


def full(**changes: Any) -> ReportData:
    data = ReportData(
        comparison=comparison(row(), LOST, NLL, flags=(flag("small-loss", "general", "all"), flag("lost-split"))),
        base_scores=[score("a", 0.0), score("b", 1.0), score("c", 1.0)],
        tuned_scores=[score("c", 1.0), score("b", 0.0), score("a", 1.0)],
        transcripts=[TRANSCRIPT],
        run=RUN,
        metrics=[{"step": step, "loss": 2.0 / step, "learning_rate": 1e-4} for step in range(1, 31)]
        + [{"step": 30, "eval": {"loss": 0.5}}],
        trained=TrainedExample(prompt="read this", completion="write this", source="agent.jsonl:7"),
        extra={"over_trigger": 0.05, "seconds": 3725.0, "peak_memory_bytes": 3 * 2**30, "margin": 0.02},
        made=DAY,
    )
    return replace(data, **changes)


class Page(HTMLParser):
    """What a browser makes of a page: its tags, the text of one language, whether tags are balanced."""

    VOID = frozenset({"meta", "input", "img", "br", "line", "circle", "polygon", "polyline"})

    def __init__(self, text: str, language: str = "en") -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, bool]] = []
        self.words: list[str] = []
        self.other = "l-zh" if language == "en" else "l-en"
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        hidden = self.other in (values.get("class") or "").split() or tag in ("style", "title", "desc")
        if tag not in self.VOID:
            self.open.append((tag, hidden or (bool(self.open) and self.open[-1][1])))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not (self.open and self.open[-1][1]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.words))


@pytest.mark.parametrize(
    "data", [little(), full(), ReportData(comparison={}, made=DAY)], ids=["little", "full", "none"]
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_asks_for_nothing_and_runs_nothing(data: ReportData, language: Any) -> None:
    text = page(data, language)
    parsed = Page(text)
    names = {name for name, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base", "a", "use", "image"}
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name in ("src", "href", "style", "action") or name.startswith("on")]
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_policy_allows_the_style_sheet_of_the_page_and_nothing_else() -> None:
    text = page(full())
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(values["content"] for name, values in Page(text).tags if name == "meta" and "http-equiv" in values)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_texts_from_outside_never_become_markup() -> None:
    part = Part(kind="output", text=HOSTILE)
    transcript = Transcript(
        id=HOSTILE, axis=HOSTILE, title=HOSTILE, question=HOSTILE, gold=HOSTILE,
        base=Side(parts=(part, replace(part, kind="observation"), replace(part, kind="prompt")), note=HOSTILE),
        tuned=Side(parts=()),
    )  # fmt: skip
    names = dict.fromkeys(("axis", "task", "metric", "split", "verdict"), HOSTILE)
    run = json.loads(json.dumps(RUN).replace("a notice <b>", "N").replace("/d/agent.jsonl", "S"))
    run["notices"] = run["versions"][HOSTILE] = run["settings"][HOSTILE] = run["platform"] = HOSTILE
    run["notices"], run["data"]["sources"][0]["name"], run["data"]["sources"][0]["role"] = [HOSTILE], HOSTILE, HOSTILE
    sides = [score(HOSTILE, value, output={"text": HOSTILE, "error": HOSTILE}) for value in (0.0, 1.0)]
    data = full(
        comparison={
            **comparison(row(), row(**names), flags=(flag(HOSTILE),)),
            "files": {"base_file": HOSTILE, "tuned_file": HOSTILE},
        },
        transcripts=[transcript], run=run, title=HOSTILE, extra={HOSTILE: {HOSTILE: HOSTILE}},
        trained=TrainedExample(prompt=HOSTILE, completion=HOSTILE, source=HOSTILE),
        base_scores=sides[:1], tuned_scores=sides[1:],
    )  # fmt: skip
    text = page(data)
    parsed = Page(text)
    assert not {"script", "img"} & {name for name, _ in parsed.tags}
    assert text.count("</style>") == 1
    assert "49" not in "".join(parsed.words).split("alert(1)")[1][:80]
    # It is all there, only as text.
    assert "".join(parsed.words).count(HOSTILE) >= 20


def test_what_cannot_be_seen_is_named() -> None:
    shown = reveal("a\x00b\u202ec\r\nd\u200b\ud800\x1b[31m\u2066")
    assert re.findall(r">U\+([0-9A-F]+)<", shown) == ["0000", "202E", "000D", "200B", "D800", "001B", "2066"]
    assert not re.search("[\x00\u202e\r\u200b\ud800\x1b\u2066]", shown)
    assert "\n" in shown
    assert reveal("👩\u200d💻 中文\tعربي\n") == "👩\u200d💻 中文\tعربي\n"
    assert reveal("U+0041\x01") == 'U+0041<span class="mark">U+0001</span>'


def test_what_is_repeated_and_cannot_be_seen_is_named_once_with_its_count() -> None:
    assert reveal("a" + "\ufffd" * 1200 + "b") == 'a<span class="mark">U+FFFD × 1,200</span>b'
    assert reveal("a" + "\n" * 200 + "b") == 'a\n<span class="mark">U+000A × 200</span>\nb'
    assert reveal("a" + "\n" * 5 + "b") == "a\n\n\n\n\nb"
    assert reveal("\x00\x01") == '<span class="mark">U+0000</span><span class="mark">U+0001</span>'


def test_page_holds_no_unseen_character(tmp_path: Path) -> None:
    text = "x\x00\u202e\ud800\x85"
    sides = Side(parts=(Part(kind="output", text=text),))
    write_page(tmp_path / "p.html", full(title=text, transcripts=[replace(TRANSCRIPT, base=sides, title=text)]))
    stored = (tmp_path / "p.html").read_bytes().decode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", stored)


def test_a_long_output_is_folded_and_its_cut_said() -> None:
    text = "0123456789" * 100_000
    data = full(transcripts=[replace(TRANSCRIPT, tuned=Side(parts=(Part(kind="output", text=text),)))])
    shown = page(data)
    assert len(shown) < 400_000
    assert f"{1_000_000 - LONGEST:,} of 1,000,000 characters are not in this page" in Page(shown).text
    assert "report.json, fire" in Page(shown).text
    assert "1,000,000 个字符" in Page(shown, "zh").text


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("text", ["", "short", "a line\n" * 400, "no lines at all " * 300])
def test_folding_loses_nothing(text: str, end: bool) -> None:
    folded = fold(text, head=500, place=same("x"), end=end)
    parts = (folded.rest, folded.shown) if end else (folded.shown, folded.rest)
    assert "".join(html.unescape(str(part)) for part in parts) == text
    assert folded.cut is None
    assert len(folded.shown) <= 700


def test_outputs_are_shown_as_they_are() -> None:
    raw = "Action:  look\nAction Input: {'a':1}\n\n  Observation:"
    transcript = replace(TRANSCRIPT, tuned=Side(parts=(Part(kind="output", text=raw),)))
    item = score("a", 1.0, output={"text": "  raw {'x':1}\n", "calls": [], "error": "calls-unreadable"})
    parsed = Page(page(full(transcripts=[transcript], tuned_scores=[item])))
    assert raw in "".join(parsed.words)
    assert "  raw {'x':1}\n" in "".join(parsed.words)
    assert "calls-unreadable" in parsed.text


def test_verdicts_in_plain_words() -> None:
    english, chinese = Page(page(little())).text, Page(page(little()), "zh").text
    assert "Agent: ▲ gained, 0.42 → 0.81 (+0.39, 95\u202f% interval +0.30 to +0.47), n\u00a0=\u00a01,120" in english
    assert "智能体：▲ 提升，0.42 → 0.81（+0.39，95\u202f% 置信区间 +0.30 至 +0.47），n\u00a0=\u00a01,120" in chinese
    assert "General: ? undecided, −2.31 → −2.35" in english
    assert "As a loss: 2.310 → 2.350 nats a token, so perplexity is 4.1\u202f% higher" in english
    assert "would need about 5,000 items" in english
    assert "p = 0.003" in english
    assert "p < 0.001" in english


def test_flags_come_first_and_lost_splits_before_others() -> None:
    text = Page(page(full())).text
    lost, small = text.index("Lost on a part: Agent, tools not seen in training"), text.index("Small loss: General")
    assert lost < small < text.index("Agent: ▲ gained")
    assert "0.47 → 0.23 (−0.23, 95\u202f% interval −0.41 to −0.04)" in text[lost:small]


def test_a_flag_that_is_not_known_shows_its_message() -> None:
    data = little()
    data = replace(data, comparison={**data.comparison, "flags": [flag("odd"), flag("lost-split", "other")]})
    text = Page(page(data)).text
    assert "message of odd" in text
    assert "message of lost-split" in text


def test_a_small_loss_is_told_of_the_row_that_has_it() -> None:
    other = row(level="metric", metric="key_f1", primary=False, base=0.5, tuned=0.49, ci95=[-0.015, -0.005])
    told = {**flag("small-loss", "agent", "all"), "message": "key_f1 fell from 0.500 to 0.490"}
    data = replace(little(), comparison=comparison(row(), other, flags=(told,)))
    text = Page(page(data)).text
    assert "Small loss: Agent. key_f1 is within the margin" in text
    assert "0.500 → 0.490" in text
    unknown = replace(data, comparison=comparison(row(), other, flags=({**told, "message": "something else"},)))
    assert "Small loss: Agent. something else" in Page(page(unknown)).text


def test_a_real_comparison_fills_the_page() -> None:
    base, tuned = [], []
    for number in range(60):
        split, hit = ("held-in", 1.0) if number < 40 else ("held-out", 0.0)
        base.append(score(f"i{number}", 1.0 - hit, split=split))
        tuned.append(score(f"i{number}", hit, split=split))
    compared = compare_scores(base, tuned, margin=0.02, files=("b.jsonl", "t.jsonl")).to_json()
    data = ReportData(comparison=compared, base_scores=base, tuned_scores=tuned, extra={"margin": 0.02}, made=DAY)
    english, chinese = Page(page(data)).text, Page(page(data), "zh").text
    assert english.index("Lost on a part: Agent, tools not seen in training") < english.index("Not measured: General")
    assert "Few items: Agent, tools not seen in training" in english
    assert "So few that the interval is wide: 1.00 → 0.00" in english
    assert "题目较少：智能体，训练中未见过的工具" in chinese
    assert "无法说明训练是有益还是有害" in chinese
    assert "Agent: fixed, 3 of 40" in english
    # Every row of the comparison stands there once: one task, so the rows of the metric repeat those of the axis.
    assert "All other metrics" not in english
    assert page(data).count('<tr role="row" class="') == 3


def test_every_flag_of_a_comparison_has_a_title_in_both_languages() -> None:
    for code in FLAG_CODES:
        assert {f"flag_{code}", f"flag_{code}_text"} <= set(TEXTS)


def test_margin_is_the_one_that_was_used() -> None:
    assert "margin −0.02 " in Page(page(little(extra={"margin": 0.02}))).text
    both = replace(little(extra={"margin": 0.02}), comparison={**comparison(row()), "margin": 0.05})
    text = Page(page(both)).text
    assert "margin −0.05 " in text
    assert "actune compare 'runs/a b/base.jsonl' 'runs/a b/tuned.jsonl' --margin 0.05" in text
    assert "margin given to the comparison" in Page(page(little())).text


def test_rows_of_other_metrics_are_folded_away() -> None:
    other = row(level="metric", metric="tool_name", primary=False, split="held-in")
    text = page(little(row(), LOST, other))
    main, folded = text.split('<table class="main"')[1].split("</table>")[0], text.split('<table class="others">')[1]
    assert "tool_name" in folded
    assert "tool_name" not in main
    assert "tools not seen in training" in main
    # An axis that is not split stands there once.
    assert page(little(NLL, NLL | {"level": "split"})).count('<tr role="row" class="') == 1


def test_what_is_missing_is_said_and_nothing_is_empty() -> None:
    text = Page(page(little())).text
    for name in ("Loss curve", "Data, settings and versions", "A trained row", "Transcripts:", "Items that changed:"):
        assert name in text
    assert "Not in this page" not in Page(page(full())).text
    assert "Loss by step" not in page(little())
    assert "no verdict" in Page(page(ReportData(comparison={}, made=DAY))).text


def test_everything_of_a_run_is_shown() -> None:
    text = Page(page(full())).text
    for part in (
        "model org/tiny", "run of 2026-11-20", "seed 42", "Page made 2026-11-22", "6,600,599", "890,944 (13\u202f%)",
        "Left out: 6 rows (3 too long, 3 unusable)", "a notice <b>", "training.learning_rate", "5e-05", "torch", "abc",
        "agent.jsonl:7", "read this", "write this", "着火了吗？", "ended early", "there is fire", "1 h 02 min", "3.00 GiB",
        "5.0\u202f% (tuned)", "2.000 at step 1, 0.067 at step 30", "lowest 0.500 at step 30",
        "Agent: fixed, 1 of 1", "Agent: broken, 1 of 1",
    ):  # fmt: skip
        assert part in text, part


def test_both_languages_stand_in_the_page_and_the_first_is_chosen() -> None:
    for language, first in (("en", "choose-en"), ("zh", "choose-zh")):
        text = page(full(), language)  # type: ignore[arg-type]
        parsed = Page(text)
        chosen = [values["id"] for name, values in parsed.tags if name == "input" and "checked" in values]
        assert chosen == [first]
        assert parsed.tags[0] == ("html", {"lang": "en" if language == "en" else "zh-CN"})
        for english, chinese in (TEXTS["verdicts"], TEXTS["transcripts"], TEXTS["read_order"]):
            assert english in Page(text, "en").text
            assert chinese in Page(text, "zh").text
            assert chinese not in Page(text, "en").text
    for name, values in Page(page(full())).tags:
        if (values.get("class") or "").startswith(("l-en", "l-zh")):
            assert values["lang"] == ("en" if "l-en" in str(values["class"]) else "zh-CN"), name


def test_ids_are_unique() -> None:
    ids = [values["id"] for _, values in Page(page(full())).tags if "id" in values]
    assert len(ids) == len(set(ids))


def test_texts_have_the_same_values_in_both_languages() -> None:
    for key, pair in TEXTS.items():
        if key.endswith("_text") and pair[0] == "{message}":
            continue  # in English the message itself says it
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name is not None} for text in pair]
        assert fields[0] == fields[1], key
        assert all(pair), key


def test_page_is_the_same_whatever_the_order_of_items() -> None:
    data = full()
    turned = replace(data, base_scores=data.base_scores[::-1], tuned_scores=data.tuned_scores[::-1])
    assert page(data) == page(turned)


def test_changed_items_come_from_every_split_and_are_counted() -> None:
    before = [score(f"i{number}", 0.0, split="held-in") for number in range(50)] + [score("x", 0.0, split="no-tool")]
    after = [replace(one, score=1.0) for one in before]
    groups = show_items(before, after, [("agent", "strict_call")], ("b", "t"))
    assert [str(group.title.en) for group in groups] == ["Agent: fixed, 3 of 51"]
    assert "x" in [str(card.title.en) for card in groups[0].cards]
    assert show_items(before, after, [("agent", "decision")], ("b", "t")) == ()


def test_scores_that_are_no_hits_show_the_largest_changes() -> None:
    before = [score(f"i{number}", -2.0, metric="general_nll") for number in range(9)]
    after = [replace(one, score=-2.0 + 0.1 * (number - 4)) for number, one in enumerate(before)]
    groups = show_items(before, after, [("agent", "general_nll")], ("b", "t"))
    assert [[str(card.title.en) for card in group.cards] for group in groups] == [
        ["i8", "i7", "i6"],
        ["i0", "i1", "i2"],
    ]


def test_values_that_are_no_numbers_are_a_dash() -> None:
    nan = float("nan")
    text = page(little(row(base=None, tuned=nan, difference="x", ci95=[1], ci90=None, mcnemar_p=nan, verdict="new")))
    assert "nan" not in Page(text).text.replace("nanats", "")
    assert "– → – (–" in Page(text).text
    assert "new" in Page(text).text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (report_numbers.fixed(-1234.5, 1), "−1,234.5"),
        (report_numbers.fixed(-0.0001, 2), "0.00"),
        (report_numbers.signed(0.0001, 2), "0.00"),
        (report_numbers.signed(0.25, 2), "+0.25"),
        (report_numbers.p_value(0.0009), "p < 0.001"),
        (report_numbers.p_value(0.0031), "p = 0.003"),
        (report_numbers.p_value(1.0), "p = 1.00"),
        (report_numbers.p_value(None), "–"),
        (report_numbers.count(1234567), "1,234,567"),
        (report_numbers.seconds(3725), "1 h 02 min"),
        (report_numbers.seconds(59.97), "1 min 00 s"),
        (report_numbers.plain(0.05), "0.05"),
        (report_numbers.plain(9.7e-5), "9.7e−05"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_digits_follow_the_interval() -> None:
    assert report_numbers.digits_for(0.30, 0.47) == 2
    assert report_numbers.digits_for(-0.019, -0.0115) == 3
    assert report_numbers.digits_for(0.0, 1e-9) == 4


def test_axes_hold_their_values_at_round_ticks() -> None:
    for values in ([0.61, 2.4], [8.59, 8.77], [-3.0, 4.0], [1.0], [0.0], [1e-7, 3e-7], [0.03, 1e6]):
        low, high, ticks = charts.nice_axis(values)
        assert low <= min(values) <= max(values) <= high
        assert 2 <= len(ticks) <= 12
        steps = {round((b - a) / (high - low), 6) for a, b in itertools.pairwise(ticks)}
        assert len(steps) == 1


def test_a_long_curve_is_drawn_by_ranges_that_hold_every_point() -> None:
    points = [Point(step=step, value=float(step % 97)) for step in range(100_000)]
    runs = charts.ranges(points, 280)
    assert len(runs) <= 280
    assert min(low for _, low, _, _ in runs) == 0
    assert max(high for _, _, _, high in runs) == 96
    metrics = [{"step": point.step, "loss": point.value} for point in points] + [{"step": 7, "tokens": 3}]
    text = page(little(metrics=metrics))
    assert len(text) < 150_000
    assert "100,000 logged steps are drawn by ranges" in Page(text).text
    assert "1 logged steps have no finite loss" in Page(text).text


def test_a_curve_of_one_point_is_drawn() -> None:
    assert 'class="c-dot"' in page(little(metrics=[{"step": 1, "loss": 2.5, "learning_rate": 0.0}]))


def test_the_margin_line_lies_left_of_zero_where_it_should() -> None:
    interval = charts.Interval(value=0.1, low95=0.0, high95=0.2, low90=0.05, high90=0.15, margin=0.1)
    drawn = str(charts.interval_bar(interval, 0.2))
    zero = float(re.search(r'class="b-zero" x1="([\d.]+)"', drawn)[1])  # type: ignore[index]
    margin = float(re.search(r'class="b-margin" x1="([\d.]+)"', drawn)[1])  # type: ignore[index]
    point = float(re.search(r'cx="([\d.]+)"', drawn)[1])  # type: ignore[index]
    assert zero - margin == pytest.approx(point - zero)
    assert 'aria-hidden="true"' in drawn


def test_writing_needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        write_page(tmp_path / "absent" / "page.html", little())
    write_page(tmp_path / "page.html", little(), language="zh")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page(little(), "zh")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_every_text_colour_is_enough() -> None:
    style = page(little()).split("<style>")[1].split("</style>")[0]
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 3
    pairs = [
        (ink, ground)
        for ink in ("ink", "soft", "accent", "gained", "lost", "kept", "undecided")
        for ground in ("paper", "raised")
    ]
    pairs += [("ink", "grave"), ("lost", "grave"), ("ink", "mild"), ("undecided", "mild"), ("ink", "learned")]
    pairs += [("gained", "learned"), ("ink", "mark")]
    for theme in themes:
        for ink, ground in pairs:
            light, dark = sorted((_luminance(theme[ink]), _luminance(theme[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme["paper"])
