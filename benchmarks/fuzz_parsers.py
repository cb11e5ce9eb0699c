"""Fuzzed outputs through the parsers that were learnt from chat templates: no crash, no hang.

    python benchmarks/fuzz_parsers.py --tokenizer DIR --templates DIR [--outputs 100000] [--seed 0]

An output begins as an answer that the template writes itself (calls, text, reasoning), or as pieces of such answers, and
is changed: parts cut out, doubled, swapped, torn off at the end, brackets and quotes put in, markers repeated thousands of
times, odd Unicode. Every parse must end in a message or in `call-unreadable`, within `--seconds`; what it reads must be
well formed. Exits 1 otherwise, with the output that did it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from actune.core.errors import DataError, RenderError
from actune.core.types import ToolSpec
from actune.render import native_probe
from actune.render.chat import ChatRenderer
from actune.render.native import NativeFormat, learn_format
from actune.render.tokenizer import ChatTemplates, TextTokenizer

NOISE = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    "\n",
    ",",
    ":",
    "<",
    ">",
    "</",
    "null",
    "None",
    "\u0000",
    "\u202e",
    "😀",
    "é",
    "　",
]
BOMBS = [
    "{" * 4000,
    "[" * 4000,
    '{"a":' * 2000,
    '"' * 3001,
    "\\" * 3001,
    "<" * 4000,
    " " * 20000,
    "\n" * 5000,
    "9" * 5000,
]


def change(rng: random.Random, text: str, others: list[str]) -> str:
    """Return a text changed in one way."""
    at, to = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    match rng.randrange(9):
        case 0:
            return text[:at] + text[to:]
        case 1:
            return text[:to] + text[at:]
        case 2:
            return text[:at]
        case 3:
            return text[:at] + rng.choice(NOISE) * rng.randint(1, 3) + text[at:]
        case 4:
            return text[:at] + rng.choice(others) + text[at:]
        case 5:
            return text[:at] + rng.choice(BOMBS) + text[at:]
        case 6:
            return text[:at] + text[at:to] * rng.choice((2, 3, 300)) + text[to:]
        case 7:
            return text[to:] + text[at:to] + text[:at]
        case _:
            return (
                text[:at]
                + "".join(chr(rng.choice((rng.randint(1, 0x2FF), rng.randint(0xE000, 0x1F9FF)))) for _ in range(8))
                + text[to:]
            )


def parse(known: NativeFormat, text: str, tools: tuple[ToolSpec, ...]) -> str:
    """Parse an output; returns how it ended.

    Raises:
        Exception: anything but the one error that an output may cause, or AssertionError for a malformed message.
    """
    try:
        message = known.parse(text, tools)
    except DataError as error:
        if error.code != "call-unreadable":
            raise
        return "unreadable"
    for call in message.tool_calls:
        assert call.name
        assert isinstance(call.parse_arguments(), dict)
    return "calls" if message.tool_calls else "text"


def find_formats(tokenizer: Path, templates: Path) -> dict[str, tuple[NativeFormat, list[str], tuple[ToolSpec, ...]]]:
    """Return by template what was learnt, with answers that it writes and the tools of these."""
    text, found = TextTokenizer.from_folder(tokenizer), {}
    for file in sorted(templates.glob("*.jinja")):
        template = file.read_text(encoding="utf-8")
        try:
            renderer = ChatRenderer(text, ChatTemplates(plain=template, tools=template, origin=file.name))
        except RenderError:
            continue
        known = learn_format(renderer)
        if known.form is not None:
            probes = list(native_probe.trials(renderer))
            found[file.stem] = (known, sorted({probe.text for probe in probes}), probes[0].tools)
    return found


def main() -> int:
    """Fuzz every parser in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--outputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="longest time of one parse (processor time)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    formats = find_formats(options.tokenizer, options.templates)
    every = [text for _, texts, _ in formats.values() for text in texts]
    names = list(formats)
    ends: Counter[str] = Counter()
    slowest, failures = (0.0, "", ""), 0
    for number in range(options.outputs):
        name = names[number % len(names)]
        known, texts, tools = formats[name]
        text = rng.choice(texts)
        for _ in range(rng.randint(0, 4)):
            text = change(rng, text, texts if rng.random() < 0.7 else every)[:200_000]
        begin = time.process_time()
        try:
            ends[parse(known, text, tools if rng.random() < 0.9 else ())] += 1
        except Exception as error:  # noqa: BLE001 - a crash is what is looked for
            failures += 1
            print(f"{name}: {type(error).__name__}: {error}: {text[:300]!r}")
        spent = time.process_time() - begin
        if spent > options.seconds:
            failures += 1
            print(f"{name}: {spent:.2f} s for {len(text):,} characters: {text[:300]!r}")
        slowest = max(slowest, (spent, name, f"{len(text):,} characters"))
    print(f"{options.outputs:,} outputs through {len(names)} parsers: {dict(ends)}, {failures} failures")
    print(f"slowest parse {slowest[0]:.3f} s ({slowest[1]}, {slowest[2]})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
