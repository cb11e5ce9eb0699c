"""`actune check --fix` over random files: nothing is lost, nothing else is changed, and once is enough."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actune import recipes
from actune.core.errors import ConfigError
from actune.core.types import Conversation
from actune.core.values import read_value
from actune.data.reading.sources import read_conversations

TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {
    "type": "object", "required": ["a"],
    "properties": {"a": {"type": "string"}, "n": {"type": "integer"}, "l": {"type": "array"}, "x": {"type": ["string", "null"]}},
}}}  # fmt: skip
VALUES = {
    "a": st.sampled_from(["x", "é\u200b", None]),
    "n": st.sampled_from([1, None, "2"]),
    "l": st.sampled_from([[1], "[1, null]", "[", None]),
    "x": st.sampled_from(["x", None]),
    "other": st.just(1),
}
ARGUMENTS = st.fixed_dictionaries({}, optional=VALUES)


@st.composite
def written_arguments(draw: st.DrawFn) -> Any:
    value = draw(ARGUMENTS)
    way = draw(st.sampled_from(["object", "json", "spaced", "literal", "twice", "twin", "broken"]))
    text = json.dumps(value)
    texts = {
        "json": text, "spaced": json.dumps(value, indent=1), "literal": repr(value), "twice": json.dumps(text),
        "twin": '{"a": "x", "a": "y"}', "broken": "{",
    }  # fmt: skip
    return texts.get(way, value)


@st.composite
def native_rows(draw: st.DrawFn) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(st.sampled_from(["Hi", "Who?", ""]))}]
    for _ in range(draw(st.integers(0, 2))):
        count = draw(st.integers(1, 2))
        ids = draw(st.lists(st.sampled_from(["p", "q", None]), min_size=2 * count, max_size=2 * count))
        calls = [
            {"type": "function", "function": {"name": "f", "arguments": draw(written_arguments())}}
            for _ in range(count)
        ]
        results = [{"role": "tool", "content": draw(st.sampled_from(["r", "s"]))} for _ in range(count)]
        for place in range(count):
            calls[place] |= {"id": ids[place]} if ids[place] else {}
            results[place] |= {"tool_call_id": ids[count + place]} if ids[count + place] else {}
        messages += [{"role": "assistant", "content": "", "tool_calls": calls}, *results]
    messages.append({"role": "assistant", "content": draw(st.sampled_from(["Yes.", "", "TODO"]))})
    extra = draw(st.sampled_from([{}, {"tags": ["a"]}, {"id": 7}]))
    return {**extra, "messages": messages, "tools": [TOOL]}


@st.composite
def react_rows(draw: st.DrawFn) -> dict[str, Any]:
    listed = json.dumps(
        [
            {"name": "a", "description": "", "required": "True"},
            {"name": "n", "description": "", "required": False, "type": "integer"},
        ]
    )
    system = f"Answer the following questions as best you can. You have access to the following APIs:\n1. f: F. Parameters: {listed}\n\nUse the following format:\n\nBegin!"
    text = ""
    for _ in range(draw(st.integers(0, 2))):
        arguments = draw(written_arguments())
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        blank = draw(st.sampled_from([" ", "  ", ""]))
        text += f"Thought: t\nAction: f\nAction Input:{blank}{written}\nObservation: o\n"
    text += draw(st.sampled_from(["Final Answer: x", "Thought: y\nFinal Answer: x", "Thought: y"]))
    turns = [("system", system), ("user", "q"), ("assistant", text)]
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def run(data: Path, out: Path) -> None:
    recipes.check(
        data=[str(data)], model=None, dialect=None, json_output=True, format_name=None, chat_template=None, now=None, fix=out
    )  # fmt: skip


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def facts(row: Conversation) -> tuple[object, ...]:
    """Everything of a row but what repairs are allowed to write anew."""
    messages = [
        (m.role, m.content, m.reasoning, m.name, m.train, m.weight, [c.name for c in m.tool_calls])
        for m in row.messages
    ]
    return row.id, row.tools, row.style, messages


def values(row: Conversation) -> list[dict[str, Any]]:
    found = []
    for message in row.messages:
        for call in message.tool_calls:
            value: Any = call.arguments
            while isinstance(value, str) and isinstance(inner := read_value(value), (str, dict)):
                value = inner
            if isinstance(value, dict):  # what may be padding or JSON text compares equal to what it stands for
                value = {
                    key: read_value(item) if isinstance(item, str) and item[:1] == "[" else item
                    for key, item in value.items()
                }
                value = {key: item for key, item in value.items() if item is not None}
            found.append(value)
    return found


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.lists(native_rows(), min_size=1, max_size=6), st.lists(react_rows(), min_size=1, max_size=6)))
def test_nothing_is_lost_nothing_else_is_changed_and_once_is_enough(rows: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder:
        data, out, again = (Path(folder) / name for name in ("in.jsonl", "out.jsonl", "again.jsonl"))
        lines = [json.dumps(row, separators=(",", ":")) for row in rows]
        data.write_text("\n".join(lines), encoding="utf-8")
        run(data, out)
        repairs = read_lines(Path(f"{out}.repairs.jsonl"))
        left_out = {entry["line"] for entry in read_lines(Path(f"{out}.quarantine.jsonl"))}
        removed = {entry["line"] for entry in repairs if entry["code"] == "duplicate-row"}
        touched = {entry["line"] for entry in repairs} - removed
        kept = [line for line in range(1, len(rows) + 1) if line not in left_out | removed]
        written = out.read_text(encoding="utf-8").splitlines()
        assert not left_out & removed
        assert len(written) == len(kept)
        before = {source.line: result for source, result in read_conversations(data)}
        after = [result for _, result in read_conversations(out)] if written else []
        for line, text, row in zip(kept, written, after, strict=True):
            old = before[line]
            assert isinstance(old, Conversation)
            assert isinstance(row, Conversation)
            assert facts(row) == facts(old)
            assert values(row) == values(old)
            assert line in touched or text == lines[line - 1]
            assert json.loads(text).get("tags") == rows[line - 1].get("tags")
        if written:
            run(out, again)
            assert again.read_bytes() == out.read_bytes()
            assert sorted(path.name for path in Path(folder).glob("again*")) == ["again.jsonl"]


ROWS = [
    line
    for name in ("agent.jsonl", "general.jsonl", "own/my_rows.jsonl")
    for line in (Path(__file__).resolve().parents[2] / "examples" / name).read_bytes().splitlines()[:6]
]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """Lines of one of the examples; some are cut, doubled, or have bytes that do not belong there."""
    start = draw(st.sampled_from([0, 6, 12]))
    lines = list(draw(st.lists(st.sampled_from(ROWS[start : start + 6]), min_size=1, max_size=5)))
    for place in range(len(lines)):
        how = draw(st.sampled_from(["", "", "cut", "bytes", "quote", "blank"]))
        at = draw(st.integers(0, len(lines[place])))
        inserted = {
            "bytes": draw(st.sampled_from([b"\xff\xfe", b"\x00", b"\xe4", b"\n"])),
            "quote": b"'",
            "blank": b"\n \r\n",
        }
        lines[place] = (
            lines[place][:at] if how == "cut" else lines[place][:at] + inserted.get(how, b"") + lines[place][at:]
        )
    return b"\n".join(lines)


@settings(max_examples=30, deadline=None)
@given(damaged_files())
def test_every_line_of_a_damaged_file_is_written_listed_or_a_double(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        data.write_bytes(content)
        rows = sum(bool(line.strip()) for line in content.split(b"\n"))
        try:
            run(data, out)
        except ConfigError:  # no row is left that tells the format
            assert not out.exists()
            return
        repairs = read_lines(Path(f"{out}.repairs.jsonl"))
        doubles = sum(entry["code"] == "duplicate-row" for entry in repairs)
        written = out.read_bytes().splitlines()
        assert rows == len(written) + len(read_lines(Path(f"{out}.quarantine.jsonl"))) + doubles
        if not repairs:
            assert set(written) <= {line.strip() for line in content.split(b"\n")}
