"""Work on rows shared out to processes: tasks and answers are JSON lines, what is large goes through files.

A process is started as `python -c`, not forked and not by `multiprocessing`: nothing of the caller's script runs again
in it, threads and locks of the caller are not copied, and nothing is pickled.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from actune.core.errors import ActuneError, ConfigError, DataError, ModelError, RenderError

Task = Mapping[str, Any]
"""`{"do": name of a worker function, ...its arguments}`, plain JSON."""

# What a process may be asked to do: the functions that tasks name, `module:function`.
_FUNCTIONS = {"index": "actune.data.store.index:index_range", "encode": "actune.data.store.store:encode_part"}
_ERRORS: Mapping[str, type[ActuneError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, RenderError, ModelError)
}
_SERVE = "from actune.data.store.workers import serve; serve()"


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work(tasks: Sequence[Task], *, processes: int, advance: Callable[[int], None] = lambda _rows: None) -> list[Any]:
    """Return what each task gives, in the order of the tasks; this process does its share of them.

    `advance` is told how many rows are done, now and then, from any thread.

    Raises:
        ActuneError: what a task raised; the others are stopped.
        ConfigError: a process ended by itself, for want of memory, say.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(tasks)):
        waiting.put(place)
    answers: list[Any] = [None] * len(tasks)
    failures: list[Exception] = []

    def do_all(do: Callable[[Task], Any]) -> None:
        while not failures:
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answers[place] = do(tasks[place])
            except Exception as error:  # noqa: BLE001 - raised again below, in the thread that was called
                failures.append(error)

    with contextlib.ExitStack() as stack:
        threads = []
        for _ in range(min(processes, len(tasks)) - 1):
            child = stack.enter_context(_start())
            threads.append(threading.Thread(target=do_all, args=(partial(_ask, child, advance),), daemon=True))
            threads[-1].start()
        do_all(lambda task: perform(task, advance))
        for thread in threads:
            while thread.is_alive() and not failures:
                thread.join(0.1)
    if failures:
        raise failures[0]
    return answers


def perform(task: Task, advance: Callable[[int], None]) -> Any:  # noqa: ANN401 - each task has its own answer
    """Do one task in this process.

    Raises:
        ActuneError: what the task raises; ConfigError for files that cannot be read or written.
    """
    module, name = _FUNCTIONS[task["do"]].split(":")
    function = getattr(importlib.import_module(module), name)
    try:
        return function(**{key: value for key, value in task.items() if key != "do"}, advance=advance)
    except OSError as error:
        raise ConfigError(
            f"rows cannot be prepared: {error}", fix="free some room on the disk, or give another --cache_dir"
        ) from error


def serve() -> None:
    """Do tasks from stdin until it ends; what a child process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a child ends
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not end up among the answers

    def say(event: Mapping[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")

    for line in sys.stdin:
        try:
            answer = perform(json.loads(line), lambda rows: say({"rows": rows}))
        except ActuneError as error:
            parts = {"code": getattr(error, "code", None), "field": getattr(error, "field", None)}
            say({"error": type(error).__name__, "message": error.message, "fix": error.fix} | parts)
        else:
            say({"answer": answer})


@contextlib.contextmanager
def _start() -> Iterator[subprocess.Popen[str]]:
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100 - entries may be archives
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | one_thread | {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _ask(child: subprocess.Popen[str], advance: Callable[[int], None], task: Task) -> Any:  # noqa: ANN401
    """Let a child do a task and wait for the answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # how it ended is said below
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
    for line in child.stdout:
        event = json.loads(line)
        if "rows" in event:
            advance(event["rows"])
        elif "error" in event:
            kind = _ERRORS.get(event["error"], ActuneError)
            parts = {key: event[key] for key in ("code", "field") if kind in (DataError, RenderError)}
            raise kind(event["message"], fix=event["fix"], **parts)
        else:
            return event["answer"]
    child.wait()
    raise ConfigError(
        f"a process that prepares rows ended with code {child.returncode}, its last words stand above",
        fix="a negative code is a signal (-9: mostly no memory left); --dataset_num_proc 1 needs the least",
    )
