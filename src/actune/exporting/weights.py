"""The weights of a model folder, looked up by name and read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.core.errors import ModelError

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"


class Weights:
    """Names, shapes and dtypes of all safetensors of a folder; `read` brings one of them to memory."""

    def __init__(self, handles: dict[str, Any], folder: Path) -> None:
        """Take open safetensors files by name of the weight; see `open_weights`."""
        self._handles = handles
        self._folder = folder

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._handles)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return tuple(self._handles[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the dtype as safetensors names it: F32, F16, BF16 ..."""
        return str(self._handles[name].get_slice(name).get_dtype())

    def read(self, name: str) -> torch.Tensor:
        """Return a weight as it is stored."""
        return self._handles[name].get_tensor(name)


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Open the safetensors files of a model folder.

    Raises:
        ModelError: there is none, one is damaged, or one that the index names is missing.
    """
    from safetensors import SafetensorError, safe_open

    handles: dict[str, Any] = {}
    try:
        for path in _list_files(folder):
            handle: Any = safe_open(path, framework="pt", device="cpu")
            for name in handle.keys():  # noqa: SIM118 - not a dict
                if name in handles:
                    raise ModelError(f"two safetensors files of {folder} hold {name}", fix="save the model again")
                handles[name] = handle
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights in {folder} cannot be read: {error}", fix="complete the download") from error
    if not handles:
        raise ModelError(f"{folder} holds no safetensors weights", fix="complete the download of the model")
    yield Weights(handles, folder)


def _list_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {error!r}") from error
    return [folder / Path(str(name)).name for name in named]
