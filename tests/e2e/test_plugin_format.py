"""The format of another package: the example of docs/formats.md, installed and used through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
ROWS = [{"ask": "q", "note": "a"}, {"ask": "q", "note": ""}, {"ask": 5, "note": "a"}]


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder as pip leaves it: the module of the page, and what its project file says as entry points."""
    section = PAGE.read_text(encoding="utf-8").split("## More formats")[1]
    [project] = re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    [module] = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    entries = re.search(r'^\[project\.entry-points\."(.*)"\]\n((?:\w.*\n)+)', project, re.MULTILINE)
    assert entries is not None
    folder = tmp_path / "site"
    info = folder / "actune_notes-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "actune_notes.py").write_text(module, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: actune-notes\nVersion: 1.0\n")
    lines = [line.replace('"', "") for line in entries.group(2).splitlines()]
    (info / "entry_points.txt").write_text("\n".join([f"[{entries.group(1)}]", *lines]) + "\n")
    return folder


def run(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "actune", *map(str, words)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_rows_of_another_packages_format_are_checked_and_converted(site, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    checked = run(site, "check", data, "--json")
    report = json.loads(checked.stdout)
    assert (checked.returncode, report["rows"], report["ok"]) == (1, 3, 1), checked.stderr
    codes = [problem["code"] for problem in report["problems"] if problem["level"] == "error"]
    assert codes == ["notes-empty", "format-failed"]  # the last one is a question that is no text

    openai, notes = tmp_path / "openai.jsonl", tmp_path / "notes.jsonl"
    assert run(site, "convert", data, openai, "--to", "openai").returncode == 1  # a row is left out
    back = run(site, "convert", openai, notes, "--to", "notes")
    assert back.returncode == 0, back.stderr
    assert [json.loads(line) for line in notes.read_text().splitlines()] == ROWS[:1]
    left = (tmp_path / "openai.jsonl.quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["code"] for line in left] == codes


def test_a_package_that_fails_is_named_and_costs_only_its_rows(site, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(ROWS[0]) + "\n")
    source = site / "actune_notes.py"
    text = source.read_text()
    source.write_text(text.replace("    if not row", "    row = row['nothing']\n    if not row"))
    checked = run(site, "check", data, "--json")
    [problem] = json.loads(checked.stdout)["problems"]
    assert (checked.returncode, problem["code"]) == (1, "format-failed")
    assert "'notes'" in problem["message"]
    assert "KeyError" in problem["message"]

    source.write_text(text.replace('    return "ask"', '    1 / 0\n    return "ask"'))
    failed = run(site, "check", data)
    assert failed.returncode == 2
    assert "the format 'notes' of another package failed to look at a row: ZeroDivisionError" in failed.stderr
    assert "Traceback" not in failed.stderr

    entries = site / "actune_notes-1.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text().replace("notes = ", "openai = "))
    taken = run(site, "check", data)
    assert taken.returncode == 2
    assert "has the name of one of actune itself" in taken.stderr
