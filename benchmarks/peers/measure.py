"""Run one training process and say what it did: standard library only, Linux (memory is read from /proc).

What a step took is the time from the end of the step before it to its own end, so everything between steps counts for
everybody. Tokens are those of actune's own rendering of the rows, one counter for all: of the rows of a step where they
are known (actune), else what went through the model without padding, scaled so that all steps together have them.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from entries import Command

_CLOCK = Path(__file__).resolve().parent / "clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimiser step: seconds and seconds of processor time since the end of the one before (None: the first).

    `lines`: which lines of the file its rows were, where that is known (actune).
    """

    seconds: float | None
    cpu: float | None
    rows: int
    tokens: int
    places: int
    supervised: int
    loss: float
    norm: float | None
    lines: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What a process did. Seconds and bytes; `first` runs from the start of the process to the end of its first step."""

    code: int
    steps: list[Step] = field(default_factory=list)
    first: float | None = None
    peak: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a run.

    `rate` (over all steps after the warm-up) and `median` (of these steps) are real tokens a second; `cpu_rate` is real
    tokens a second of processor time, which says more while others use the machine.
    """

    rows: int
    tokens: int
    supervised: int
    padding: float
    rate: float
    median: float
    cpu_rate: float
    step_seconds: list[float]
    first: float | None
    peak: int
    losses: list[float]
    norms: list[float]


def run(command: Command, log: Path, *, threads: int, limit: float, memory: float) -> Raw:
    """Run a command to its end; its output goes to `log`, its events to a file beside it.

    It is killed after `limit` seconds, or when it and its children have more than `memory` bytes.
    """
    events = log.with_suffix(".events")
    events.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "BENCH_EVENTS": str(events),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_DISABLED": "true",
        **command.environment,
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_CLOCK), environment.get("PYTHONPATH"))))
    began = time.time()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command.words,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
        peak: list[int] = [0]
        watcher = threading.Thread(target=_watch_memory, args=(process, peak, memory), daemon=True)
        watcher.start()
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        watcher.join()
    steps, first = _read_events(events, began)
    return Raw(code=code, steps=steps, first=first, peak=peak[0], seconds=time.time() - began)


def summarise(raw: Raw, *, warm_up: int, counter: list[int], longest: int, rows: int | None = None) -> Figures:
    """Return the figures of a run. `counter` holds the tokens of each row by actune's rendering.

    `rows` says how many rows were trained where the process itself does not know. A peer that used fewer rows than
    there are left out those longer than `longest`; one that used all cut them.
    """
    used = rows if rows is not None else sum(step.rows for step in raw.steps)
    fitting = [tokens for tokens in counter if tokens <= longest]
    real = sum(fitting) if used == len(fitting) else sum(min(tokens, longest) for tokens in counter)
    own = sum(step.tokens for step in raw.steps)
    scale = real / own if used in (len(fitting), len(counter)) else 1.0
    tokens = [
        sum(counter[line - 1] for line in set(step.lines)) if step.lines else scale * step.tokens for step in raw.steps
    ]
    timed = [
        (count, step.seconds, step.cpu or 0.0)
        for count, step in zip(tokens[warm_up:], raw.steps[warm_up:], strict=True)
        if step.seconds
    ]
    trained, seconds, busy = (sum(values) for values in zip(*timed, strict=True)) if timed else (0.0, 0.0, 0.0)
    return Figures(
        rows=used,
        tokens=round(sum(tokens)),
        supervised=sum(step.supervised for step in raw.steps),
        padding=1 - own / max(1, sum(step.places for step in raw.steps)),
        rate=trained / seconds if seconds else 0.0,
        median=statistics.median(count / spent for count, spent, _ in timed) if timed else 0.0,
        cpu_rate=trained / busy if busy else 0.0,
        step_seconds=[round(spent, 3) for _, spent, _ in timed],
        first=raw.first,
        peak=raw.peak,
        losses=[step.loss for step in raw.steps],
        norms=[step.norm for step in raw.steps if step.norm is not None],
    )


def _read_events(path: Path, began: float) -> tuple[list[Step], float | None]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines]
    logs = {event["step"]: event for event in events if event["event"] == "log"}
    steps: list[Step] = []
    sums = dict.fromkeys(("rows", "tokens", "places", "supervised", "loss"), 0)
    lines: list[int] = []
    before: dict[str, float] | None = None
    for event in events:
        if event["event"] == "batch":
            for key in sums:
                sums[key] += event[key]
        elif event["event"] == "packed":
            lines += event["lines"]
        elif event["event"] == "step":
            log = logs.get(event["step"], {})
            seconds, cpu = (event[key] - before[key] if before is not None else None for key in ("time", "cpu"))
            steps.append(Step(seconds=seconds, cpu=cpu, **sums, norm=log.get("norm"), lines=lines))
            sums, lines = dict.fromkeys(sums, 0), []
            before = event
    first = next((event["time"] - began for event in events if event["event"] == "step"), None)
    return steps, first


def _watch_memory(process: subprocess.Popen[bytes], peak: list[int], most: float) -> None:
    """Note the most memory that a process and its descendants had at one time, in bytes; above `most` end them."""
    page = os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_resident(number) for number in _family(process.pid)) * page)
        if peak[0] > most:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.2)


def _family(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    family = {root}
    while True:
        more = {child for child, parent in parents.items() if parent in family} - family
        if not more:
            return family
        family |= more


def _resident(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/statm").read_text().split()[1])
    except OSError:
        return 0
