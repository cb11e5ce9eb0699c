"""The mixture as it is shown: shares add up, repeated rows are told, the chart fits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from actune.config.settings import Settings
from actune.data.mixture import Share, draw_bar, find_shares, mixture_chart


def test_shares_of_a_run(tmp_path: Path, tokenizer_folder: Path, data_kit: ModuleType):
    names = {}
    for name, count, words in (("a", 6, 1), ("g", 4, 9)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"query": f"{name} {n}?", "response": "weather " * words} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names[name] = str(path)
    settings = Settings.model_validate(
        {
            "model": {"model_id_or_path": "m"},
            "data": {
                "dataset": [names["a"]], "train_dataset_mix_ds": [names["g"]], "train_dataset_mix_ratio": 2.0,
                "validation_ratio": 0.0,
            },
        }
    )  # fmt: skip
    prepared = data_kit.prepare_all(settings, tokenizer_folder)
    agent, general = find_shares(prepared)
    assert (agent.role, general.role) == ("agent", "general")
    assert agent.rows == pytest.approx(1 / 3)
    assert agent.rows + general.rows == pytest.approx(1)
    assert agent.supervised + general.supervised == pytest.approx(1)
    assert general.supervised > 0.8
    assert (agent.times, general.times) == (1, 3)


@pytest.mark.parametrize("width", [80, 160])
def test_the_chart_fits_and_shows_every_number(width: int):
    share = Share(name="folder/rows.jsonl", role="general", rows=0.664, tokens=0.5, supervised=0.251, times=2.125)
    stream = io.StringIO()
    Console(file=stream, width=width).print(mixture_chart([share], step=16, width=width))
    shown = stream.getvalue()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    for text in ("rows.jsonl", "66.4%", "10.6", "50.0%", "25.1%", "2.12", "█"):
        assert text in shown


def test_bars_are_as_long_as_their_share():
    assert draw_bar(0.5, 16) == "█" * 8
    assert draw_bar(1.0, 16) == "█" * 16
    assert draw_bar(1 / 64, 16) == "▎"
    assert draw_bar(0.0, 16) == "▏"
