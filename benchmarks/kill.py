"""`kill -9` at random moments of `actune sft`, then `--resume auto`: is the result that of a run never killed?

    python benchmarks/kill.py [--kills 20] [--per-run 3] [--seed 0] [--folder DIR]

Every kill goes to the real command line in a process of its own. Moments: any time after the start of the process
(reading rows, loading, training), after a step, inside the writing of a checkpoint, inside an evaluation, inside the
writing of the result. The run has packing, a mixture of agent, general and identity rows, shuffling and dropout;
checkpoints lie in the middle of epochs. Rows and the base model are those of the demo.

Compared with the run that was never killed: every line of metrics.jsonl but its clocks, the adapter's files, the last
checkpoint's files, and that nothing half-written is left. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from actune.demo.rows import write_agent_rows, write_general_rows

CLOCKS = ("seconds", "tokens_per_second", "peak_memory_bytes", "mfu")
EVAL_STEPS, SAVE_STEPS = 3, 4
KINDS = ("time", "step", "save", "evaluation", "time", "step", "save", "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: the moment aimed at, how the folder looked after it, and the step of its newest checkpoint."""

    run: int
    moment: str
    seen: str
    checkpoint: int


def main() -> int:
    """Run all kills and print a table; returns 1 on any difference."""
    options = _read_options()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="actune-kill-"))
    command = write_inputs(folder, options.epochs)
    began = time.monotonic()
    finish(start(command, folder / "whole", resume=False), folder / "whole")
    seconds = time.monotonic() - began
    steps = count_steps(folder / "whole")
    print(f"never killed: {steps} steps in {seconds:.0f} s; {options.kills} kills follow, seed {options.seed}\n")
    print("| kill | run | moment | found after it | goes on after step |\n|---|---|---|---|---|")
    rng = random.Random(options.seed)
    killed, run, differences = 0, 0, []
    while killed < options.kills:
        run += 1
        place = folder / f"run-{run}"
        for _ in range(min(options.per_run, options.kills - killed)):
            kill = kill_once(command, place, run, rng, KINDS[killed % len(KINDS)], seconds=seconds, steps=steps)
            if kill is None:
                break  # it was through before the moment came
            killed += 1
            print(f"| {killed} | {run} | {kill.moment} | {kill.seen} | {kill.checkpoint or '-'} |", flush=True)
        finish(start(command, place, resume=True), place)
        found = compare(folder / "whole", place)
        differences += [f"run {run}: {text}" for text in found]
        print(f"| | {run} | never again | {'DIFFERENT' if found else 'equal'} | |", flush=True)
    print(f"\n{killed} kills in {run} runs: {len(differences)} differences")
    for text in differences:
        print(f"- {text}")
    return 1 if differences else 0


def write_inputs(folder: Path, epochs: float) -> list[str]:
    """Write rows and return the command of the run, without its output folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("agent", write_agent_rows(30)), ("general", write_general_rows(30))):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    model = str(resources.files("actune.demo").joinpath("model"))
    flags = {
        "model_id_or_path": model, "dtype": "fp32", "dataset": folder / "agent.jsonl",
        "train_dataset_mix_ds": folder / "general.jsonl", "train_dataset_mix_ratio": 0.8,
        "validation_ratio": 0.2, "self_cognition_sample": 8, "model_name": "Tuner", "model_author": "Testers",
        "lora_dropout_p": 0.05, "num_train_epochs": epochs, "batch_size": 2, "gradient_accumulation_steps": 2,
        "micro_batch_tokens": 1024, "learning_rate": 1e-3, "eval_steps": EVAL_STEPS, "save_steps": SAVE_STEPS,
        "save_total_limit": 2, "logging_steps": 1, "compare": "false",
    }  # fmt: skip
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "actune", "sft", *given]


def start(command: Sequence[str], out: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    """Start a run with its output in a file beside its folder."""
    extra = ["--resume", "auto"] if resume else []
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--output_dir", str(out), *extra], stdout=log, stderr=log, env=os.environ | {"COLUMNS": "120"}
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for a run that has to end well."""
    code = process.wait()
    if code != 0:
        raise SystemExit(f"exit code {code}, see {out.with_suffix('.log')}")


def kill_once(
    command: Sequence[str], out: Path, run: int, rng: random.Random, kind: str, *, seconds: float, steps: int
) -> Kill | None:
    """Start or go on with a run and kill it at a random moment of a kind; None if it ended before."""
    before = newest(out)
    process = start(command, out, resume=True)
    aim, ready = _aim(kind, out, rng, seconds=seconds, steps=steps, before=before)
    while not ready():
        if process.poll() is not None:
            finish(process, out)
            return None
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return None
    return Kill(run=run, moment=aim, seen=describe(out), checkpoint=newest(out))


def _aim(
    kind: str, out: Path, rng: random.Random, *, seconds: float, steps: int, before: int
) -> tuple[str, Callable[[], bool]]:
    """Return the name of a moment and the question whether it has come."""
    began = time.monotonic()
    if kind == "time":
        wait = rng.uniform(0.2, seconds)
        return f"{wait:.2f} s after the start", lambda: time.monotonic() - began > wait
    if kind == "result":
        delay = rng.uniform(0.0, 0.02)
        return f"result, {1000 * delay:.1f} ms in", _delayed(lambda: (out / ".adapter.partial").exists(), delay)
    if kind == "save":
        step = _pick_multiple(rng, SAVE_STEPS, before, steps)
        delay = rng.uniform(0.0, 0.03)
        partial = out / f".checkpoint-{step}.partial"
        return f"checkpoint {step}, {1000 * delay:.1f} ms in", _delayed(partial.exists, delay)
    step = _pick_multiple(rng, EVAL_STEPS, before, steps) if kind == "evaluation" else rng.randint(before + 1, steps)
    delay = rng.uniform(0.0, 0.05)
    name = f"{'evaluation' if kind == 'evaluation' else 'step'} after step {step}, {1000 * delay:.1f} ms in"
    return name, _delayed(lambda: _last_step(out) == step, delay)


def _pick_multiple(rng: random.Random, every: int, before: int, steps: int) -> int:
    later = [step for step in range(every, steps + 1, every) if step > before]
    return rng.choice(later) if later else steps


def _delayed(happens: Callable[[], bool], delay: float) -> Callable[[], bool]:
    since: list[float] = []

    def ready() -> bool:
        if not since and happens():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= delay

    return ready


def newest(out: Path) -> int:
    """Return the step of the newest checkpoint, 0 without one."""
    names = [re.fullmatch(r"checkpoint-(\d+)", path.name) for path in out.glob("checkpoint-*")]
    return max((int(match.group(1)) for match in names if match), default=0)


def _last_step(out: Path) -> int:
    try:
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError):
        return 0


def describe(out: Path) -> str:
    """Say how a folder looks after a kill."""
    partials = sorted(path.name.removeprefix(".").removesuffix(".partial") for path in out.glob(".*.partial"))
    parts = [f"half-written {', '.join(partials)}"] if partials else []
    path = out / "metrics.jsonl"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        parts.append(f"metrics up to {'the evaluation after ' if _ends_in_eval(text) else ''}step {_last_step(out)}")
        parts += [] if text.endswith("\n") or not text else ["last line cut"]
    elif (out / "run.json").exists():
        parts.append("run.json, nothing trained")
    return ", ".join(parts) or "nothing written"


def _ends_in_eval(text: str) -> bool:
    lines = text.splitlines()
    return bool(lines) and '"eval"' in lines[-1]


def count_steps(out: Path) -> int:
    """Return the steps of a run that is through."""
    return _last_step(out)


def compare(whole: Path, other: Path) -> list[str]:
    """Say what differs between two runs that are through."""
    found = []
    wanted, lines = read_metrics(whole), read_metrics(other)
    if lines != wanted:
        places = [place for place, pair in enumerate(zip(lines, wanted, strict=False)) if pair[0] != pair[1]]
        first = places[0] if places else min(len(lines), len(wanted))
        found.append(f"metrics.jsonl differs from line {first + 1} on ({len(lines)} lines, not {len(wanted)})")
    last = f"checkpoint-{count_steps(whole)}"
    for folder, names in (("adapter", None), (last, ("adapter_model.safetensors", "optimizer.safetensors"))):
        for path in sorted((whole / folder).iterdir()):
            twin = other / folder / path.name
            if (names is None or path.name in names) and (not twin.exists() or twin.read_bytes() != path.read_bytes()):
                found.append(f"{folder}/{path.name} differs")
    names = sorted(path.name for path in whole.iterdir())
    others = sorted(path.name for path in other.iterdir())
    if names != others:
        found.append(f"its folder holds {', '.join(sorted(set(names) ^ set(others)))} more or less")
    return found


def read_metrics(out: Path) -> list[dict[str, object]]:
    """Return the lines of metrics.jsonl without clocks; a line that is no JSON is an error."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per-run", type=int, default=3, help="kills of one run before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=2.4)
    parser.add_argument("--folder", help="where runs are written; default: a new temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
