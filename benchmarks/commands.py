"""Wall time of commands that must be quick: help, and rows to tokens on one core.

    python benchmarks/commands.py [--model DIR --data FILE] [--repeat 10]

Prints the median and the best of each; machines are shared, so the best of several is the fairer figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder with tokenizer.json, for `actune tokens`")
    parser.add_argument("--data", help="conversation file, for `actune tokens`")
    parser.add_argument("--repeat", type=int, default=10)
    args = parser.parse_args()
    actune = str(Path(sys.executable).with_name("actune"))
    for words in (["--help"], ["sft", "--help"], ["tokens", "--help"]):
        report(" ".join(words), [measure([actune, *words]) for _ in range(args.repeat)])
    if args.model and args.data:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "tokens.jsonl"
            command = [actune, "tokens", "--model", args.model, "--data", args.data, "--out", str(out)]
            report("tokens, one core", [measure(command, cores=1) for _ in range(min(args.repeat, 3))])
            with out.open(encoding="utf-8") as lines:
                print(f"  {sum(1 for _ in lines):,} rows, {out.stat().st_size / 2**20:.0f} MiB of JSON lines")


def measure(command: list[str], cores: int | None = None) -> float:
    """Return the seconds of one run, on the first `cores` cores where the system allows it."""

    def pin() -> None:
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=pin)
    return time.perf_counter() - began


def report(name: str, seconds: list[float]) -> None:
    """Print one line of the table."""
    print(f"{name:20} median {statistics.median(seconds):7.3f} s   best {min(seconds):7.3f} s   of {len(seconds)}")


if __name__ == "__main__":
    main()
