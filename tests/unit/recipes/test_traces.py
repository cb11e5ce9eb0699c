"""`actune convert` of traces: every trace is written, left out by a flag that says how many, or listed with its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actune.cli.main import main
from actune.data.reading.sources import load_conversations

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "w", "parameters": {"type": "object", "properties": {}}},
}
OTHER = {
    "type": "function",
    "function": {"name": "other", "description": "o", "parameters": {"type": "object", "properties": {}}},
}


def make(
    task: str,
    *,
    sample: int | None = None,
    calls: int = 1,
    faults: dict | None = None,
    reason: str = "answer",
    tool: str = "weather",
    answer: str = "sunny",
    tokens: int = 5,
    **more,
) -> dict:
    """A trace in ReAct text with so many calls; `faults`: step -> what it has beside its output."""
    messages = [{"role": "user", "content": f"q {task}"}]
    steps = []
    for number in range(calls):
        function = {"name": tool, "arguments": json.dumps({"n": number})}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": "o"},
        ]
        step = {
            "output": f"Action: {tool}\nAction Input: {function['arguments']}\nObservation:",
            "calls": [{"name": tool, "arguments": {"n": number}}],
        }
        steps.append(step | {"observations": ["o"], "seconds": 0.1, "tokens": tokens})
    row = {
        "version": 1,
        "id": task,
        "dialect": "react",
        "prompt": f"q {task}",
        "stop_reason": reason,
        "tools": [TOOL, OTHER],
    }
    if reason == "answer":
        messages.append({"role": "assistant", "content": answer})
        steps.append(
            {"output": f"Final Answer: {answer}", "calls": [], "observations": [], "seconds": 0.1, "tokens": tokens}
        )
        row["final_answer"] = answer
    for number, fault in (faults or {}).items():
        steps[number] |= fault
    return row | ({} if sample is None else {"sample": sample}) | {"steps": steps, "messages": messages} | more


ERROR = {"error": "tool-error: no such city"}
TRACES = [
    make("a", sample=0, calls=2),
    make("a", sample=1, calls=1, tokens=9),
    make("a", sample=2, calls=1, tokens=5),
    make("a", sample=3, calls=1, tokens=5),  # as the one before
    make("b", faults={0: ERROR}),
    make("c", faults={0: {"repaired": [0]}, 1: {"error": "output-cut"}}),
    make("d", reason="steps", calls=3),
    make("e", tool="other"),
    make("f", faults={0: {"error": "output-cut"}}),
    make("g", calls=0, answer="no call"),
]


@pytest.fixture
def convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"

    def do(
        *flags: str, traces: list[dict] = TRACES, to: str = "ms-agent", code: int = 0
    ) -> tuple[list[dict], dict[str, int], str]:
        source.write_text("".join(json.dumps(row) + "\n" for row in traces), encoding="utf-8")
        out.with_name("rows.jsonl.quarantine.jsonl").unlink(missing_ok=True)
        assert main(["convert", str(source), str(out), "--to", to, "--overwrite", *flags]) == code
        said = capsys.readouterr().err
        if code == 2:
            return [], {}, " ".join(said.split())
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        left = {flag: int(count) for count, flag in re.findall(r"^(\d+) left out by (.*)$", said, re.MULTILINE)}
        quarantine = out.with_name("rows.jsonl.quarantine.jsonl")
        bad = quarantine.read_text(encoding="utf-8").splitlines() if quarantine.exists() else []
        assert len(rows) + sum(left.values()) + len(bad) == len(traces)  # in is out and left out
        assert f"{len(rows)} of {len(traces)} rows written" in said
        return rows, left, " ".join(said.split())

    return do


def ids(rows: list[dict]) -> str:
    return " ".join(row["id"] for row in rows)


def test_without_filters_every_trace_is_a_row_and_what_there_was_is_said(convert):
    rows, left, said = convert()
    assert ids(rows) == "a#0 a#1 a#2 a#3 b c d e f g"
    assert left == {}
    assert "traces by stop_reason: 9 answer, 1 steps" in said
    assert "1 traces that are kept end without an answer; --stop_reason answer leaves them out" in said
    assert "2 traces that are kept have steps with errors or repaired arguments (2 steps)" in said


@pytest.mark.parametrize(
    ("flags", "kept", "left"),
    [
        (["--stop_reason", "answer"], "a#0 a#1 a#2 a#3 b c e f g", {"--stop_reason": 1}),
        (["--stop_reason", "steps", "loop"], "d", {"--stop_reason": 9}),
        (["--bad_steps", "drop"], "a#0 a#1 a#2 a#3 d e f g", {"--bad_steps drop": 2}),
        (["--min_steps", "2", "--max_steps", "2"], "a#1 a#2 a#3 b c e f", {"--min_steps": 1, "--max_steps": 2}),
        (["--with_tools", "other"], "e", {"--with_tools": 9}),
        (["--unique"], "a#0 a#1 b c d e f g", {"--unique": 2}),
        (["--per_task", "1"], "a#2 b c d e f g", {"--per_task": 3}),
        (["--unique", "--per_task", "2"], "a#0 a#1 b c d e f g", {"--unique": 2, "--per_task": 0}),
        (["--stop_reason", "answer", "--bad_steps", "drop", "--with_tools", "weather", "--per_task", "1"], "a#2 f", {"--stop_reason": 1, "--bad_steps drop": 2, "--with_tools": 2, "--per_task": 3}),
    ],
)  # fmt: skip
def test_each_flag_says_how_many_it_leaves_out(convert, flags, kept, left):
    rows, found, _ = convert(*flags)
    assert ids(rows) == kept
    assert found == left


def test_bad_steps_stay_as_context_without_being_trained(convert, tmp_path):
    rows, left, _ = convert("--bad_steps", "untrain", to="trace")
    assert left == {}
    assert len(rows) == len(TRACES)
    path = tmp_path / "kept.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trained = {
        c.id: [m.train for m in c.messages if m.role == "assistant"]
        for c in load_conversations(str(path)).conversations
    }
    assert (trained["b"], trained["c"], trained["f"]) == ([False, True], [False, True], [True, True])
    # One text a turn has one weight: such rows are listed, with what to do.
    rows, _, _ = convert("--bad_steps", "untrain", code=1)
    assert ids(rows) == "a#0 a#1 a#2 a#3 d e f g"
    entries = (tmp_path / "rows.jsonl.quarantine.jsonl").read_text(encoding="utf-8")
    assert entries.count("react-weights") == 2
    assert entries.count("--to trace") == 2
    rows, _, _ = convert("--bad_steps", "untrain", to="openai")
    flags = {row["id"]: [m.get("train", True) for m in row["messages"] if m["role"] == "assistant"] for row in rows}
    assert flags["b"] == [False, True]


def test_a_trace_of_bad_steps_alone_is_listed(convert):
    rows, _, _ = convert("--bad_steps", "untrain", to="trace", traces=[make("x", faults={0: ERROR, 1: ERROR})], code=1)
    assert rows == []


def test_lines_of_traces_are_copied_as_they_are(convert):
    rows, _, _ = convert(to="trace")
    assert rows == TRACES


KEEP = "def keep(trace):\n    trace['steps'].clear()\n    {}\n"


@pytest.mark.parametrize(
    ("body", "flags", "kept"),
    [
        ("return trace.get('final_answer') == 'no call'", [], "g"),
        ("return 'abcdefg'.index(trace['id'])", [], "b c d e f g"),
        ("return -1.5 if trace['id'] == 'd' else 2", ["--min_score", "-2"], "a#0 a#1 a#2 a#3 b c d e f g"),
        ("return trace.get('sample', 9)", ["--min_score", "2"], "a#2 a#3 b c d e f g"),
        ("return float(trace.get('sample', 0)) + 1", ["--per_task", "1"], "a#3 b c d e f g"),
    ],
)
def test_a_function_of_the_user_decides_or_scores(convert, tmp_path, body, flags, kept):
    file = tmp_path / "check.py"
    file.write_text(KEEP.format(body), encoding="utf-8")
    rows, left, _ = convert("--keep_if", str(file), *flags)
    assert ids(rows) == kept
    assert sum(left.values()) == len(TRACES) - len(rows)
    assert all(row["conversations"] for row in rows)  # what the function does to its copy changes no row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "defines no function keep"),
        ("def keep(trace):\n    return trace['nothing']\n", "traces.jsonl:1: KeyError: 'nothing'"),
        ("def keep(trace):\n    return 'yes'\n", "keep returned 'yes'"),
        ("def keep(trace):\n    return float('nan')\n", "keep returned nan"),
        ("def keep(trace:\n", "check.py:1:"),
        ("raise SystemExit\n", "SystemExit"),
    ],
)
def test_a_function_that_fails_stops_everything(convert, tmp_path, text, said):
    file = tmp_path / "check.py"
    file.write_text(text, encoding="utf-8")
    assert said in convert("--keep_if", str(file), code=2)[2]


def write_scores(path: Path, scores: dict[str, float], metric: str = "strict_call") -> str:
    common = {"task": "t", "axis": "agent", "split": "all", "metric": metric, "output": "", "gold": ""}
    lines = [json.dumps(common | {"id": key, "cluster": key, "score": value}) for key, value in scores.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_scores_are_joined_by_the_id_of_the_task(convert, tmp_path):
    scores = write_scores(tmp_path / "items.jsonl", {"a": 0.5, "b": 1.0, "c": 0.0})
    rows, left, _ = convert("--scores", scores, "--min_score", "0.5")
    assert ids(rows) == "a#0 a#1 a#2 a#3 b"
    assert left == {"--scores (no score of that id)": 4, "--min_score": 1}
    said = convert("--scores", scores, "--min_score", "1", "--metric", "x", code=2)[2]
    assert "no metric 'x'" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--stop_reason", "done"], "--stop_reason done: no such reason"),
        (["--per_task", "0"], "--per_task is 0"),
        (["--min_score", "1"], "--min_score needs scores"),
        (["--metric", "x"], "--metric names a score"),
        (["--scores", "x.jsonl"], "--scores alone leaves nothing out"),
        (["--keep_if", "nowhere.py"], "nowhere.py is no file"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(convert, flags, said):
    assert said in convert(*flags, code=2)[2]


def test_lines_have_their_dialect(convert):
    assert "--to trace copies lines" in convert("--dialect", "react", to="trace", code=2)[2]


def test_filters_are_for_traces(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}', encoding="utf-8"
    )
    for flags in (["--to", "openai", "--unique"], ["--to", "trace"]):
        assert main(["convert", str(source), str(tmp_path / "out.jsonl"), *flags]) == 2
        assert "holds none" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_read_is_listed_and_counted(convert, tmp_path):
    broken = make("x") | {"version": 9}
    hallucinated = make("y", tool="nothing")
    rows, _, said = convert("--stop_reason", "answer", traces=[*TRACES, broken, hallucinated], code=1)
    assert len(rows) == 9
    assert "2 rows left out, listed with reasons" in said
    codes = [json.loads(line)["code"] for line in (tmp_path / "rows.jsonl.quarantine.jsonl").read_text().splitlines()]
    assert codes == ["trace-version", "unknown-tool"]
    # A trace that a filter leaves out is no fault, whatever it holds; what is no trace at all always is one.
    rows, left, _ = convert("--with_tools", "weather", traces=[*TRACES, hallucinated])
    assert left == {"--with_tools": 3}
    convert(
        "--with_tools",
        "weather",
        traces=[*TRACES, {"version": 1, "prompt": "", "steps": [1], "stop_reason": ""}],
        code=1,
    )


def test_a_cut_history_is_said(convert):
    messages = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "x"}, *TRACES[0]["messages"]]
    rows, _, said = convert(
        traces=[make("a", calls=2, messages=messages, dropped=[{"step": 1, "messages": 2}])], to="openai"
    )
    assert "1 traces that are kept had their history cut" in said
    assert [message["content"] for message in rows[0]["messages"] if message["role"] == "user"] == ["q a"]
    assert [m.get("train", True) for m in rows[0]["messages"] if m["role"] == "assistant"] == [False, True, True]
