"""Folders of arrays, one `.npy` file each, mapped into memory when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays into a folder that is there."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def load_arrays(folder: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of a folder, mapped: what is not looked at is not read."""
    return {name: _load(folder / f"{name}.npy") for name in names}


def _load(path: Path) -> NDArray[Any]:
    try:
        # A plain view of the map: a memmap's own indexing costs several times as much.
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except ValueError:  # an array without elements cannot be mapped
        return np.load(path, allow_pickle=False)
