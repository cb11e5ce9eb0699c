"""`actune convert`: every row is written or listed, both dialects, and what is written reads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.cli.main import main
from actune.core.api_list import write_system
from actune.core.conversion import to_react
from actune.core.differences import find_difference
from actune.core.types import ToolSpec
from actune.data.reading.sources import load_conversations

ROOT = Path(__file__).resolve().parents[3]
AGENT = ROOT / "examples" / "agent.jsonl"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "City."}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}
SYSTEM = write_system("", (ToolSpec(name="weather", description="Weather.", parameters=SCHEMA),))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def react_row(arguments: str) -> dict:
    text = f"Thought: look\nAction: weather\nAction Input: {arguments}\nObservation: sunny\nThought: so\nFinal Answer: Sunny."
    return {
        "conversations": [
            {"from": "system", "value": SYSTEM},
            {"from": "user", "value": "q"},
            {"from": "assistant", "value": text},
        ]
    }


def native_row(*calls: dict, **extra) -> dict:
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": list(calls)} | extra,
        *results,
        {"role": "assistant", "content": "Sunny."},
    ]
    return {"messages": messages, "tools": [WEATHER]}


def call(number: int, arguments: str = '{"city": "Rome"}') -> dict:
    return {"id": f"c{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_react_becomes_native_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [react_row("{'city': 'Rome'}"), react_row("Rome"), react_row('{ "city": "Rome" }')]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["convert", str(source), str(out), "--to", "openai", "--dialect", "chat"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 rows written" in said
    assert "1 of them had arguments as Python literals" in said
    literal, json_text = read_lines(out)
    assert [message["role"] for message in literal["messages"]] == ["user", "assistant", "tool", "assistant"]
    step, result, answer = literal["messages"][1:]
    assert step["reasoning_content"] == "look"
    assert step["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert result["tool_call_id"] == step["tool_calls"][0]["id"]
    assert (answer["reasoning_content"], answer["content"]) == ("so", "Sunny.")
    assert literal["tools"] == [WEATHER]
    assert json_text["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{ "city": "Rome" }'
    (bad,) = read_lines(tmp_path / "out.jsonl.quarantine.jsonl")
    assert (bad["line"], bad["code"]) == (2, "arguments-unreadable")
    assert bad["field"] == "messages[1].tool_calls[0].arguments"
    assert bad["fix"]


@pytest.mark.parametrize(("dialect", "opening"), [("react", "Answer the following"), ("react_zh", "请尽你所能")])
def test_native_calls_become_react_text_in_either_language(tmp_path: Path, dialect: str, opening: str):
    rows = [native_row(call(1), reasoning_content="hm"), native_row(call(1), call(2))]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for to in ("ms-agent", "openai", "sharegpt", "swift", "alpaca", "query-response"):
        line = ["convert", str(source), str(out), "--to", to, "--dialect", dialect, "--overwrite"]
        assert main(line) == 1
        loaded = load_conversations(str(out), format_name=to)
        (conversation,) = loaded.conversations
        assert conversation.style == dialect
        expected = to_react(load_conversations(str(source)).conversations[0], dialect)
        assert find_difference(conversation, expected) is None
        assert opening in out.read_text(encoding="utf-8")
        (bad,) = read_lines(tmp_path / "out.jsonl.quarantine.jsonl")
        assert (bad["line"], bad["code"], bad["field"]) == (2, "react-parallel-calls", "messages[1].tool_calls")


def test_the_language_of_react_rows_changes_and_the_steps_stay(tmp_path: Path):
    there, back = tmp_path / "zh.jsonl", tmp_path / "en.jsonl"
    assert main(["convert", str(AGENT), str(there), "--to", "ms-agent", "--dialect", "react_zh"]) == 0
    assert main(["convert", str(there), str(back), "--to", "ms-agent", "--dialect", "react"]) == 0
    assert "请尽你所能" in there.read_text(encoding="utf-8")
    for one, other in zip(read_lines(AGENT), read_lines(back), strict=True):
        turns = [turn for turn in one["conversations"] if turn["from"] != "system"]
        assert [turn for turn in other["conversations"] if turn["from"] != "system"] == turns


@pytest.mark.parametrize("between", ["openai", "sharegpt", "swift"])
def test_the_examples_come_back_from_native_formats(tmp_path: Path, between: str):
    native, back, once = tmp_path / "native.jsonl", tmp_path / "back.jsonl", tmp_path / "once.jsonl"
    assert main(["convert", str(AGENT), str(native), "--to", between]) == 0
    assert main(["convert", str(native), str(back), "--to", "ms-agent"]) == 0
    assert main(["convert", str(back), str(once), "--to", "ms-agent"]) == 0
    before, after = load_conversations(str(AGENT)).conversations, load_conversations(str(back)).conversations
    assert once.read_bytes() == back.read_bytes()
    assert len(after) == len(before) == 24
    for one, other in zip(before, after, strict=True):
        assert [m.content for m in one.messages] == [m.content for m in other.messages]
        assert [m.reasoning for m in one.messages] == [m.reasoning for m in other.messages]
        assert [t.name for t in one.tools] == [t.name for t in other.tools]


def test_a_format_without_calls_refuses_the_chat_dialect(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.jsonl"
    assert main(["convert", str(AGENT), str(out), "--to", "ms-agent", "--dialect", "chat"]) == 2
    assert "no native calls" in capsys.readouterr().err
    assert not out.exists()


def test_a_row_that_would_read_back_as_another_is_left_out(tmp_path: Path):
    rows = [
        # An empty system message cannot stand in the row of a format that has a key for it.
        {"messages": [{"role": "user", "content": "q", "name": "Li"}, {"role": "assistant", "content": "a"}]},
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "reasoning_content": "r"},
            ]
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a\nAction: b"}]},
    ]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["convert", str(source), str(out), "--to", "ms-agent"]) == 1
    assert read_lines(out) == []
    found = [(bad["line"], bad["code"]) for bad in read_lines(tmp_path / "out.jsonl.quarantine.jsonl")]
    assert found == [(1, "react-speaker"), (2, "react-reasoning"), (3, "react-marker-in-text")]


def test_a_writer_that_changes_a_row_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from actune.formats import openai, registry

    kept = openai.write

    def lossy(conversation):
        row = kept(conversation)
        row["messages"][0]["content"] = row["messages"][0]["content"].strip()
        return row

    form = registry.Format(name="openai", detect=openai.detect, read=openai.read, write=lossy)
    monkeypatch.setattr(registry, "get", lambda name: form)
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]} for text in ("q", "q ")
    ]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["convert", str(source), str(out), "--to", "openai", "--format", "openai"]) == 1
    assert len(read_lines(out)) == 1
    (bad,) = read_lines(tmp_path / "out.jsonl.quarantine.jsonl")
    assert (bad["line"], bad["code"], bad["field"]) == (2, "format-changes-row", "messages[0].content")


@pytest.mark.shared
@pytest.mark.parametrize("dialect", [None, "react", "react_zh", "chat"])
@pytest.mark.parametrize("to", ["openai", "sharegpt", "swift", "ms-agent"])
@pytest.mark.parametrize(
    "name", ["glaive_toolcall_en_demo.json", "glaive_toolcall_zh_demo.json", "reason_tool_use_demo_50.jsonl"]
)
def test_real_rows_are_written_or_listed(shared: Path, tmp_path: Path, name: str, to: str, dialect: str | None):
    source, out = shared / "data" / "agent" / name, tmp_path / "out.jsonl"
    line = ["convert", str(source), str(out), "--to", to, *(["--dialect", dialect] if dialect else [])]
    if (to, dialect) == ("ms-agent", "chat"):
        assert main(line) == 2
        return
    code = main(line)
    quarantine = tmp_path / "out.jsonl.quarantine.jsonl"
    bad = read_lines(quarantine) if quarantine.exists() else []
    loaded = load_conversations(str(source))
    assert len(read_lines(out)) + len(bad) == len(loaded.conversations) + len(loaded.quarantined)
    assert code == (1 if bad else 0)
    unread = len(loaded.quarantined)
    known = {"react-parallel-calls", "react-tool-schema", "react-reasoning", "tools-missing"}
    assert {entry["code"] for entry in bad[unread:]} <= known
    again = load_conversations(str(out))
    assert len(again.conversations) == len(read_lines(out))
