"""What every template refuses of real rows, by file and code.

python benchmarks/real_rows.py --tokenizer DIR --templates DIR --data FILE ... [--dialect chat]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from conformance import find_renderers

from actune.core.errors import DataError, RenderError
from actune.data.reading.sources import load_conversations
from actune.render.chat import ChatRenderer
from actune.render.encoder import DialectName, Encoder


def check_data(renderer: ChatRenderer, files: list[str], dialect: DialectName) -> str:
    """Return what is refused of real rows: by file the share that is written, and the codes."""
    encoder = Encoder(renderer, dialect=dialect)
    parts = []
    for file in files:
        rows_of = load_conversations(file, format_name=None, seed=0).conversations
        codes: Counter[str] = Counter()
        for row in rows_of:
            try:
                encoder.encode(row)
            except (DataError, RenderError) as error:
                codes[str(error.code)] += 1
        shown = "".join(f", {code} {count}" for code, count in codes.most_common())
        parts.append(f"{Path(file).name} {len(rows_of) - codes.total()}/{len(rows_of)}{shown}")
    return "; ".join(parts)


def main() -> None:
    """Print a line for each template."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True, help="a folder of *.jinja files")
    parser.add_argument("--only", default="", help="templates whose name contains this")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--dialect", default="auto", choices=["auto", "react", "react_zh", "chat"])
    options = parser.parse_args()
    for name, renderer in find_renderers(options.tokenizer, options.templates, options.only):
        print(f"{name}: {check_data(renderer, options.data, options.dialect)}", flush=True)


if __name__ == "__main__":
    main()
