"""Which rows a run takes: weights of sources, ratios by tokens, repetition, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from actune.config.settings import Settings
from actune.core.errors import ConfigError


def settings(**data: object) -> Settings:
    given = {"validation_ratio": 0.0, **data}
    return Settings.model_validate({"model": {"model_id_or_path": "m"}, "data": given})


def rows_file(folder: Path, name: str, count: int, size: int = 1) -> str:
    """Write rows whose answers have `size` times as many words, more or less."""
    path = folder / name
    rows = [{"query": f"{name} {n}?", "response": "weather " * (size + n % 3)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def count_by_source(rows) -> Counter[str]:
    return Counter(Path(row.table.name).name for row in rows.train)


def test_weights_repeat_and_thin_out_agent_sources(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    a, b, c = (rows_file(tmp_path, f"{name}.jsonl", count) for name, count in (("a", 10), ("b", 20), ("c", 7)))
    chosen = settings(dataset=[a, b, c], dataset_weights=[f"{a}=2.5", f"{b}=0.5"])
    rows = data_kit.choose(chosen, tokenizer_folder)
    assert count_by_source(rows) == {"a.jsonl": 25, "b.jsonl": 10, "c.jsonl": 7}
    times = Counter(row.source for row in rows.train)
    assert {times[row.source] for row in rows.train if row.table.name == a} == {2, 3}
    assert all(times[row.source] == 1 for row in rows.train if row.table.name == b)
    assert len(rows.spare_agent) == 10
    assert any("each of 10 is used 2 to 3 times" in notice for notice in rows.notices)


def test_weights_are_shares_among_general_sources(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    agent, g, h = (rows_file(tmp_path, f"{name}.jsonl", count) for name, count in (("a", 12), ("g", 40), ("h", 40)))
    chosen = settings(
        dataset=[agent], train_dataset_mix_ds=[g, h], train_dataset_mix_ratio=2.0, dataset_weights=[f"{g}=3"]
    )
    rows = data_kit.choose(chosen, tokenizer_folder)
    assert count_by_source(rows) == {"a.jsonl": 12, "g.jsonl": 18, "h.jsonl": 6}


def test_a_weight_of_0_leaves_a_source_out(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    a, b = (rows_file(tmp_path, name, 6) for name in ("a.jsonl", "b.jsonl"))
    rows = data_kit.choose(settings(dataset=[a, b], dataset_weights=[f"{a}=0"]), tokenizer_folder)
    assert count_by_source(rows) == {"b.jsonl": 6}


def test_more_rows_than_there_are_repeat(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    name = rows_file(tmp_path, "a.jsonl", 10)
    rows = data_kit.choose(settings(dataset=[f"{name}#35"], validation_ratio=0.2), tokenizer_folder)
    assert len(rows.validation) == 2
    assert count_by_source(rows) == {"a.jsonl": 28}  # 3.5 times the 8 rows that are not held back
    assert not {row.source for row in rows.train} & {row.source for row in rows.validation}
    assert any("they are repeated" in notice for notice in rows.notices)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["nowhere.jsonl=2"], "which is no source of this run"),
        (["a.jsonl=-1"], "not NAME=WEIGHT"),
        (["a.jsonl"], "not NAME=WEIGHT"),
        (["a.jsonl=nan"], "not NAME=WEIGHT"),
        (["a.jsonl=1", "a.jsonl=2"], "twice"),
    ],
)
def test_wrong_weights_are_refused(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType, weights: list[str], message: str
):
    name = rows_file(tmp_path, "a.jsonl", 4)
    given = [weight.replace("a.jsonl", name) for weight in weights]
    with pytest.raises(ConfigError, match=message):
        data_kit.choose(settings(dataset=[name], dataset_weights=given), tokenizer_folder)


@pytest.mark.parametrize("by", ["tokens", "supervised_tokens"])
@pytest.mark.parametrize("ratio", [0.5, 2.0, 5.0])
def test_a_ratio_of_tokens_is_met_to_the_nearest_row(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType, by: str, ratio: float
):
    agent, general = rows_file(tmp_path, "a.jsonl", 30, 6), rows_file(tmp_path, "g.jsonl", 90, 2)
    chosen = settings(
        dataset=[agent], train_dataset_mix_ds=[general], train_dataset_mix_ratio=ratio, train_dataset_mix_by=by
    )
    prepared = data_kit.prepare_all(chosen, tokenizer_folder)
    sums: Counter[str] = Counter()
    largest = 0
    for tree in prepared.train:
        size = len(tree) if by == "tokens" else len(tree.target_ids)
        sums[Path(tree.source.dataset).name] += size
        largest = max(largest, size)
    assert abs(sums["g.jsonl"] - ratio * sums["a.jsonl"]) <= largest
    assert sum(len(tree) > 0 and "a.jsonl" in tree.source.dataset for tree in prepared.train) == 30


def test_a_sample_by_tokens_has_its_number_of_rows(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    agent, general = rows_file(tmp_path, "a.jsonl", 60, 9), rows_file(tmp_path, "g.jsonl", 90, 1)
    chosen = settings(
        dataset=[agent],
        train_dataset_mix_ds=[general],
        train_dataset_mix_ratio=1.0,
        train_dataset_mix_by="supervised_tokens",
        train_dataset_sample=80,
    )
    prepared = data_kit.prepare_all(chosen, tokenizer_folder)
    assert len(prepared.train) == 80
    sums: Counter[str] = Counter()
    for tree in prepared.train:
        sums[Path(tree.source.dataset).name] += len(tree.target_ids)
    assert abs(sums["a.jsonl"] - sums["g.jsonl"]) <= 15


def test_rows_that_are_left_out_count_no_tokens(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    agent, general = rows_file(tmp_path, "a.jsonl", 10, 4), rows_file(tmp_path, "g.jsonl", 20, 300)
    chosen = settings(
        dataset=[agent], train_dataset_mix_ds=[general], train_dataset_mix_ratio=1.0, train_dataset_mix_by="tokens",
        max_length=100,
    )  # fmt: skip
    with pytest.raises(Exception, match="can be trained on"):
        data_kit.prepare_all(chosen, tokenizer_folder)


@pytest.mark.parametrize("strategy", ["none", "warning", "discard", "error"])
def test_validation_rows_that_training_asks(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType, strategy: str
):
    path = tmp_path / "a.jsonl"
    rows = [{"query": f"What is {n % 20} plus one?", "response": "a"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = settings(dataset=[str(path)], validation_ratio=0.1, overlap_strategy=strategy)
    if strategy == "error":
        with pytest.raises(Exception, match="asks what the training row"):
            data_kit.prepare_all(chosen, tokenizer_folder)
        return
    prepared = data_kit.prepare_all(chosen, tokenizer_folder)
    held = len(prepared.validation)
    left_out = [item for item in prepared.quarantined if item.code == "eval-overlap"]
    said = [notice for notice in prepared.notices if "ask what training rows ask" in notice]
    assert held + len(left_out) == 4
    assert bool(left_out) == (strategy == "discard")
    assert bool(said) == (strategy == "warning")
    assert len(prepared.train) == 36
