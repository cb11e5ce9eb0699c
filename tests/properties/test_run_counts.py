"""Every line of every source of a run is somewhere: trained, held back, not drawn, or listed with a reason."""

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from actune.config.settings import Settings
from actune.core.errors import ConfigError, DataError
from actune.data.choose import choose_rows
from actune.data.prepare import prepare
from actune.data.store.cache import Cache
from actune.data.store.store import EncodingRecipe, RowStore

KINDS = ("short", "long", "turns", "silent", "reasoning", "no-answer", "broken", "text", "binary", "blank")


def line_of(kind: str, number: int) -> bytes:
    """Return a line of a chat file; the last five kinds cannot be read."""
    question, answer = {"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "yes"}
    rows = {
        "short": [question, answer],
        "long": [question, answer | {"content": "weather " * 60}],
        "turns": [question, answer] * 9,
        "silent": [question, answer | {"loss": False}],
        "reasoning": [question, answer | {"reasoning_content": "hm"}],
        "no-answer": [question],
    }
    if kind in rows:
        return json.dumps({"messages": rows[kind]}).encode()
    return {"broken": b'{"messages": [', "text": b"hello", "binary": b"\xff\x00\xfe", "blank": b"  "}[kind]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lines_in_are_lines_out(data, tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    kinds = {
        role: ["short", *data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=25))]
        for role in ("agent", "general")
    }
    for role, chosen in kinds.items():
        random.Random(len(chosen)).shuffle(chosen)
        (folder / f"{role}.jsonl").write_bytes(b"\n".join(line_of(kind, n) for n, kind in enumerate(chosen)) + b"\n")
    truncation = data.draw(st.sampled_from(["delete", "turns", "windows"]))
    settings_ = Settings.model_validate(
        {
            "model": {"model_id_or_path": "m"},
            "data": {
                "dataset": [str(folder / "agent.jsonl")],
                "train_dataset_mix_ds": [str(folder / "general.jsonl")],
                "train_dataset_mix_ratio": data.draw(st.sampled_from([0.0, 0.5, 1.0])),
                "train_dataset_sample": data.draw(st.sampled_from([-1, 3, 10])),
                "validation_ratio": data.draw(st.sampled_from([0.0, 0.2])),
                "check_dataset_strategy": data.draw(st.sampled_from(["none", "discard"])),
                "truncation_strategy": truncation,
                "max_length": 120,
            },
        }
    )
    cache = Cache(folder / "cache")
    writing = EncodingRecipe(folder=str(tokenizer_folder), options={}, max_length=120, truncation=truncation)
    store = RowStore(writing, cache, processes=1)
    try:
        rows = choose_rows(settings_, cache, store, processes=1)
        prepared = prepare(settings_, rows, store)
    except (ConfigError, DataError) as error:
        # A source without a single row that can be trained is an error of its own, not a count.
        if "can be trained on" in str(error) or "holds no readable row" in str(error):
            return
        raise
    listed = {(item.source.file, item.source.line) for item in prepared.quarantined}
    for role, spare in (("agent", rows.spare_agent), ("general", rows.spare_general)):
        if role == "general" and not settings_.data.train_dataset_mix_ratio:
            continue
        path = str(folder / f"{role}.jsonl")
        lines = {n for n, kind in enumerate(kinds[role], 1) if kind != "blank"}
        places = [
            {tree.source.line for tree in trees if tree.source.file == path}
            for trees in (prepared.train, prepared.validation)
        ]
        places.append({row.source.line for row in spare})
        # A part of a row may be left out while the rest of it is trained.
        parts = {
            item.source.line
            for item in prepared.quarantined
            if item.code == "turn-over-long" and item.source.file == path
        }
        places.append({line for file, line in listed if file == path} - parts)
        assert set().union(*places) == lines
        assert sum(map(len, places)) == len(lines)  # none is in two places
    for count in prepared.counts:
        tally = count.tally
        trees = prepared.validation if count.role == "validation" else prepared.train
        own = [tree for tree in trees if tree.source.dataset == count.name]
        assert tally.windows == len(own)
        assert tally.tokens == sum(map(len, own))
