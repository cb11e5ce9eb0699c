from __future__ import annotations

from pathlib import Path

import pytest

from actune.config.run_folder import check_folder, discard_failed_start, open_folder
from actune.core.errors import ConfigError


def make_run(folder: Path) -> Path:
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_check_changes_nothing(tmp_path: Path):
    run = make_run(tmp_path / "run")
    check_folder(run, resume=False, overwrite=True)
    check_folder(tmp_path / "new" / "deep", resume=False, overwrite=False)
    assert (run / "checkpoint-1").is_dir()
    assert not (tmp_path / "new").exists()


def test_overwrite_empties_a_run(tmp_path: Path):
    run = make_run(tmp_path / "run")
    open_folder(run, resume=False, overwrite=True)
    assert list(run.iterdir()) == []


def test_a_place_under_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "file" / "run", resume=False, overwrite=False)


def fail(folder: Path, *, resume: bool) -> set[str]:
    with pytest.raises(KeyboardInterrupt), discard_failed_start(folder, resume=resume):
        raise KeyboardInterrupt
    return {entry.name for entry in folder.iterdir()}


def test_only_a_start_that_left_nothing_is_discarded(tmp_path: Path):
    for name in ("run.json", "quarantine.jsonl"):
        (tmp_path / name).write_text("{}")
    assert fail(tmp_path, resume=True) == {"run.json", "quarantine.jsonl"}
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert fail(tmp_path, resume=False) == {"run.json", "quarantine.jsonl", "metrics.jsonl"}
    (tmp_path / "metrics.jsonl").unlink()
    assert fail(tmp_path, resume=False) == set()


def test_a_run_killed_before_its_run_json_can_be_given_again(tmp_path: Path):
    (tmp_path / "quarantine.jsonl").write_text("")
    (tmp_path / ".run.json.partial").write_text("{")
    for resume, overwrite in ((True, False), (False, True)):
        check_folder(tmp_path, resume=resume, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is not empty"):
        check_folder(tmp_path, resume=False, overwrite=False)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"holds no run\.json"):
        check_folder(tmp_path, resume=True, overwrite=False)
