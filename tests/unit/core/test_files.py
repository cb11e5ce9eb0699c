from __future__ import annotations

from pathlib import Path

import pytest

from actune.core.errors import CheckpointError
from actune.core.files import atomic_folder


def test_a_full_disk_is_recognised_in_the_words_of_another_library(tmp_path: Path):
    final = tmp_path / "adapter"
    with pytest.raises(CheckpointError, match="the disk is full"), atomic_folder(final):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


def test_any_other_error_is_passed_on(tmp_path: Path):
    with pytest.raises(RuntimeError, match="a bug"), atomic_folder(tmp_path / "adapter"):
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []
