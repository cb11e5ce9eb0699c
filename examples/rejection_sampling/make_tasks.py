"""Write tasks of the demo's world whose right course is known: `python examples/rejection_sampling/make_tasks.py OUT`.

OUT/practice.jsonl   tasks to practise on: tools of the demo's training, under names that no row of it has
OUT/record.jsonl     what each right call gets back (`--tools record:OUT/record.jsonl`)
OUT/expected.jsonl   the right calls and the right answer of each task, for check.py
OUT/measured.jsonl   rows to measure: other tools, other names, other values; OUT/tasks.yaml says how
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actune.core import react
from actune.demo.rows import write_practice_rows

PRACTICE, MEASURED = 400, 400
TASKS = """\
version: 1
tasks:
  - name: renamed tools
    kind: agent
    data: measured.jsonl
    seen_tools: []
"""


def main(out: Path) -> None:
    """Write all files into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    practice = list(write_practice_rows("train", PRACTICE))
    expected = [read_course(row) for row in practice]
    # A task is what stands before the answer.
    write(out / "practice.jsonl", (row | {"conversations": row["conversations"][:-1]} for row in practice))
    write(out / "record.jsonl", (step for course in expected for step in course["steps"]))
    write(out / "expected.jsonl", expected)
    write(out / "measured.jsonl", write_practice_rows("held-out", MEASURED))
    (out / "tasks.yaml").write_text(TASKS, encoding="utf-8")
    sys.stdout.write(f"{out}: {PRACTICE} tasks to practise on, {MEASURED} rows to measure\n")


def read_course(row: dict[str, Any]) -> dict[str, Any]:
    """Return the calls of a row with their observations, and its answer."""
    steps: list[dict[str, Any]] = []
    answer = ""
    for message in react.read_turn(row["conversations"][-1]["value"]):
        for call in message.tool_calls:
            steps.append({"name": call.name, "arguments": json.loads(call.arguments)})
        if message.role == "tool":
            steps[-1]["observation"] = message.content
        answer = message.content
    return {"id": row["id"], "steps": steps, "answer": answer}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, one a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
