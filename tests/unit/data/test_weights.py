"""Loss weights in the rows of a run: kept with them, and said where they weigh nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from actune.cli.main import main
from actune.config.settings import Settings
from actune.core.parts import read_weights
from actune.data.store.cache import Cache

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "find", "arguments": "{}"}}
ASKED, SAID = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}
CALLED = [
    ASKED,
    {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "left", "tool_call_id": "call00001"},
]


def settings_of(folder: Path, rows: list[list[dict]], *weights: str) -> Settings:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": row, "tools": [TOOL]}) + "\n" for row in rows))
    return Settings.model_validate({
        "model": {"model_id_or_path": "m"},
        "data": {"dataset": [str(path)], "validation_ratio": 0.0},
        "render": {"dialect": "react", "loss_weights": weights},
    })  # fmt: skip


def notices(folder: Path, tokenizer: Path, kit: ModuleType, rows: list[list[dict]], *weights: str) -> list[str]:
    settings = settings_of(folder, rows, *weights)
    prepared = kit.prepare_all(settings, tokenizer, dialect="react")
    return [notice for notice in prepared.notices if notice.startswith("loss_weights")]


def test_weights_are_kept_with_the_rows_they_were_laid_on(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    cache = Cache(tmp_path / "cache")
    settings = settings_of(tmp_path, [[*CALLED, SAID]])
    seen = []
    for pairs in ([], ["action=2", "stop=0"], [], ["action=2", "stop=0"]):
        weights = asdict(read_weights(pairs))
        prepared = data_kit.prepare_all(settings, tokenizer_folder, cache, dialect="react", weights=weights)
        (tree,) = prepared.train
        seen.append((set(tree.target_weights.tolist()), len(tree.target_ids), prepared.fingerprint))
    assert seen[0] == seen[2]
    assert seen[1] == seen[3]
    assert seen[0][0] == {1.0}
    assert seen[1][0] == {1.0, 2.0}
    assert seen[1][1] < seen[0][1]
    assert seen[0][2] != seen[1][2]


def test_a_weight_without_its_part_is_said(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    plain, both = [[ASKED, SAID]] * 3, [[*CALLED, SAID], [ASKED, SAID]]
    said = notices(tmp_path, tokenizer_folder, data_kit, plain, "action=2", "action_input=2", "thought=0", "stop=2")
    assert said == [
        "loss_weights action has no effect: no row calls a tool",
        "loss_weights action_input has no effect: no row calls a tool",
        "loss_weights thought has no effect: no row has one",
    ]
    everything = ("thought=0.5", "action=2", "action_input=3", "final_answer=4")
    assert notices(tmp_path, tokenizer_folder, data_kit, both, *everything) == []
    assert notices(tmp_path, tokenizer_folder, data_kit, [CALLED], *everything) == [
        "loss_weights final_answer has no effect: no row has one"
    ]
    assert notices(tmp_path, tokenizer_folder, data_kit, plain, "assistant=2") == []


def test_what_was_only_looked_for_in_some_rows_is_said_so(
    tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actune.data.unused_weights._READ", 2)
    rows = [[{"role": "user", "content": f"{number}?"}, SAID] for number in range(5)]
    (said,) = notices(tmp_path, tokenizer_folder, data_kit, rows, "thought=2")
    assert said == "loss_weights thought has no effect: none of 2 rows looked at has one"


def test_inspect_shows_the_weight_of_every_part(tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture):
    settings_of(tmp_path, [[*CALLED, {**SAID, "weight": 0.5}]])
    line = ["inspect", "--model", str(tokenizer_folder), "--data", str(tmp_path / "rows.jsonl"), "--dialect", "react"]
    line += ["--loss_weights", "thought=0", "action=3", "--row", "1"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "Thought: I look.\n⟦3| Action: find\n⟧⟦1| Action Input: {}\nObservation:⟧" in shown
    assert "⟦Final Answer: There.<|im_end|>⟧" in shown
    assert "weight 0, 1, 3" in shown
    assert "weight 0.5" in shown
    assert main([*line, "--html", str(tmp_path / "page.html")]) == 0
    assert '"weights":[0.5,1,3]' in (tmp_path / "page.html").read_text(encoding="utf-8")
