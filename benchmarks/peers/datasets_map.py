"""`datasets.map` with `apply_chat_template`, one row at a time, as most trainers prepare their rows; prints its seconds."""

from __future__ import annotations

import json
import sys
import tempfile
import time

import datasets
from transformers import AutoTokenizer


def main() -> None:
    """Read rows `{"messages"}` from a file, encode each, and tell how long the call of `map` took.

    `ids`: the whole conversation, once. `turns`: for each assistant message what stands before it and what ends with it,
    which tells the tokens that are to be trained.
    """
    rows, folder, mode = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(messages: list, **options: bool) -> list[int]:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]

    def encode(row: dict) -> dict:
        messages = row["messages"]
        if mode == "ids":
            return {"input_ids": ids(messages)}
        turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return {
            "prompts": [ids(messages[:place], add_generation_prompt=True) for place in turns],
            "input_ids": [ids(messages[: place + 1]) for place in turns],
        }

    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=rows, split="train", cache_dir=cache)
        start = time.perf_counter()
        done = data.map(encode, remove_columns=data.column_names)
        seconds = time.perf_counter() - start
    print(json.dumps({"rows": len(done), "seconds": seconds, "version": datasets.__version__}))


if __name__ == "__main__":
    main()
