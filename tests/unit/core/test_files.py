from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actune.core.errors import CheckpointError, ConfigError
from actune.core.files import atomic_file, atomic_folder, atomic_text, remove_partials


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_only_when_the_block_ends_well(tmp_path: Path):
    target = tmp_path / "out.txt"
    atomic_text(target, "old")

    def write_half() -> None:
        with atomic_file(target) as file:
            file.write("half")
            assert target.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]
    with atomic_file(target) as file:
        file.write("new \ud800")  # a lone surrogate is written escaped, not an error
    assert target.read_text(encoding="utf-8") == "new \\ud800"


def test_folder_is_replaced_whole(tmp_path: Path):
    target = tmp_path / "adapter"
    for text in ("one", "two"):
        with atomic_folder(target) as partial:
            (partial / "file").write_text(text)
            os.chmod(partial / "file", 0o600)  # noqa: PTH101 - as some writers leave it
    assert (target / "file").read_text() == "two"
    assert names(tmp_path) == ["adapter"]
    mask = os.umask(0)
    os.umask(mask)
    assert (target / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_full_disk_is_named_and_the_old_file_stays(tmp_path: Path):
    target = tmp_path / "out.txt"
    atomic_text(target, "old")

    def fail() -> None:
        with atomic_file(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match="the disk is full") as caught:
        fail()
    assert caught.value.fix is not None
    assert target.read_text() == "old"


def test_missing_folder_is_a_wrong_request(tmp_path: Path):
    with pytest.raises(ConfigError, match="no folder"):
        atomic_text(tmp_path / "absent" / "out.txt", "x")


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path: Path):
    (tmp_path / ".adapter.old.partial").mkdir()
    (tmp_path / ".adapter.old.partial/file").write_text("one")
    (tmp_path / ".adapter.partial").mkdir()
    (tmp_path / ".run.json.partial").write_text("{")
    remove_partials(tmp_path)
    assert names(tmp_path) == ["adapter"]
    assert (tmp_path / "adapter/file").read_text() == "one"
