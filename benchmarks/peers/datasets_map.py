"""`datasets.map` with `apply_chat_template`, one row at a time, as most trainers prepare their rows; prints its seconds."""

from __future__ import annotations

import json
import sys
import tempfile
import time

import datasets
from transformers import AutoTokenizer


def main() -> None:
    """Read rows `{"messages"}` from a file, encode each, and tell how long the call of `map` took."""
    rows, folder = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=rows, split="train", cache_dir=cache)

        def encode(row: dict) -> dict:
            return {
                "input_ids": tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)[
                    "input_ids"
                ]
            }

        start = time.perf_counter()
        done = data.map(encode, remove_columns=data.column_names)
        seconds = time.perf_counter() - start
        tokens = sum(len(ids) for ids in done["input_ids"])
    print(json.dumps({"rows": len(done), "tokens": tokens, "seconds": seconds, "version": datasets.__version__}))


if __name__ == "__main__":
    main()
