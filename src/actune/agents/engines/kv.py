"""Keys and values of prompts: kept by their ids, laid side by side for a batch. Needs torch; only `local.py` uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# A pair of keys and values [1, heads, tokens, dim] for every layer.
Layers = tuple[tuple[Tensor, Tensor], ...]
# Tokens that a layer makes room for at least.
_ROOM = 64


class RoomyLayer(DynamicLayer):
    """A growing layer with room for tokens to come, so that a step copies one token and not all before it."""

    _buffers: tuple[Tensor, Tensor] | None = None

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Start with keys and values, which stay as they are: what comes is written into a copy."""
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new tokens, dim] and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < stop:
            room = stop + max(_ROOM, stop // 8)
            self._buffers = (
                _make_room(self.keys, key_states, start, room),
                _make_room(self.values, value_states, start, room),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = new
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self._buffers)
        return self.keys, self.values


def _make_room(old: Tensor | None, like: Tensor, count: int, room: int) -> Tensor:
    """Return a tensor for `room` tokens that begins with the `count` old ones."""
    buffer = like.new_empty((*like.shape[:2], room, like.shape[3]))
    if count and old is not None:
        buffer[:, :, :count] = old
    return buffer


def build_cache(layers: Layers) -> DynamicCache:
    """Return a cache of transformers that holds these keys and values and keeps all tokens of every layer.

    It is made without the model's config, so a layer with a sliding window is one like any other: the mask alone limits
    what it sees. That is what makes its content a prefix of any longer one.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    for keys, values in layers:
        layer = RoomyLayer()
        layer.fill(keys, values)
        cache.layers.append(layer)
    return cache


def read_cache(cache: DynamicCache) -> Layers:
    """Return the keys and values in a cache that `build_cache` made."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)  # type: ignore[misc]  # filled by now


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entry:
    ids: np.ndarray
    layers: Layers


class PrefixStore:
    """Keys and values of whole texts, the least recently used ones dropped first; bounded by their tokens."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` tokens; 0 keeps nothing."""
        self.limit = limit
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        """Return the number of tokens kept."""
        return sum(len(entry.ids) for entry in self._entries)

    def find(self, ids: Sequence[int]) -> tuple[int, Layers]:
        """Return how many tokens of `ids` the longest common prefix with a kept text has, and their keys and values.

        The last token of `ids` is never among them: its logits are what the caller is after.
        """
        wanted, best, found = np.asarray(ids[:-1], np.int64), 0, None
        for entry in self._entries:
            shared = _count_shared(entry.ids, wanted)
            if shared > best:
                best, found = shared, entry
        if found is None:
            return 0, ()
        self._entries.remove(found)
        self._entries.append(found)
        return best, tuple((keys[:, :, :best], values[:, :, :best]) for keys, values in found.layers)

    def add(self, ids: Sequence[int], layers: Layers) -> None:
        """Keep the keys and values of a text. It takes the place of texts that it continues."""
        array = np.asarray(ids, np.int64)
        if len(array) > self.limit:
            return
        for entry in list(self._entries):
            shared = _count_shared(entry.ids, array)
            if shared == len(array):
                return
            if shared == len(entry.ids):
                self._entries.remove(entry)
        self._entries.append(_Entry(ids=array, layers=layers))
        while len(self) > self.limit:
            self._entries.pop(0)


def _count_shared(one: np.ndarray, other: np.ndarray) -> int:
    size = min(len(one), len(other))
    different = np.flatnonzero(one[:size] != other[:size])
    return int(different[0]) if len(different) else size


class Batch:
    """Keys and values of several rows of different lengths, padded on the left."""

    def __init__(self) -> None:
        """Start without rows."""
        self.lengths: list[int] = []
        self.cache: DynamicCache | None = None

    @property
    def width(self) -> int:
        """The tokens of the longest row."""
        return max(self.lengths, default=0)

    def join(self, layers: Layers, length: int) -> None:
        """Add a row of `length` tokens behind the others."""
        if self.cache is None:
            self.lengths, self.cache = [length], build_cache(layers)
            return
        width = max(self.width, length)
        joined = []
        for (keys, values), (more_keys, more_values) in zip(read_cache(self.cache), layers, strict=True):
            joined.append((_stack(keys, more_keys, width), _stack(values, more_values, width)))
        self.lengths.append(length)
        self.cache = build_cache(tuple(joined))

    def read(self, row: int) -> Layers:
        """Return a copy of the keys and values of one row, without padding."""
        assert self.cache is not None
        start = self.width - self.lengths[row]
        return tuple(
            (keys[row : row + 1, :, start:].clone(), values[row : row + 1, :, start:].clone())
            for keys, values in read_cache(self.cache)
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the padding that none of them needs."""
        if len(rows) == len(self.lengths):
            return
        width = self.width
        self.lengths = [self.lengths[row] for row in rows]
        if not rows or self.cache is None:
            self.cache = None
            return
        start = width - self.width
        index = torch.tensor(list(rows), device=read_cache(self.cache)[0][0].device)
        self.cache = build_cache(
            tuple((keys[index][:, :, start:], values[index][:, :, start:]) for keys, values in read_cache(self.cache))
        )

    def mask(self, device: torch.device) -> Tensor | None:
        """Return what the next token of each row may see [rows, width + 1], itself included; None for all."""
        width = self.width
        if min(self.lengths) == width:
            return None
        start = torch.tensor([[width - length] for length in self.lengths], device=device)
        return (torch.arange(width + 1, device=device) >= start).long()

    def grow(self) -> None:
        """Count the token that a forward pass has just added to each row."""
        self.lengths = [length + 1 for length in self.lengths]


def _stack(tensor: Tensor, more: Tensor, width: int) -> Tensor:
    """Put [1, heads, m, dim] below [rows, heads, n, dim], both padded on the left to `width` tokens."""
    parts = [pad(part, (0, 0, width - part.shape[2], 0)) for part in (tensor, more)]
    return torch.cat(parts)
