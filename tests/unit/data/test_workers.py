"""Work shared out to processes: answers in order, errors as they were, a process that ends is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.core.errors import ConfigError
from actune.data.store.workers import _ask, _start, perform, work


def index_task(folder: Path, number: int, **changed: object) -> dict:
    path = folder / f"{number}.jsonl"
    rows = [{"query": "a?", "response": "b"}] * (number + 1) + [{"query": "", "response": "x"}] * number
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "do": "index", "path": str(path), "span": (0, path.stat().st_size), "first": 0, "lines": None, "writing": None,
        "format_name": "query-response", "out": str(folder / f"part-{number}"), **changed,
    }  # fmt: skip


def test_answers_come_in_the_order_of_the_tasks(tmp_path: Path):
    tasks = [index_task(tmp_path, number) for number in (3, 0, 2, 1)]
    told: list[int] = []
    answers = work(tasks, processes=2, advance=told.append)
    assert [len(answer["refused"]) for answer in answers] == [3, 0, 2, 1]
    assert sum(told) == sum(task["span"][1] for task in tasks)
    again = perform(tasks[2] | {"out": str(tmp_path / "again")}, told.append)
    assert json.dumps(answers[2]) == json.dumps(again)


def test_errors_are_raised_as_they_were(tmp_path: Path):
    tasks = [index_task(tmp_path, 1), index_task(tmp_path, 2, format_name="nonsense")]
    with pytest.raises(ConfigError, match="there is no format 'nonsense'"):
        work(tasks, processes=2)
    with pytest.raises(ConfigError, match="there is no format 'nonsense'"):
        work(tasks[1:], processes=2)


def test_files_that_cannot_be_written_are_said(tmp_path: Path):
    for processes in (1, 2):
        tasks = [index_task(tmp_path, number, out=str(tmp_path / "none" / "part")) for number in (1, 2)]
        with pytest.raises(ConfigError, match="cannot be prepared"):
            work(tasks, processes=processes)


def test_a_process_that_ends_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    unknown = {"do": "nothing of the kind"}
    with pytest.raises((ConfigError, KeyError)):  # whoever takes it
        work([unknown, index_task(tmp_path, 1)], processes=2)
    with _start() as child, pytest.raises(ConfigError, match="ended with code 1"):
        _ask(child, lambda _rows: None, unknown)
    assert "KeyError" in capfd.readouterr().err
    with _start() as child:
        child.kill()
        with pytest.raises(ConfigError, match="ended with code -9"):
            _ask(child, lambda _rows: None, unknown)


def test_children_do_tasks_too(tmp_path: Path):
    task = index_task(tmp_path, 3)
    told: list[int] = []
    with _start() as child:
        answer = _ask(child, told.append, task)
    assert (len(answer["refused"]), told) == (3, [task["span"][1]])
