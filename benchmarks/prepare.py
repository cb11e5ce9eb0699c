"""From jsonl to rows that can be trained: time and memory at the size of the reference recipe, and beside `datasets.map`.

    python benchmarks/prepare.py --tokenizer DIR [--agent 30000 --general 60000 --identity 3000]

Rows are generated (`generated_rows.py`) at the mean lengths of the reference's sets, about 646 and 353 tokens. Measured:

- a process from its start to the prepared run: files read and checked, mixture drawn, every row rendered, checked for
  losses, tokenised, laid out and stored (`first`); the same again (`again`); with another seed, which draws other rows
  for validation (`other seed`); with the rows of the general set by tokens (`by tokens`). Memory is the proportional set
  size of the process and its children, sampled;
- packs of --max_length tokens over all rows: how full they are and how long that takes;
- a sample of rows, and --real rows of one's own: seconds a row of actune (everything above, after its imports; in one
  process on one core, and as it comes) and of `datasets.map` with `apply_chat_template` on one core, its default, in an
  environment of its own that the script makes (--venvs): once with the whole conversation tokenised once, which does
  not tell what is to be trained, and once with the prompt and the end of each assistant message.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from generated_rows import RowWriter, write_rows
from peers.venvs import make_venv

_DATE = datetime.date(2026, 1, 1)


def main() -> None:
    """Generate the rows, run everything, print a table."""
    options = read_options()
    if options.child:
        print(json.dumps(prepare_once(json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Print all measurements."""
    writer = RowWriter()
    agent, general = folder / "agent.jsonl", folder / "general.jsonl"
    write_rows((writer.agent_row() for _ in range(options.agent)), agent)
    write_rows((writer.general_row() for _ in range(options.general)), general)
    size = (agent.stat().st_size + general.stat().st_size) / 1e6
    print(f"{options.agent:,} agent rows, {options.general:,} general rows: {size:.0f} MB of jsonl", flush=True)
    job = {
        "tokenizer": str(options.tokenizer.resolve()),
        "processes": options.processes,
        "data": {
            "dataset": [str(agent)],
            "train_dataset_mix_ds": [str(general)],
            "train_dataset_mix_ratio": options.general / options.agent,
            "self_cognition_sample": options.identity,
            "model_name": ["小助", "Helper"],
            "model_author": ["团队", "Team"],
            "max_length": options.max_length,
            "cache_dir": str(folder / "cache"),
        },
        "seed": 42,
    }
    by_tokens = job["data"] | {"train_dataset_mix_by": "supervised_tokens", "train_dataset_mix_ratio": 1.0}
    for name, changed in (
        ("first", job),
        ("again", job),
        ("other seed", job | {"seed": 43}),
        ("by tokens", job | {"data": by_tokens}),
    ):
        found = run_child(changed)
        print(
            f"{name}: {found['wall']:.1f} s, {found['memory'] / 2**20:,.0f} MiB; {found['rows']:,} rows, "
            f"{found['tokens']:,} tokens, {found['supervised']:,} supervised; "
            + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in found["parts"].items()),
            flush=True,
        )
        if name == "first":
            packs = found["packs"]
            print(
                f"packs of {options.max_length:,}: {packs['count']:,}, {packs['fill']:.4%} full, {packs['seconds']:.3f} s",
                flush=True,
            )
    third = options.sample // 3
    samples = [take(agent, third, folder / "a.jsonl"), take(general, options.sample - third, folder / "g.jsonl")]
    compare_with_datasets("generated", samples, options, job, folder)
    if options.real is not None:
        compare_with_datasets(options.real.name, [options.real.resolve()], options, job, folder)


def take(source: Path, count: int, out: Path) -> Path:
    """Write the first rows of a file to another one."""
    with source.open(encoding="utf-8") as lines:
        out.write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    return out


def prepare_once(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare a run as `actune sft` does, in this process and its workers."""
    clock = [time.perf_counter()]
    from actune.config.settings import Settings
    from actune.data.choose import choose_rows
    from actune.data.global_packs import pack_globally
    from actune.data.prepare import open_cache, prepare
    from actune.data.store.store import RowStore
    from actune.recipes.sft import make_recipe

    clock.append(time.perf_counter())
    given = {"model": {"model_id_or_path": job["tokenizer"]}, "data": job["data"], "training": {"seed": job["seed"]}}
    settings = Settings.model_validate(given)
    (cache, _), processes = open_cache(settings), job["processes"]
    store = RowStore(make_recipe(settings, Path(job["tokenizer"]), _DATE), cache, processes=processes)
    clock.append(time.perf_counter())
    rows = choose_rows(settings, cache, store, processes=processes)
    clock.append(time.perf_counter())
    prepared = prepare(settings, rows, store)
    clock.append(time.perf_counter())
    sizes = prepared.train.sizes()
    start = time.perf_counter()
    packs = pack_globally([tokens for tokens, _ in sizes], settings.data.max_length)
    seconds = time.perf_counter() - start
    tokens = sum(tokens for tokens, _ in sizes)
    packed = sum(min(tokens, settings.data.max_length) for tokens, _ in sizes)  # trees with branches may have more
    parts = dict(
        zip(
            ("imports", "tokenizer", "choosing", "encoding"), (b - a for a, b in itertools.pairwise(clock)), strict=True
        )
    )
    return {
        "rows": len(sizes),
        "tokens": tokens,
        "supervised": sum(supervised for _, supervised in sizes),
        "parts": parts,
        "packs": {"count": len(packs), "fill": packed / (len(packs) * settings.data.max_length), "seconds": seconds},
        "fingerprint": prepared.fingerprint,
    }


def run_child(job: dict[str, Any], cores: set[int] | None = None) -> dict[str, Any]:
    """Run `prepare_once` in a process of its own; add its seconds from start to end and its highest memory."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    start = time.perf_counter()
    pin = None if cores is None else (lambda: os.sched_setaffinity(0, cores))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin) as child:
        peak = [0]
        threading.Thread(target=watch_memory, args=(child.pid, peak), daemon=True).start()
        output, _ = child.communicate()
    if child.returncode:
        sys.exit(f"the process ended with {child.returncode}")
    return json.loads(output) | {"wall": time.perf_counter() - start, "memory": peak[0]}


def watch_memory(pid: int, peak: list[int]) -> None:
    """Keep the highest proportional set size of a process and its children, in bytes."""
    while True:
        total = 0
        for one in (pid, *children_of(pid)):
            try:
                rollup = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        if not total:
            return
        peak[0] = max(peak[0], total * 1024)
        time.sleep(0.2)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def compare_with_datasets(
    name: str, samples: list[Path], options: argparse.Namespace, job: dict[str, Any], folder: Path
) -> None:
    """Prepare the same rows with both."""
    plain = folder / "messages.jsonl"
    with plain.open("w", encoding="utf-8") as file:
        for line in (line for sample in samples for line in sample.open(encoding="utf-8")):
            row = json.loads(line)
            if "conversations" in row:
                row = {"messages": [{"role": m["from"], "content": m["value"]} for m in row["conversations"]]}
            file.write(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n")
    data = {
        "dataset": [str(sample) for sample in samples],
        "validation_ratio": 0.0,
        "max_length": -1,
        "cache_dir": str(folder / "sample-cache"),
    }
    python = make_venv("datasets", options.venvs)
    core = {min(os.sched_getaffinity(0))}
    theirs = {mode: run_map(python, plain, job["tokenizer"], mode, core) for mode in ("ids", "turns")}
    for cores, processes in ((core, 1), (None, options.processes)):
        shutil.rmtree(folder / "sample-cache", ignore_errors=True)
        own = run_child(job | {"data": data, "processes": processes}, cores)
        seconds = sum(own["parts"].values()) - own["parts"]["imports"]
        ours = seconds / own["rows"] * 1e3
        print(
            f"{name}: {own['rows']:,} rows, {own['tokens']:,} tokens, {processes} process(es): actune {ours:.3f} ms a row; "
            + "; ".join(
                f"datasets {found['version']}, map, {mode}, one process: {found['seconds'] / found['rows'] * 1e3:.3f} ms "
                f"({found['seconds'] / found['rows'] * 1e3 / ours:.1f}x)"
                for mode, found in theirs.items()
            ),
            flush=True,
        )


def run_map(python: Path, rows: Path, tokenizer: str, mode: str, core: set[int]) -> dict[str, Any]:
    """Encode rows with `datasets.map` in its own environment, on one core."""
    script = Path(__file__).with_name("peers") / "datasets_map.py"
    done = subprocess.run(
        [str(python), str(script), str(rows), tokenizer, mode],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def read_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json and a chat template")
    parser.add_argument("--agent", type=int, default=30_000)
    parser.add_argument("--general", type=int, default=60_600, help="1 %% of the agent rows are held back")
    parser.add_argument("--identity", type=int, default=3_000)
    parser.add_argument("--max_length", type=int, default=2048)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--real", type=Path, help="rows of one's own, jsonl in the ms-agent or openai layout")
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=None, help="folder for the files; default: the system's")
    parser.add_argument("--venvs", type=Path, default=Path("peers"), help="where the environment of datasets is made")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None and options.tokenizer is None:
        parser.error("--tokenizer is needed")
    return options


if __name__ == "__main__":
    main()
