"""Traces on their way to rows: which are kept, by which of the user's choices, and how many each leaves out."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from actune.agents.tools.python import execute_file
from actune.agents.trace import EndReason
from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation
from actune.data.reading.files import find_files
from actune.data.reading.sources import Loaded, Quarantined, find_file_format, read_file, split_count
from actune.evals.items import Score, read_scores
from actune.formats import registry, trace

BadSteps = Literal["keep", "untrain", "drop"]
FORMAT = "trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceChoice:
    """Which traces become rows; what is not set keeps all. One flag of `convert` each.

    `bad_steps` are outputs with an error (of themselves or of a call) or with repaired arguments. `keep_if` is a Python
    file with `keep(trace)`, `scores` a file of scored items with the ids of the tasks.
    """

    stop_reason: tuple[str, ...] = ()
    bad_steps: BadSteps = "keep"
    min_steps: int | None = None
    max_steps: int | None = None
    with_tools: tuple[str, ...] = ()
    keep_if: Path | None = None
    scores: Path | None = None
    metric: str | None = None
    min_score: float | None = None
    unique: bool = False
    per_task: int | None = None

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: a value out of range, or a flag without the one that it belongs to.
        """
        unknown = [name for name in self.stop_reason if name not in get_args(EndReason)]
        if unknown:
            raise ConfigError(f"--stop_reason {unknown[0]}: no such reason", fix=", ".join(get_args(EndReason)))
        for name in ("min_steps", "max_steps", "per_task"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}", fix="give 1 or more")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ConfigError(f"--min_score is {self.min_score}", fix="give a number")
        if self.scores is not None and self.min_score is None and self.per_task is None:
            raise ConfigError("--scores alone leaves nothing out", fix="add --min_score N or --per_task N")
        if self.metric is not None and self.scores is None:
            raise ConfigError("--metric names a score of the file of --scores; there is none", fix="add --scores FILE")
        if self.min_score is not None and self.scores is None and self.keep_if is None:
            raise ConfigError(
                "--min_score needs scores", fix="add --scores FILE, or --keep_if FILE that returns numbers"
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trace, its steps, and the conversation that it is read as, or why it cannot be read as one.

    `score` is None where nothing gave it one.
    """

    raw: Mapping[str, Any]
    steps: tuple[trace.Step, ...]
    read: Conversation | Quarantined
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The traces that are kept, in their order, and what became of the others: a count for each flag.

    `faulty` are those that no flag leaves out and that cannot be written. `lines` tell a person what there was.
    """

    kept: list[Candidate]
    left_out: Counter[str]
    faulty: list[Quarantined]
    lines: list[str]


def read_raw(spec: str, format_name: str | None) -> dict[tuple[str, int], Mapping[str, Any]] | None:
    """Return the raw traces of a dataset by file and line; None when its rows are no traces.

    Raises:
        ConfigError: some of its files hold traces and others do not.
    """
    files = find_files(split_count(spec)[0])[0]
    kinds = {shown: find_file_format(path, shown=shown, given=format_name) for path, shown in files}
    if FORMAT not in kinds.values():
        return None
    others = [shown for shown, name in kinds.items() if name not in (FORMAT, "")]
    if others:
        raise ConfigError(f"{others[0]} holds no traces, other files of {spec} do", fix="convert them apart")
    rows = (row for path, shown in files for row in read_file(path, shown=shown))
    return {(source.file, source.line): raw for source, raw in rows if not isinstance(raw, DataError)}


def choose_traces(loaded: Loaded, raw: Mapping[tuple[str, int], Mapping[str, Any]], choice: TraceChoice) -> Chosen:
    """Apply the choice to traces: each filter in the order of its flags, then `unique`, then `per_task`.

    Filters look at the trace itself: one that cannot be read as a conversation (it calls a tool that is not there, say)
    is a fault only where no filter leaves it out.

    Raises:
        ConfigError: the user's file of `keep_if` failed, or the scores cannot be joined.
    """
    candidates, faulty = _gather(loaded, raw)
    ends = Counter(str(candidate.raw["stop_reason"]) for candidate in candidates)
    lines = ["traces by stop_reason: " + (", ".join(f"{n:,} {name}" for name, n in ends.most_common()) or "none")]
    left_out = Counter[str]()
    for flag, keeps in _filters(choice):
        passed = [candidate for candidate in candidates if keeps(candidate)]
        left_out[flag] = len(candidates) - len(passed)
        candidates = passed
    candidates = _score(candidates, choice, left_out)
    if choice.bad_steps == "untrain":
        candidates = [_untrain(candidate) for candidate in candidates]
    faulty += [one.read for one in candidates if isinstance(one.read, Quarantined)]
    candidates = [one for one in candidates if not isinstance(one.read, Quarantined)]
    for flag, thin in (("--unique", _drop_twins), ("--per_task", _take_best)):
        if (flag == "--unique" and choice.unique) or (flag == "--per_task" and choice.per_task is not None):
            passed = thin(candidates, choice)
            left_out[flag] = len(candidates) - len(passed)
            candidates = passed
    return Chosen(kept=candidates, left_out=left_out, faulty=faulty, lines=[*lines, *_describe(candidates, choice)])


def _gather(
    loaded: Loaded, raw: Mapping[tuple[str, int], Mapping[str, Any]]
) -> tuple[list[Candidate], list[Quarantined]]:
    """Return the traces in their order, and the rows that are none at all."""
    candidates: list[Candidate] = []
    faulty: list[Quarantined] = []
    rows: list[Conversation | Quarantined] = [*loaded.conversations, *loaded.quarantined]
    order = {key: place for place, key in enumerate(raw)}
    for row in sorted(rows, key=lambda one: order.get((one.source.file, one.source.line), len(order))):
        line = raw.get((row.source.file, row.source.line))
        try:
            steps = trace.read_steps(line) if line is not None else None
        except DataError:
            steps = None
        if line is not None and steps is not None:
            candidates.append(Candidate(line, steps, row))
        elif isinstance(row, Quarantined):
            faulty.append(row)
    return candidates, faulty


def _describe(kept: Sequence[Candidate], choice: TraceChoice) -> list[str]:
    """Return what a person should know of the traces that are kept, beside their number."""
    lines = []
    unfinished = sum(candidate.raw["stop_reason"] != "answer" for candidate in kept)
    if unfinished and not choice.stop_reason:
        lines.append(f"{unfinished:,} traces that are kept end without an answer; --stop_reason answer leaves them out")
    bad = [sum(bool(step.fault) for step in candidate.steps) for candidate in kept]
    if any(bad) and choice.bad_steps == "keep":
        count = sum(map(bool, bad))
        lines.append(
            f"{count:,} traces that are kept have steps with errors or repaired arguments ({sum(bad):,} steps), which are "
            "trained like others; --bad_steps untrain or drop changes that"
        )
    cut = sum(bool(candidate.raw.get("dropped")) for candidate in kept)
    if cut:
        lines.append(
            f"{cut:,} traces that are kept had their history cut: rows hold what the last outputs were shown, earlier "
            "outputs that saw more are not trained"
        )
    return lines


# --- the filters ------------------------------------------------------------------------------------------------------


def _filters(choice: TraceChoice) -> list[tuple[str, Callable[[Candidate], bool]]]:
    found: list[tuple[str, Callable[[Candidate], bool]]] = []
    low, high, names = choice.min_steps, choice.max_steps, set(choice.with_tools)
    if choice.stop_reason:
        found.append(("--stop_reason", lambda one: one.raw["stop_reason"] in choice.stop_reason))
    if choice.bad_steps == "drop":
        found.append(("--bad_steps drop", lambda one: not any(step.fault for step in one.steps)))
    if low is not None:
        found.append(("--min_steps", lambda one: len(one.steps) >= low))
    if high is not None:
        found.append(("--max_steps", lambda one: len(one.steps) <= high))
    if names:
        found.append(("--with_tools", lambda one: names <= {name for step in one.steps for name in step.names}))
    return found


def _untrain(candidate: Candidate) -> Candidate:
    """Return a trace with `"train": false` at steps with a fault; where none is left to train that is its own fault."""
    bad = {number for number, step in enumerate(candidate.steps) if step.fault}
    if not bad or isinstance(candidate.read, Quarantined):
        return candidate
    steps = [step | ({"train": False} if n in bad else {}) for n, step in enumerate(candidate.raw["steps"])]
    raw = dict(candidate.raw) | {"steps": steps}
    source = candidate.read.source
    conversation = registry.read_row(raw, source, FORMAT)
    if any(message.train for message in conversation.messages if message.role == "assistant"):
        return replace(candidate, raw=raw, read=conversation)
    error = DataError(
        "every output of the trace has an error or repaired arguments, so none is left to train",
        code="nothing-trained",
        field="steps",
        fix="nothing to do; --bad_steps drop leaves such traces out too",
    )
    return replace(candidate, raw=raw, read=Quarantined.of(source, error))


# --- scores -----------------------------------------------------------------------------------------------------------


def _score(candidates: list[Candidate], choice: TraceChoice, left_out: Counter[str]) -> list[Candidate]:
    """Return the traces that the user's file and the scores keep, each with its score."""
    least = choice.min_score
    if choice.scores is not None:
        table = _read_table(choice.scores, choice.metric)
        found = [replace(one, score=table.get(str(one.raw.get("id")))) for one in candidates]
        candidates = [one for one in found if one.score is not None]
        left_out["--scores (no score of that id)"] = len(found) - len(candidates)
    if choice.keep_if is not None:
        keep = _load_keep(choice.keep_if)
        judged = [(one, _ask(keep, one, choice.keep_if)) for one in candidates]
        kept = []
        for one, answer in judged:
            if isinstance(answer, bool):
                kept += [one] if answer else []
            elif choice.scores is not None:
                raise ConfigError(f"{choice.keep_if}: keep returns a number, and --scores gives another", fix="use one")
            elif least is not None or answer > 0:
                kept.append(replace(one, score=answer))
        left_out["--keep_if"] = len(judged) - len(kept)
        candidates = kept
        if least is not None and any(one.score is None for one in candidates):
            raise ConfigError("--min_score needs numbers, and keep returns true or false", fix="return a number")
    if least is None:
        return candidates
    passed = [one for one in candidates if one.score is not None and one.score >= least]
    left_out["--min_score"] = len(candidates) - len(passed)
    return passed


def _load_keep(path: Path) -> Callable[[dict[str, Any]], object]:
    if not path.is_file():
        raise ConfigError(f"--keep_if {path} is no file", fix="give a Python file with def keep(trace): ...")
    keep = getattr(execute_file(path), "keep", None)
    if not callable(keep):
        raise ConfigError(f"{path} defines no function keep", fix="write def keep(trace: dict) -> bool: ...")
    return keep


def _ask(keep: Callable[[dict[str, Any]], object], one: Candidate, path: Path) -> bool | float:
    """Return what the user's function says of a trace, of which it gets a copy."""
    try:
        answer = keep(copy.deepcopy(dict(one.raw)))
    except Exception as error:  # whatever the user's code raises; nothing is decided without it
        where = f"{path}: keep failed for the trace {one.read.source}"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}", fix="correct the function") from error
    if isinstance(answer, (bool, int, float)) and math.isfinite(answer):
        return answer
    raise ConfigError(
        f"{path}: keep returned {answer!r} for the trace {one.read.source}",
        fix="return True, False or a number",
    )


def _read_table(path: Path, metric: str | None) -> dict[str, float]:
    """Return the score of each id in a file of scored items.

    Raises:
        ConfigError: an id has several scores, of other metrics or tasks.
    """
    scores: list[Score] = read_scores(path)
    known = sorted({score.metric for score in scores})
    if metric is not None:
        if metric not in known:
            raise ConfigError(f"{path} has no metric {metric!r}", fix=f"there are: {', '.join(known)}")
        scores = [score for score in scores if score.metric == metric]
    elif len(known) > 1:
        raise ConfigError(f"{path} has several metrics: {', '.join(known)}", fix="name one with --metric")
    table: dict[str, float] = {}
    for score in scores:
        if score.id in table:
            raise ConfigError(f"{path}: the id {score.id!r} stands in several tasks", fix="give a file of one task")
        table[score.id] = score.score
    return table


# --- several traces of a task -----------------------------------------------------------------------------------------


def _drop_twins(candidates: Sequence[Candidate], choice: TraceChoice) -> list[Candidate]:
    """Return the traces whose conversation is not that of an earlier one."""
    assert choice.unique
    first = {_say(one): one for one in reversed(candidates)}
    return [one for one in candidates if first[_say(one)] is one]


def _say(candidate: Candidate) -> str:
    assert isinstance(candidate.read, Conversation)
    return repr((candidate.read.style, candidate.read.tools, candidate.read.messages))


def _take_best(candidates: Sequence[Candidate], choice: TraceChoice) -> list[Candidate]:
    """Return at most `per_task` traces of each task: of the highest score, then with the fewest steps, then tokens.

    A task is its id, or its prompt where it has none.
    """
    tasks: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(candidates):
        key = ("prompt", one.raw["prompt"]) if one.raw.get("id") is None else ("id", str(one.raw["id"]))
        tasks.setdefault(key, []).append(place)

    def rank(place: int) -> tuple[float, int, int, int]:
        one = candidates[place]
        return (-(one.score or 0.0), len(one.steps), sum(step.tokens for step in one.steps), place)

    best = {place for places in tasks.values() for place in sorted(places, key=rank)[: choice.per_task]}
    return [one for place, one in enumerate(candidates) if place in best]
