"""Scored items: one line a metric and item, the file that `eval` writes and `compare` reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from actune.core.errors import ConfigError
from actune.core.files import atomic_text

Axis = Literal["agent", "general", "identity"]
Split = Literal["held-in", "held-out", "no-tool", "all"]
# One primary metric an axis; for `general` accuracy where there is a gold choice, else the likelihood.
PRIMARY: dict[Axis, tuple[str, ...]] = {
    "agent": ("strict_call",),
    "general": ("general_accuracy", "general_nll"),
    "identity": ("identity_hit",),
}

_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one item; higher is better.

    `cluster` names what items share (a conversation, a document), so that intervals do not take them for independent.
    `score` is a function of `metric`, `output` and `gold` alone (`actune.evals.metrics.rescore`).
    """

    id: str
    task: str
    axis: Axis
    split: Split
    cluster: str
    metric: str
    score: float
    output: Any
    gold: Any


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write one line a Score, whole or not at all."""
    lines = (json.dumps(asdict(score), ensure_ascii=False, allow_nan=False) for score in scores)
    atomic_text(path, "".join(line + "\n" for line in lines))


def read_scores(path: Path) -> list[Score]:
    """Read a file of scored items, also one that another program wrote: keys beyond those of `Score` are ignored.

    `true` and `false` are the scores 1 and 0; whole numbers may be ids; without `cluster` an item is its own.

    Raises:
        ConfigError: the file cannot be read, naming file, line and field.
    """
    scores: list[Score] = []
    seen: dict[tuple[str, str, str], int] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise _fault(str(path), f"cannot be read: {error.strerror}", "") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        score = _read_line(line, f"{path}:{number}")
        key = (score.task, score.metric, score.id)
        if key in seen:
            raise _fault(f"{path}:{number}", f"task, metric and id are those of line {seen[key]}", "id")
        seen[key] = number
        scores.append(score)
    if not scores:
        raise _fault(str(path), "no items", "")
    return scores


def _read_line(line: bytes, where: str) -> Score:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _fault(where, f"no JSON: {error}", "") from error
    if not isinstance(row, dict):
        raise _fault(where, "no JSON object", "")
    for field in ("id", "task", "axis", "split", "metric", "score"):
        if field not in row:
            raise _fault(where, "missing", field)
    for field, allowed in (("axis", get_args(Axis)), ("split", get_args(Split))):
        if row[field] not in allowed:
            raise _fault(where, f"{row[field]!r} is none of {', '.join(allowed)}", field)
    score = row["score"]
    if not isinstance(score, (int, float)) or not -_LARGEST <= score <= _LARGEST:  # false for NaN as well
        raise _fault(where, f"{score!r} is no finite number", "score")
    whole = isinstance(row["id"], int) and not isinstance(row["id"], bool)
    for field in ("id", "task", "metric"):
        if not isinstance(row[field], str) and not (field == "id" and whole):
            raise _fault(where, f"{row[field]!r} is no text", field)
    return Score(
        id=str(row["id"]),
        task=row["task"],
        axis=row["axis"],
        split=row["split"],
        cluster=str(row.get("cluster", row["id"])),
        metric=row["metric"],
        score=float(score),
        output=row.get("output"),
        gold=row.get("gold"),
    )


def _fault(where: str, what: str, field: str) -> ConfigError:
    return ConfigError(
        f"{where}: {field + ': ' if field else ''}{what}", fix="give a file written by `actune eval --out`"
    )
