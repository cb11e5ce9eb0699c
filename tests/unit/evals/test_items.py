"""Files of scored items: written and read back, other programs' files taken, damaged ones refused with their line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.core.errors import ConfigError
from actune.evals.items import Score, read_scores, write_scores

LINE = {"id": "a", "task": "t", "axis": "agent", "split": "all", "metric": "strict_call", "score": 1.0}


def test_written_and_read_back(tmp_path: Path):
    scores = [
        Score(
            id=str(number), task="t", axis="agent", split="held-in", cluster="c", metric="strict_call", score=0.5,
            output={"text": "杭州\u2028 \x1b"}, gold={"calls": [{"name": "a", "arguments": {}}]},
        )
        for number in range(3)
    ]  # fmt: skip
    write_scores(tmp_path / "items.jsonl", scores)
    assert read_scores(tmp_path / "items.jsonl") == scores
    first = json.loads((tmp_path / "items.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert list(first) == ["id", "task", "axis", "split", "cluster", "metric", "score", "output", "gold"]


def test_file_of_another_program(tmp_path: Path):
    file = tmp_path / "items.jsonl"
    rows = [LINE | {"id": 1, "score": True, "extra": 1}, LINE | {"id": "2", "score": 0}]
    file.write_text("\ufeff" + "\r\n\r\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [(one.id, one.cluster, one.score) for one in read_scores(file)] == [("1", "1", 1.0), ("2", "2", 0.0)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        (json.dumps({key: value for key, value in LINE.items() if key != "score"}), "score: missing"),
        (json.dumps(LINE | {"axis": "speed"}), "axis: 'speed' is none of agent"),
        (json.dumps(LINE | {"score": None}), "score: None is no finite number"),
        (json.dumps(LINE | {"score": float("nan")}), "no finite number"),
        (json.dumps(LINE | {"score": 10**400}), "no finite number"),
        (json.dumps(LINE | {"id": None}), "id: None is no text"),
        (json.dumps(LINE), "those of line 1"),
        ('{"id": "\udcff"}', "missing"),
    ],
)
def test_damaged_line_is_named(tmp_path: Path, line: str, words: str):
    file = tmp_path / "items.jsonl"
    file.write_bytes((json.dumps(LINE) + "\n" + line).encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        read_scores(file)
    assert f"{file}:2" in str(caught.value)
    assert words in str(caught.value) or line.startswith('{"id": "\udcff')


def test_absent_and_empty_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_scores(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no items"):
        read_scores(tmp_path / "empty.jsonl")
