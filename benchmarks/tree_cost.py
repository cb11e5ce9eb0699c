"""Tokens laid out beside one rendering: what exact training of every turn costs under each template.

    python benchmarks/tree_cost.py --tokenizer DIR --templates DIR

For every template and every row of `conversations.py` that it can write: tokens of the tree, tokens of the whole
conversation rendered once with `apply_chat_template`, and the branches beside the trunk. Where a template keeps history
the tree is one line and costs what one rendering costs; where it rewrites history, one branch a turn is the price.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import numpy as np
from conformance import Judge, find_renderers, find_templates
from conversations import rows
from transformers import AutoTokenizer

from actune.core.types import Source
from actune.formats import registry
from actune.render.encoder import Encoder
from actune.render.tokenizer import strip_marks


def main() -> int:
    """Print the dearest rows with and without branches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    texts = {name: templates.plain for name, templates in find_templates(options.templates, "")}
    lines: list[tuple[float, str]] = []
    branching: list[tuple[float, int, int, str]] = []
    for name, renderer in find_renderers(options.tokenizer, options.templates, ""):
        encoder, profile = Encoder(renderer, dialect="chat"), renderer.profile
        plain = (
            not profile.opens
            and not profile.stop_added
            and all(renderer.tokenizer.token_id(stop) is not None for stop in profile.stops)
        )
        for title, row in rows().items():
            conversation = registry.get("openai").read(row, Source(file="conversations", line=1))
            with contextlib.suppress(Exception):  # what cannot be rendered costs nothing
                tree = encoder.encode(conversation)
                judge = Judge(tokenizer, texts[name])
                text = judge.render(row, len(row["messages"]), prompt=False, form="dict")
                once = len(judge.prompt_ids(row, len(row["messages"]), form="dict", prompt=False))
                branches = int(np.count_nonzero(np.diff(tree.positions) != 1))
                turns = sum(message["role"] == "assistant" for message in row["messages"])
                if branches:
                    branching.append((len(tree) / once, branches, turns, f"{name}: {title}"))
                elif plain and text.startswith(strip_marks(encoder.encode_turns(conversation)[-1].turn.prompt)):
                    # Turn markers are tokens, and the prompt has nothing that the whole text lacks.
                    lines.append((len(tree) / once, f"{name}: {title}"))
    lines.sort(reverse=True)
    branching.sort(reverse=True)
    for ratio, place in (line for line in lines if line[0] > 1):
        print(f"  {ratio:.4f} {place}")
    print(f"{len(lines):,} rows in one line: at most {lines[0][0]:.4f} of one rendering ({lines[0][1]})")
    print(f"{len(branching):,} rows with branches: at most {branching[0][0]:.2f} of one rendering ({branching[0][3]})")
    over = [item for item in branching if item[1] >= item[2]]
    print(f"{len(over)} of them have as many branches as turns or more")
    return 0 if lines[0][0] <= 1.01 and not over else 1


if __name__ == "__main__":
    sys.exit(main())
