"""`actune demo`: the whole story on a laptop, from generated rows to the report, with the tiny base model of the package."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from actune.config.load import load_settings
from actune.config.run_folder import FILE, open_folder
from actune.core.errors import ConfigError
from actune.core.files import atomic_text
from actune.demo import rows
from actune.demo.identity import write_identity_items, write_identity_rows
from actune.recipes.comparison import FOLDER as REPORT
from actune.recipes.sft import sft
from actune.recipes.writing import stderr

DATA, MODEL, RECIPE = "data", "base", "recipe.yaml"
NAMES, AUTHORS = ("小启", "Wren"), ("青禾", "Greenfield")

# Chosen by trials of the whole demo, on the items that it measures; docs/demo.md says what was tried.
AGENT_ROWS = 1200
GENERAL_ROWS = 2 * AGENT_ROWS
IDENTITY_ROWS = 1600
_SEEN, _UNSEEN, _NO_TOOL, _PLAIN = 200, 200, 40, 150
_HEAD = "# The demo's settings."
_TASKS = """\
# What the demo measures before and after: actune eval --model {out} --tasks {out}/data/tasks.yaml --out items.jsonl
version: 1
tasks:
  - name: tools  # held-in: tools of the training; held-out: tools that no training has seen; names and values are new in both
    kind: agent
    data: [seen_tools.jsonl, unseen_tools.jsonl, no_tool.jsonl]
    seen_tools: agent.jsonl
  - name: facts in the mix  # facts that the general rows hold, asked in other words
    kind: choice
    data: facts_mixed.jsonl
  - name: facts not in the mix  # facts that no row of the fine-tuning holds
    kind: choice
    data: facts_left.jsonl
  - name: identity  # asked as no row of the training asks, in words of the same few that the base model knows
    kind: identity
    data: identity_asked.jsonl
  - name: over-trigger
    kind: over_trigger
    data: plain.jsonl
"""
_RENAMED = """\
# The tools that no training has seen, under names of random letters.
version: 1
tasks:
  - name: renamed tools
    kind: agent
    data: renamed_tools.jsonl
    seen_tools: agent.jsonl
"""


def demo(*, out: Path, overwrite: bool = False) -> int:
    """Write rows, fine-tune the tiny base model, compare before and after, and say what to do next.

    Everything lies in `out`: `base/`, `data/`, `recipe.yaml`, and the run itself with its `report/`.

    Raises:
        ConfigError: the folder is not empty and no run that may be replaced.
    """
    started = time.monotonic()
    console = stderr()
    _open(out, overwrite=overwrite)
    console.print(f"Writing rows, tasks and the base model into {out} ...", markup=False)
    write_inputs(out)
    settings = load_settings(out / RECIPE, [])
    code = sft(settings, opened=True, started=started)
    if code == 0:
        console.print(_closing(out), markup=False, highlight=False, soft_wrap=True)
    return code


def write_inputs(out: Path) -> None:
    """Write the base model, the data, the tasks and the recipe of the demo into a folder."""
    own = f"Your own: actune sft {out}/{RECIPE} --dataset my_rows.jsonl --output_dir runs/mine"
    settings = yaml.safe_dump(_settings(out), allow_unicode=True, sort_keys=False)
    atomic_text(out / RECIPE, f"{_HEAD} {own}\n{settings}")
    shutil.copytree(str(resources.files("actune.demo").joinpath("model")), out / MODEL)
    data = out / DATA
    data.mkdir()
    files: Mapping[str, Iterable[rows.Row]] = {
        "agent": rows.write_agent_rows(AGENT_ROWS),
        "general": rows.write_general_rows(GENERAL_ROWS),
        "seen_tools": rows.write_tool_items("train", _SEEN),
        "unseen_tools": rows.write_tool_items("held-out", _UNSEEN),
        "renamed_tools": rows.write_tool_items("held-out", _UNSEEN, "random"),
        "no_tool": rows.write_no_tool_items(_NO_TOOL),
        "facts_mixed": rows.write_questions(replayed=True),
        "facts_left": rows.write_questions(replayed=False),
        "plain": rows.write_plain_items(_PLAIN),
        "identity": write_identity_rows(),
        "identity_asked": write_identity_items(_by_language(NAMES), _by_language(AUTHORS)),
    }
    for name, lines in files.items():
        atomic_text(data / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    atomic_text(data / "tasks.yaml", _TASKS.format(out=out))
    atomic_text(data / "renamed_tasks.yaml", _RENAMED)


def _settings(out: Path) -> dict[str, dict[str, Any]]:
    """Return what differs from the defaults, by group."""
    data = out / DATA
    return {
        "model": {"model_id_or_path": str(out / MODEL)},
        "data": {
            "dataset": [str(data / "agent.jsonl")],
            "train_dataset_mix_ds": [str(data / "general.jsonl")],
            "train_dataset_mix_ratio": 2.0,
            "self_cognition_sample": IDENTITY_ROWS,
            "self_cognition_file": str(data / "identity.jsonl"),
            "model_name": list(NAMES),
            "model_author": list(AUTHORS),
            "validation_ratio": 0.0,  # the measured rows are files of their own
        },
        "tuning": {"lora_rank": 32, "lora_alpha": 32.0, "lora_dropout_p": 0.0, "lora_target_modules": ["ALL"]},
        "training": {
            "num_train_epochs": 1.0,
            "batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1.4e-3,
            "max_grad_norm": 1.0,
            "warmup_ratio": 0.05,
        },
        "output": {
            "output_dir": str(out),
            "eval_steps": 0,
            "save_steps": 0,
            "logging_steps": 10,
            "compare_tasks": [str(data / "tasks.yaml")],
            "compare_margin": 0.05,
            "compare_tokens": 96,
        },
    }


def _by_language(values: tuple[str, str]) -> dict[str, str]:
    return {"zh": values[0], "en": values[1]}


def _open(out: Path, *, overwrite: bool) -> None:
    """Make the folder, or empty it of an earlier demo: a run, or what a demo that was cut off had written."""
    entries = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    # The recipe is written first and known by its first line: a folder with just a `data` in it may be anybody's.
    begun = RECIPE in entries and (out / RECIPE).read_text(encoding="utf-8", errors="replace").startswith(_HEAD)
    if overwrite and begun and entries <= {DATA, MODEL, RECIPE}:
        for name in entries:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    elif entries and not overwrite:
        raise ConfigError(f"{out} is not empty", fix="give another --out, or replace an earlier demo with --overwrite")
    elif entries and not (out / FILE).is_file():
        raise ConfigError(f"{out} holds no demo, so it is not removed", fix="give another --out, or empty it yourself")
    open_folder(out, resume=False, overwrite=overwrite)


def _closing(out: Path) -> str:
    return f"""
Next:
  the report in a browser          {out / REPORT / "index.html"}
  talk with the agent              actune chat --model {out} --tools examples/demo_tools.py
  talk with it in a browser        actune serve --model {out}
  a row as it is trained           actune inspect --model {out} --data {out / DATA / "agent.jsonl"} --row 1
  your own rows on this model      actune sft {out / RECIPE} --dataset {out / DATA / "agent.jsonl"} my_rows.jsonl --output_dir runs/mine
  your own rows on a real model    actune sft --model_id_or_path Qwen/Qwen2.5-7B-Instruct --dataset my_rows.jsonl --output_dir runs/mine
"""
