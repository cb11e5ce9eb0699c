"""Attention over packed token trees by the kernel for sequences of several lengths that torch has for accelerators.

Each segment is one sequence: its queries, and the keys of its whole path (ancestors, then itself), gathered. Such a kernel
aligns the causal mask at the last query and the last key, which is what a path needs. Packs without branches need no
gathering.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actune.modeling.segments import Segment

# FlashAttention 2, which is behind the kernel (torch.nn.attention.varlen), takes heads up to this size.
_LARGEST_HEAD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Varlen:
    """Where sequences begin ([sequences + 1], int32) among queries and among keys; `index` gathers keys (None: all)."""

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    index: Tensor | None

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> Varlen:
        """Lay out segments."""
        lengths = [segment.stop - segment.start for segment in segments]
        paths = [segment.length for segment in segments]
        index = None
        if any(segment.above for segment in segments):
            spans = [span for segment in segments for span in (*segment.above, (segment.start, segment.stop))]
            index = torch.from_numpy(np.concatenate([np.arange(start, stop) for start, stop in spans])).to(device)
        return cls(
            queries=_accumulate(lengths, device),
            keys=_accumulate(paths, device),
            longest_query=max(lengths, default=0),
            longest_key=max(paths, default=0),
            index=index,
        )

    def takes(self, query: Tensor, window: int | None) -> bool:
        """Whether the kernel exists for such queries [T, heads, d] on their device."""
        right = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= _LARGEST_HEAD
        known = find_kernel()
        return right and known is not None and query.device.type == "cuda" and (window is None or known.windows)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float) -> Tensor:
        """Attend: query [T, heads, d], key and value [T, kv_heads, d] -> [T, heads, d]."""
        kernel = find_kernel()
        assert kernel is not None
        if self.index is not None:
            key, value = key.index_select(0, self.index), value.index_select(0, self.index)
        extra: dict[str, Any] = {}
        if key.shape[1] != query.shape[1]:
            if kernel.groups:
                extra["enable_gqa"] = True
            else:
                times = query.shape[1] // key.shape[1]
                key, value = (states.repeat_interleave(times, dim=1) for states in (key, value))
        if kernel.windows:
            extra["window_size"] = (-1 if window is None else window - 1, 0)
        else:
            extra["is_causal"] = True
        return kernel.function(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            self.queries,
            self.keys,
            self.longest_query,
            self.longest_key,
            scale=scale,
            **extra,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """torch's function, and which keywords this version of it has."""

    function: Any
    windows: bool
    groups: bool


def give_up_kernel() -> bool:
    """Do without the kernel in this process, because it failed its trial; return whether it was in use."""
    was = find_kernel() is not None
    _given_up.append(True)
    find_kernel.cache_clear()
    return was


_given_up: list[bool] = []


@lru_cache(maxsize=1)
def find_kernel() -> Kernel | None:
    """Return torch's kernel for sequences of several lengths, if this version has one that takes a scale."""
    if _given_up:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    if "scale" not in names or not {"window_size", "is_causal"} & set(names):
        return None
    return Kernel(function=varlen_attn, windows="window_size" in names, groups="enable_gqa" in names)


def _accumulate(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
