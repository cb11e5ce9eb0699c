"""The example of a round of rejection sampling: its tasks are new, its check keeps what is right and nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from actune.agents.tools.recorded import load_record
from actune.core.types import Source
from actune.data.reading.sources import load_conversations
from actune.demo import rows, values
from actune.formats import registry

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "rejection_sampling"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("practice")
    script = load("make_tasks")
    script.PRACTICE, script.MEASURED = 60, 40
    script.main(made)
    return made


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_practice_and_measurement_share_no_tool_and_no_value(folder):
    practice = list(rows.write_practice_rows("train", 60))
    assert values.find_held_out(json.dumps(practice, ensure_ascii=False)) == []
    measured = load_conversations(str(folder / "measured.jsonl")).conversations
    read_all = [registry.read_row(row, Source(file="p", line=1), "ms-agent") for row in practice]
    tools = {tool.name for row in read_all for tool in row.tools}
    assert len(tools) > 50
    assert not tools & {tool.name for row in measured for tool in row.tools}
    assert any(values.find_held_out(row.messages[0].content) for row in measured)


def test_the_check_keeps_what_is_right_and_nothing_else(folder, monkeypatch):
    monkeypatch.setenv("EXPECTED", str(folder / "expected.jsonl"))
    keep = load("check").keep
    answers = {tool.spec.name: tool for tool in load_record(folder / "record.jsonl")}
    calls = 0
    for course in read(folder / "expected.jsonl"):
        steps = [{"calls": [{"name": step["name"], "arguments": step["arguments"]}]} for step in course["steps"]]
        trace = {"id": course["id"], "steps": [*steps, {"calls": []}], "final_answer": course["answer"]}
        assert keep(trace)
        assert not keep(trace | {"final_answer": course["answer"] + "!"})
        assert not keep(trace | {"steps": [{"calls": [{"name": "x", "arguments": {}}]}, *trace["steps"]]})
        for step in course["steps"]:
            assert answers[step["name"]].call(step["arguments"]) == step["observation"]
            calls += 1
    assert 30 < calls < 60
