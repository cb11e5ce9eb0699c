"""Train the same work with actune, TRL, ms-swift, LLaMA-Factory and Unsloth, and say how fast each was.

    python benchmarks/train.py --peers trl,ms-swift --track defaults,best --repeat 2 --json runs/speed.json

Each peer lives in its own virtual environment, made by this script on first use (pip; some GB each), and is started by
its own entry point on the CPU. The model has random weights; the rows are real. Runs are interleaved (A B C A B C), so
that noise hits all alike. `benchmarks/peers/entries.py` holds what is fixed for all and each one's configurations.

Tracks: `defaults`, `best` (or any other name of a configuration, or `PEER:NAME` for one of them), `ids` (TRL fed with
actune's ids, labels and first adapter: identical work, losses compared step by step) and `tree` (rows whose template
drops earlier reasoning: one tree a row against one sequence a turn).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import inputs  # noqa: E402
import tracks  # noqa: E402
from entries import CONFIGS, Work, make_command, python_of  # noqa: E402
from measure import Figures, run, summarise  # noqa: E402
from venvs import RECIPES, list_versions, make_venv  # noqa: E402


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    named = [peer for peer in options.peers.split(",") if peer]
    unknown = set(named) - RECIPES.keys()
    if unknown:
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(RECIPES)}")
    names = [*options.track.split(",")]
    if names == ["all"]:
        names = ["defaults", "best", "best-bf16", "ids", "tree"]
    if "ids" in names and "trl" not in named:
        named.append("trl")
    made = {peer: make_venv(peer, options.venvs.resolve()) for peer in named}
    if options.only_venvs:
        return 0
    work, counter = make_inputs(options)
    results: dict[str, object] = {"about": describe(options, work, made), "runs": []}
    plain = [name for name in names if name not in ("ids", "tree")]
    if plain:
        compare(options, choose(plain, named, options.actune.split(",")), work, counter, made, results)
    if "ids" in names:
        results["ids"] = tracks.compare_ids(work, options, made["trl"])
    if "tree" in names:
        results["tree"] = tracks.compare_tree(work, options)
    save(options, results)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = HERE.parent.parent / "shared"
    add = parser.add_argument
    add("--peers", default=",".join(RECIPES), help="peers to compare with, by commas (default: all)")
    add("--track", default="defaults,best", help="see above; all = defaults,best,best-bf16,ids,tree")
    add("--actune", default="defaults,no-dropout", help=f"actune's configurations: {', '.join(CONFIGS['actune'])}")
    add("--model", choices=("small", "wide"), default="small", help="6,400 or 151,936 tokens of vocabulary")
    add("--steps", type=int, default=5, help="optimiser steps, the warm-up included (default 5)")
    add("--warm-up", type=int, default=1, help="steps that are not timed, at least 1 (default 1)")
    add("--rows-per-step", type=int, default=16, help="conversations a step (default 16)")
    add("--max-length", type=int, default=2048, help="tokens of a row (default 2048)")
    add(
        "--long",
        choices=("out", "keep"),
        default="out",
        help="rows that are longer: not drawn, or each peer's business",
    )
    add("--rank", type=int, default=8)
    add("--alpha", type=int, default=32)
    add("--learning-rate", type=float, default=1e-4)
    add("--seed", type=int, default=42)
    add("--threads", type=int, default=2, help="OMP and MKL threads of every process")
    add("--repeat", type=int, default=1, help="rounds, one run of each a round")
    add("--turns", type=int, default=8, help="user turns of a row in the track tree")
    add("--batch", type=int, help="rows of a forward pass of peers at most, where their default needs too much memory")
    add("--memory", type=float, default=18, help="GB at which a run is ended (default 18)")
    add("--limit", type=float, default=3600, help="seconds after which a run is ended")
    add("--data", type=Path, default=shared / "data/agent/doraemon_msagent.jsonl", help="rows in the ms-agent format")
    add("--tokenizers", type=Path, default=shared / "assets/tokenizers", help="folder with minimind and qwen3")
    add("--venvs", type=Path, default=HERE.parent / "runs/peers", help="where the environments are")
    add("--out", type=Path, default=HERE.parent / "runs/speed", help="inputs, logs and outputs")
    add("--json", type=Path, help="write all figures here, after every run")
    add("--only-venvs", action="store_true", help="make the environments and stop")
    options = parser.parse_args()
    if options.warm_up < 1 or options.steps <= options.warm_up:
        parser.error("--warm-up must be at least 1 and less than --steps")
    options.out, options.data = options.out.resolve(), options.data.resolve()
    return options


def make_inputs(options: argparse.Namespace) -> tuple[Work, list[int]]:
    """Make model and rows; return the work and the tokens of each of its rows by actune's rendering."""
    model = options.out / f"model-{options.model}"
    if not (model / "tokenizer_config.json").is_file():
        tokenizer = inputs.tokenizer_of(options.model, options.tokenizers.resolve())
        subprocess.run([sys.executable, str(HERE / "peers/inputs.py"), str(tokenizer), str(model)], check=True)
    lines = [line for line in options.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = options.out / f"all-{options.model}.lengths.json"
    if not known.is_file():
        everything = options.out / "all.jsonl"
        inputs.write_messages(lines, everything)
        known.write_text(json.dumps(tracks.count_tokens(model, everything)), encoding="utf-8")
    # Line -> tokens; lines that actune refuses are missing. A little room is left for what a peer's own template adds.
    lengths = {int(line): tokens for line, tokens in json.loads(known.read_text(encoding="utf-8")).items()}
    top = options.max_length - 8 if options.long == "out" else sys.maxsize
    fitting = [line - 1 for line, tokens in lengths.items() if tokens <= top]
    print(f"{len(fitting):,} of {len(lines):,} rows can be drawn", file=sys.stderr)
    rows = options.steps * options.rows_per_step
    data = options.out / f"rows-{options.model}-{rows}-{options.max_length}-{options.long}"
    chosen = inputs.make_rows(lines, fitting, data, rows=rows, seed=options.seed)
    work = Work(
        model=model,
        data=data,
        rows=rows,
        rows_a_step=options.rows_per_step,
        max_length=options.max_length,
        rank=options.rank,
        alpha=options.alpha,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    return work, [lengths[number + 1] for number in chosen]


def choose(names: list[str], peers: list[str], own: list[str]) -> list[tuple[str, str]]:
    """Return (peer, configuration) of each run of a round; actune's come first."""
    chosen = [("actune", name) for name in own if name]
    for name in names:
        peer, colon, config = name.partition(":")
        chosen += [(peer, config)] if colon else [(peer, name) for peer in peers if name in CONFIGS[peer]]
    for peer, name in chosen:
        if name not in CONFIGS.get(peer, {}):
            raise SystemExit(f"{peer} has no configuration {name}; it has {', '.join(CONFIGS.get(peer, {}))}")
    return list(dict.fromkeys(chosen))


def compare(
    options: argparse.Namespace,
    chosen: list[tuple[str, str]],
    work: Work,
    counter: list[int],
    made: dict[str, Path],
    results: dict[str, object],
) -> None:
    """Run every configuration `--repeat` times, interleaved, and print the table."""
    found: dict[tuple[str, str], list[Figures]] = {pair: [] for pair in chosen}
    runs = results["runs"]
    assert isinstance(runs, list)
    for turn in range(options.repeat):
        for peer, name in chosen:
            out = options.out / "runs" / f"{peer}-{name}-{turn}"
            figures, problem = run_one(options, (peer, name), work, counter, made, out)
            if figures is not None:
                found[peer, name].append(figures)
            entry = asdict(figures) if figures is not None else {"problem": problem}
            runs.append({"peer": peer, "config": name, "turn": turn, **entry})
            speed = f"{figures.rate:,.0f} tokens/s" if figures is not None else problem
            print(f"{peer} {name}: {speed}", file=sys.stderr, flush=True)
            save(options, results)
    print(make_table(found))


def run_one(
    options: argparse.Namespace,
    which: tuple[str, str],
    work: Work,
    counter: list[int],
    made: dict[str, Path],
    out: Path,
) -> tuple[Figures | None, str]:
    """Run one configuration; return its figures, or what went wrong."""
    peer, name = which
    out.parent.mkdir(parents=True, exist_ok=True)
    tracks.clear(out)
    config = dict(CONFIGS[peer][name])
    batch = config.get("per_device_train_batch_size")
    if options.batch and isinstance(batch, int):
        config["per_device_train_batch_size"] = min(batch, options.batch)
    command = make_command(peer, config, work, python_of(peer, made), out)
    log = out.with_suffix(".log")
    raw = run(command, log, threads=options.threads, limit=options.limit, memory=options.memory * 1e9)
    if raw.peak > options.memory * 1e9:
        return None, f"ended at {raw.peak / 1e9:.1f} GB (--memory {options.memory:g}), after {len(raw.steps)} steps"
    if raw.code or len(raw.steps) <= options.warm_up:
        return None, f"exit code {raw.code} after {len(raw.steps)} steps, see {log}"
    rows = work.rows - tracks.count_lines(out / "quarantine.jsonl") if peer == "actune" else None
    return summarise(raw, warm_up=options.warm_up, counter=counter, longest=work.max_length, rows=rows), ""


def make_table(found: dict[tuple[str, str], list[Figures]]) -> str:
    """Return a Markdown table: medians over the rounds, with the range of the rate, and actune's rate over it."""
    own = {name: _median(runs, "rate") for (peer, name), runs in found.items() if peer == "actune" and runs}
    head = ["", "tokens/s", "range", "per CPU s", *(f"actune {name}" for name in own)]
    head += ["rows", "tokens", "supervised", "padding", "peak MB", "first step s", "loss"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for (peer, name), runs in found.items():
        if not runs:
            lines.append([f"{peer} {name}", "failed", *[""] * (len(head) - 2)])
            continue
        rate, last = _median(runs, "rate"), runs[-1]
        cells = [f"{peer} {name}", f"{rate:,.0f}", f"{min(r.rate for r in runs):,.0f}-{max(r.rate for r in runs):,.0f}"]
        cells += [f"{_median(runs, 'cpu_rate'):,.0f}", *(f"{value / rate:.2f}x" for value in own.values())]
        cells += [f"{last.rows}", f"{last.tokens:,}", f"{last.supervised:,}", f"{last.padding:.0%}"]
        cells += [f"{max(r.peak for r in runs) / 1e6:,.0f}", f"{_median(runs, 'first'):.1f}"]
        lines.append([*cells, f"{last.losses[0]:.3f} -> {last.losses[-1]:.3f}" if last.losses else ""])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _median(runs: list[Figures], name: str) -> float:
    return statistics.median(getattr(figures, name) or 0.0 for figures in runs)


def describe(options: argparse.Namespace, work: Work, made: dict[str, Path]) -> dict[str, object]:
    """Return what has to be known to repeat the runs."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "work": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(work).items()},
        "command": sys.argv[1:],
        "commit": commit,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.threads} threads",
        "versions": {peer: list_versions(python.parent.parent) for peer, python in made.items()},
    }


def save(options: argparse.Namespace, results: dict[str, object]) -> None:
    """Write what is known so far."""
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
