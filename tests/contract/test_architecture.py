"""ARCHITECTURE.md is true: every file it names exists, every package and module of the code is accounted for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_named_file_exists():
    named = set(re.findall(r"`((?:src|tests|scripts|docs|recipes)/[\w./-]+)`", TEXT))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_table_answers_each_question_with_one_file():
    rows = re.findall(r"^\| (.+\?) \| (.+) \|$", TEXT, re.MULTILINE)
    assert len(rows) >= 25
    assert len({question for question, _ in rows}) == len(rows)
    assert all(re.fullmatch(r"`[\w./-]+`", answer) for _, answer in rows)


def test_every_package_is_in_the_layer_list():
    packages = {path.parent.name for path in (ROOT / "src" / "actune").glob("*/__init__.py")}
    listed = set(re.findall(r"^  (\w+)/ ", TEXT, re.MULTILINE))
    assert packages == listed


def test_imports_point_down():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_lower_layers_load_neither_torch_nor_transformers():
    modules = ["core.react", "config.load", "formats.registry", "render.encoder", "data.prepare", "recipes"]
    code = (
        f"import sys, importlib\nfor name in {modules}: importlib.import_module('actune.' + name)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
