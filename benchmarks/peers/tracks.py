"""The two tracks in which the work is identical token for token, and what they share with the others."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import inputs
from entries import CONFIGS, HERE, TARGETS, Command, Config, Work, make_command
from measure import Raw, run

# Both sides alike: no warm-up, one decay, one clipping, the schedule of both (linear to 0).
_SAME = {"weight_decay": 0.01, "max_grad_norm": 0.5}


def clear(out: Path) -> None:
    """Remove what an earlier run left."""
    shutil.rmtree(out, ignore_errors=True)


def count_lines(path: Path) -> int:
    """Return the lines of a file, 0 where there is none."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def render(model: Path, data: Path) -> list[dict[str, object]]:
    """Return actune's rendering of each row of a file (`actune tokens`): ids, targets, or an error."""
    out = data.with_suffix(".tokens")
    words = [sys.executable, "-m", "actune", "tokens", "--model", str(model), "--data", str(data), "--out", str(out)]
    subprocess.run(words, check=False, stdout=subprocess.DEVNULL)  # exit code 1: some rows are errors
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def count_tokens(model: Path, data: Path) -> dict[int, int]:
    """Return line -> tokens for the rows of a file that actune can render."""
    counts = {}
    for row in render(model, data):
        source, ids = row["source"], row.get("input_ids")
        if isinstance(source, dict) and isinstance(ids, list):
            counts[int(source["line"])] = len(ids)
    return counts


# --- TRL on actune's ids ---------------------------------------------------------------------------------------------


def compare_ids(work: Work, options: argparse.Namespace, python: Path) -> dict[str, object]:
    """Train actune's ids with both, from one adapter; print and return speeds and the differences of the losses."""
    folder = options.out / "ids"
    folder.mkdir(parents=True, exist_ok=True)
    data, adapter = folder / "ids.jsonl", folder / "adapter"
    clear(adapter)
    words = [str(work.model), str(adapter), str(work.rank), str(work.alpha), str(work.seed), ",".join(TARGETS)]
    subprocess.run([sys.executable, str(HERE / "first_adapter.py"), *words], check=True)
    recipe = folder / "trl.json"
    trainer = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": work.rows_a_step,
        "num_train_epochs": 1,
        "learning_rate": work.learning_rate,
        "seed": work.seed,
        "bf16": False,
        "gradient_checkpointing": False,
        **_SAME,
    }
    values = {
        "model": work.model,
        "adapter": adapter,
        "data": data,
        "out": folder / "trl",
        "max_length": work.max_length,
    }
    texts = {key: value if isinstance(value, int) else str(value) for key, value in values.items()}
    recipe.write_text(json.dumps(texts | {"trainer": trainer}, indent=1), encoding="utf-8")
    config = CONFIGS["actune"]["no-dropout"] | {"warmup_ratio": 0} | _SAME
    clear(folder / "actune")
    own = make_command("actune", config, work, Path(sys.executable), folder / "actune")
    other = Command(words=[str(python), str(HERE / "trl_ids.py"), str(recipe)], environment={})
    raws = {"actune": _run(own, folder / "actune.log", options)}
    written = _write_ids(work, [step.lines for step in raws["actune"].steps], data)
    raws["trl"] = _run(other, folder / "trl.log", options)
    seconds = {name: _seconds(raw, options.warm_up) for name, raw in raws.items()}
    losses = {name: [step.loss for step in raw.steps] for name, raw in raws.items()}
    norms = {name: [step.norm for step in raw.steps] for name, raw in raws.items()}
    differences = [abs(a - b) / abs(b) for a, b in zip(losses["actune"], losses["trl"], strict=True)]
    print(f"\nTRL on actune's ids and labels ({written} rows, {len(differences)} steps, fp32, no dropout):\n")
    print("| step | actune loss | TRL loss | relative difference | actune norm | TRL norm |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for step, (own, other, difference) in enumerate(zip(losses["actune"], losses["trl"], differences, strict=True)):
        pair = f"{norms['actune'][step]:.6f} | {norms['trl'][step]:.6f}"
        print(f"| {step + 1} | {own:.7f} | {other:.7f} | {difference:.1e} | {pair} |")
    ratio = seconds["trl"] / seconds["actune"]
    busy = {name: _seconds(raw, options.warm_up, of="cpu") for name, raw in raws.items()}
    own = busy["trl"] / busy["actune"]
    print(
        f"\nactune {seconds['actune']:.2f} s a step ({busy['actune']:.2f} CPU s), TRL {seconds['trl']:.2f} s "
        f"({busy['trl']:.2f} CPU s): {ratio:.2f}x ({own:.2f}x)"
    )
    speeds = {"seconds_a_step": seconds, "cpu_seconds_a_step": busy, "ratio": ratio, "cpu_ratio": own}
    return {"losses": losses, "norms": norms, **speeds, "largest": max(differences)}


def _write_ids(work: Work, steps: list[list[int]], out: Path) -> int:
    """Write ids and labels of the rows of each step in the order of the steps; return how many.

    Raises:
        SystemExit: a row is no single line of tokens with weight 1, which ids and labels cannot express, or a step's
            rows are not the number they should be.
    """
    if any(len(set(lines)) != work.rows_a_step for lines in steps):
        raise SystemExit(
            f"actune's steps have {[len(set(lines)) for lines in steps]} rows, not {work.rows_a_step} each"
        )
    rows = render(work.model, work.data / "messages" / "train.jsonl")
    ordered = [_flatten(rows[line - 1]) for lines in steps for line in sorted(set(lines))]
    out.write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")
    return len(ordered)


def _flatten(row: dict[str, object]) -> dict[str, list[int]]:
    ids, positions, targets = row.get("input_ids"), row.get("positions"), row.get("targets")
    if not (isinstance(ids, list) and isinstance(targets, list)) or positions != list(range(len(ids))):
        raise SystemExit(f"{row['source']} is an error or has branches: the track ids needs other rows")
    labels = [-100] * len(ids)
    for place, token, weight in targets:
        if place + 1 == len(ids):
            ids, labels = [*ids, token], [*labels, -100]
        if ids[place + 1] != token or weight != 1:
            raise SystemExit(f"{row['source']} has a target that labels cannot express")
        labels[place + 1] = token
    return {"input_ids": ids, "labels": labels}


# --- trees against plain sequences -----------------------------------------------------------------------------------


def compare_tree(work: Work, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train rows whose template drops earlier reasoning, as trees and unrolled; print and return times and losses.

    Every step takes all rows, so the steps of all ways have the same targets and their losses must agree.
    """
    folder = options.out / f"tree-{options.turns}"
    rows = options.rows_per_step
    lines = options.data.read_text(encoding="utf-8").splitlines()
    inputs.make_turns(lines, folder, rows=rows, turns=options.turns, seed=work.seed)
    common: Config = CONFIGS["actune"]["no-dropout"] | {
        "chat_template": folder / "stripping.jinja",
        "num_train_epochs": options.steps,
        "max_length": 8192,
        "micro_batch_tokens": 2 * work.max_length,
        "warmup_ratio": 0,
    }
    turns, unrolled = common | {"dataset": folder / "turns.jsonl"}, common | {"dataset": folder / "unrolled.jsonl"}
    alone = {"share_prefixes": "false"}
    ways = {
        "one tree a row": (rows, turns),
        "one tree a row, nothing shared between rows": (rows, turns | alone),
        "a sequence a turn, packed": (rows * options.turns, unrolled | alone),
        "a sequence a turn, packed, what is equal shared": (rows * options.turns, unrolled),
        "a sequence a turn, not packed": (rows, turns | {"packing": "false"}),
    }
    raws: dict[str, Raw] = {}
    for name, (size, config) in ways.items():
        out = folder / name.replace(" ", "-").replace(",", "")
        clear(out)
        batch = config["batch_size"]
        assert isinstance(batch, int)
        accumulate = {"gradient_accumulation_steps": size // batch}
        command = make_command("actune", config | accumulate, work, Path(sys.executable), out)
        raws[name] = _run(command, out.with_suffix(".log"), options)
    seconds = {name: _seconds(raw, options.warm_up) for name, raw in raws.items()}
    busy = {name: _seconds(raw, options.warm_up, of="cpu") for name, raw in raws.items()}
    base = raws["one tree a row"]
    print(f"\nRows of {options.turns} user turns whose template drops earlier reasoning ({rows} rows a step):\n")
    print(
        "| | s a step | CPU s | tokens | targets | tree is faster | by CPU s | largest relative difference of losses |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    found: dict[str, dict[str, float]] = {}
    for name, raw in raws.items():
        pairs = zip(raw.steps, base.steps, strict=True)
        worst = max(abs(step.loss - first.loss) / abs(first.loss) for step, first in pairs)
        ratio, last = seconds[name] / seconds["one tree a row"], raw.steps[-1]
        own = busy[name] / busy["one tree a row"]
        times = f"{seconds[name]:.2f} | {busy[name]:.2f} | {last.tokens:,} | {last.supervised:,}"
        print(f"| {name} | {times} | {ratio:.2f}x | {own:.2f}x | {worst:.1e} |")
        found[name] = {"seconds_a_step": seconds[name], "cpu_seconds_a_step": busy[name], "tokens": last.tokens}
        found[name] |= {"ratio": ratio, "cpu_ratio": own, "difference": worst}
    return found


def _run(command: Command, log: Path, options: argparse.Namespace) -> Raw:
    raw = run(command, log, threads=options.threads, limit=options.limit, memory=options.memory * 1e9)
    if raw.code or len(raw.steps) <= options.warm_up:
        raise SystemExit(f"exit code {raw.code} after {len(raw.steps)} steps, see {log}")
    return raw


def _seconds(raw: Raw, warm_up: int, *, of: str = "seconds") -> float:
    timed = [getattr(step, of) for step in raw.steps[warm_up:] if step.seconds is not None]
    return sum(timed) / len(timed)
