"""`actune run`: an agent does one task, or a file of tasks, and leaves a Trace of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actune.agents.loop import Task
from actune.agents.tools.toolbox import Toolbox
from actune.agents.trace import Trace
from actune.core.errors import ConfigError, DataError
from actune.core.files import atomic_text
from actune.core.types import Conversation, Message, ToolCall
from actune.data.reading.rows import Row
from actune.data.reading.sources import read_file
from actune.formats import registry
from actune.recipes.agents import Bench, Choice, build_bench, open_conversation, redact
from actune.recipes.approval import make_approver
from actune.recipes.display import Display, clean
from actune.recipes.writing import check_out, stderr


def run(  # noqa: PLR0913 - one parameter a flag
    choice: Choice,
    *,
    prompt: str | None,
    tasks: Path | None,
    system: str,
    out: Path | None,
    json_output: bool,
    parallel: int,
    samples: int,
    resume: bool,
    overwrite: bool,
) -> int:
    """Do one task (`prompt`) or a file of tasks; returns the exit code.

    Raises:
        ActuneError: what, where, why, and what to do.
    """
    _check_request(prompt, tasks, out, parallel, resume=resume, overwrite=overwrite)
    _check_samples(choice, samples)
    done = _read_done(out) if out is not None and resume else {}
    if any(tool.partition(":")[0] == "manual" for tool in choice.tools):
        parallel = 1  # one person answers one call at a time
    approve = make_approver(read_line, stderr())
    bench = build_bench(replace(choice, batch_size=parallel), ask=ask_person, approve=approve)
    with closing(bench):
        if tasks is None:
            return _run_one(bench, prompt or "", system, out, samples=samples, json_output=json_output)
        assert out is not None
        listed = _repeat(read_tasks(tasks, system, bench.toolbox), samples)
        return _run_file(bench, listed, done, out, parallel=parallel, json_output=json_output)


def _check_request(
    prompt: str | None, tasks: Path | None, out: Path | None, parallel: int, *, resume: bool, overwrite: bool
) -> None:
    if (prompt is None) == (tasks is None):
        raise ConfigError("one of --prompt and --tasks is needed", fix="give --prompt TEXT, or --tasks FILE --out FILE")
    if tasks is not None and out is None:
        raise ConfigError("--tasks needs a file to write to", fix="give --out TRACES.jsonl")
    if parallel < 1:
        raise ConfigError(f"parallel is {parallel}", fix="give 1 or more tasks at a time")
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", fix="give one of them")
    if resume and tasks is None:
        raise ConfigError("--resume goes on with a file of tasks; there is none", fix="give --tasks FILE --out FILE")
    if out is None:
        return
    check_out(out, [str(tasks)] if tasks is not None else [])
    if out.exists() and out.stat().st_size and not resume and not overwrite:
        raise ConfigError(
            f"{out} is not empty", fix="give another --out, go on with --resume, or replace it with --overwrite"
        )


def _check_samples(choice: Choice, samples: int) -> None:
    if samples < 1:
        raise ConfigError(f"samples is {samples}", fix="give 1 or more")
    if samples > 1 and choice.sampling.temperature == 0:
        raise ConfigError(
            f"{samples} samples at temperature 0 are the same trace {samples} times", fix="give --temperature 0.7, say"
        )


def _repeat(tasks: Sequence[Task], samples: int) -> list[Task]:
    """Return each task as often as it is done."""
    if samples == 1:
        return list(tasks)
    return [replace(task, sample=number) for task in tasks for number in range(samples)]


def _run_one(bench: Bench, prompt: str, system: str, out: Path | None, *, samples: int, json_output: bool) -> int:
    messages, tools = open_conversation(system, bench.toolbox)
    task = Task(messages=(*messages, Message(role="user", content=prompt)), tools=tools)
    lines: list[str] = []
    failed = False
    for one in _repeat([task], samples):
        if json_output:
            trace = bench.agent.run(one)
            sys.stdout.write(_dump(trace, bench))
        else:
            display = Display(Console(highlight=False))
            trace = bench.agent.run(one, on_event=display.show)
            display.end(trace)
        lines.append(_dump(trace, bench))
        failed = failed or trace.reason == "error"
    if out is not None:
        atomic_text(out, "".join(lines))
    return int(failed)


def _run_file(
    bench: Bench, tasks: Sequence[Task], done: dict[_Key, str], out: Path, *, parallel: int, json_output: bool
) -> int:
    """Write a line a task as each ends, so that an interrupted run can go on with `--resume`."""
    console = stderr()
    known = {_key_of(task): task for task in tasks}
    for key, prompt in done.items():
        if key not in known or known[key].prompt != prompt:
            identifier, number = key
            which = f"sample {number} of task {identifier!r}" if (identifier, 0) in known else f"task {identifier!r}"
            raise ConfigError(
                f"{out} holds a trace of {which}, which is not in the task file with that prompt",
                fix="give the same task file and --samples, another --out, or --overwrite",
            )
    left = [task for task in tasks if _key_of(task) not in done]
    if done:
        console.print(f"tasks done already: {len(done):,} of {len(tasks):,}", markup=False)
    reasons: dict[str, int] = {}
    with out.open("a" if done else "w", encoding="utf-8") as file:

        def keep(trace: Trace) -> None:
            line = _dump(trace, bench)
            file.write(line)
            file.flush()
            if json_output:
                sys.stdout.write(line)
            reasons[trace.reason] = reasons.get(trace.reason, 0) + 1
            answer = trace.final_answer if trace.final_answer is not None else f"({trace.reason})"
            shown = " ".join(clean(answer).split())[:80]
            name = trace.id if trace.sample is None else f"{trace.id} ({trace.sample})"
            console.print(f"{sum(reasons.values()) + len(done)}/{len(tasks)} {name}: {shown}", markup=False)

        bench.agent.run_many(left, parallel=parallel, on_trace=keep)
    ends = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    console.print(f"{out} holds {len(tasks):,} traces{f'; of this run: {ends}' if ends else ''}", markup=False)
    if reasons.get("error"):
        console.print("note: --resume does the tasks again that ended with an error", markup=False)
    return int("error" in reasons)


def _dump(trace: Trace, bench: Bench) -> str:
    content = redact(trace.to_json(), bench.toolbox.secrets)
    return json.dumps(content, ensure_ascii=False) + "\n"


# The id of a task and the number of its sample; a task that is done once has the number 0.
_Key = tuple[str, int]


def _key_of(task: Task) -> _Key:
    return str(task.id), task.sample or 0


def _read_done(out: Path) -> dict[_Key, str]:
    """Return task and sample -> prompt of the traces in a file.

    A last line that was cut off is removed from it, and so are traces that an error ended: they are done again.

    Raises:
        ConfigError: a line that is no trace.
    """
    if not out.is_file():
        return {}
    text = out.read_text(encoding="utf-8", errors="replace")
    whole, cut = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
    done: dict[_Key, str] = {}
    kept: list[str] = []
    for number, line in enumerate(whole.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            key, prompt = (str(row["id"]), int(row.get("sample", 0))), row["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{out}:{number} is no trace of a task: {error!r}",
                fix="give the file of an earlier run, or --overwrite",
            ) from error
        if row.get("stop_reason") != "error":
            done[key] = prompt
            kept.append(line)
    failed = whole.count("\n") - len(kept)
    if cut:
        stderr().print(f"note: the last line of {out} was cut off; its task is done again", markup=False)
    if failed:
        stderr().print(f"note: tasks that ended with an error are done again: {failed:,}", markup=False)
    if cut or failed:
        atomic_text(out, "".join(f"{line}\n" for line in kept))
    return done


_TASK_FIX = 'write {"prompt": "..."} with "id" and "system" if wanted, or a conversation that ends in a user message'

# --- tasks ----------------------------------------------------------------------------------------------------------


def read_tasks(path: Path, system: str, toolbox: Toolbox) -> list[Task]:
    """Return the tasks of a file, each with an id (its own, else its line number).

    A row is `{"prompt", "id"?, "system"?}`, or a conversation in any format, of which everything up to the last user
    message is the task; its own tools, where it has some, are shown to the model.

    Raises:
        ConfigError: a row that is no task, or an id that stands twice.
    """
    rows = list(read_file(path))
    if any(isinstance(raw, dict) and "prompt" in raw for _, raw in rows):
        tasks = [_read_prompt(raw, f"{path}:{source.line}", source.line, system, toolbox) for source, raw in rows]
    else:
        tasks = _read_conversations(path, rows, system, toolbox)
    seen: set[str] = set()
    for task in tasks:
        if str(task.id) in seen:
            raise ConfigError(f"{path}: the id {task.id!r} stands twice", fix="give every task an id of its own")
        seen.add(str(task.id))
    return tasks


def _read_prompt(raw: Any, where: str, line: int, system: str, toolbox: Toolbox) -> Task:  # noqa: ANN401 - a raw row
    if isinstance(raw, DataError):
        raise ConfigError(f"{where}: {raw.message}", fix=raw.fix or "write one JSON object a line")
    if not isinstance(raw, dict) or not isinstance(raw.get("prompt"), str) or not raw["prompt"].strip():
        raise ConfigError(f"{where}: prompt: no text", fix=_TASK_FIX)
    own = raw.get("system", system)
    if not isinstance(own, str):
        raise ConfigError(f"{where}: system: {own!r} is no text", fix="write a text, or leave it out")
    messages, tools = open_conversation(own, toolbox)
    identifier = raw.get("id", line)
    return Task(messages=(*messages, Message(role="user", content=raw["prompt"])), tools=tools, id=str(identifier))


def _read_conversations(path: Path, rows: Sequence[Row], system: str, toolbox: Toolbox) -> list[Task]:
    opening, given = open_conversation(system, toolbox)
    tasks: list[Task] = []
    format_name: str | None = None
    for source, raw in rows:
        try:
            if isinstance(raw, DataError):
                raise raw
            format_name = format_name or registry.detect_format(
                [_close(row) for _, row in rows if isinstance(row, dict)]
            )
            row = registry.read_row(_close(raw), source, format_name)
        except DataError as error:
            place = f"{error.field}: " if error.field and error.field not in error.message else ""
            raise ConfigError(f"{source}: {place}{error.message}", fix=error.fix or _TASK_FIX) from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", fix=_TASK_FIX) from error
        tasks.append(_cut_conversation(row, opening, given))
    return tasks


def _close(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with an answer at its end, which formats of training data want and a task need not have."""
    row = dict(raw)
    for key, role, text in (("messages", "role", "content"), ("conversations", "from", "value")):
        listed = row.get(key)
        if isinstance(listed, list) and listed and isinstance(listed[-1], dict):
            asked = listed[-1].get(role)
            if asked in ("user", "human"):
                row[key] = [*listed, {role: "gpt" if asked == "human" else "assistant", text: "-"}]
    return row


def _cut_conversation(row: Conversation, opening: tuple[Message, ...], given: tuple[Any, ...]) -> Task:
    last = max((i for i, message in enumerate(row.messages) if message.role == "user"), default=None)
    if last is None:
        raise ConfigError(f"{row.source}: there is no user message", fix="end the task in a user message")
    messages = row.messages[: last + 1]
    if messages[0].role != "system":
        messages = (*opening, *messages)
    return Task(messages=messages, tools=row.tools or given, id=row.id or str(row.source.line))


def ask_person(call: ToolCall) -> str:
    """Ask the person at the terminal for an Observation; the question goes to stderr, so stdout stays the result's.

    Raises:
        ConfigError: there is nobody to ask.
    """
    console = stderr()
    console.print(f"\nobservation of {clean(call.name)} {clean(call.arguments)}", style="bold", markup=False)
    try:
        return read_line("  > ")
    except EOFError:
        raise ConfigError(
            "--tools manual waits for a person to type the observation, and the input has ended",
            fix="run it in a terminal, or answer calls with --tools record:FILE",
        ) from None


def read_line(prompt: str) -> str:
    """Read a line of the person at the terminal, the prompt on stderr.

    Raises:
        EOFError: the input has ended.
    """
    try:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        stderr().print()
        raise
    if not line:
        raise EOFError
    return line.rstrip("\n")
