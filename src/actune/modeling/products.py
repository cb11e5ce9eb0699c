"""Which library multiplies fp32 matrices on the CPU: oneDNN where it is faster and as exact, else torch's default.

torch's default is MKL, which on AMD processors runs code for older instruction sets: about half of what the processor
does (`docs/performance.md`). torch hands fp32 products to oneDNN when it is allowed to compute them in bfloat16. On
processors without matrix units for bfloat16 oneDNN does not make use of that and computes in fp32 throughout; on those
with such units it rounds. So the switch is tried, and kept only if products are exact: against fp64, not by the name of a
processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

# Relative error (Euclidean norm) of a product of random matrices of length 512. fp32 in any order of summation is below
# 1e-6; with inputs rounded to bfloat16 (8 bits) it is about 3e-3.
_EXACT = 2e-6
# Products of layers, of adapters, and of attention.
_SHAPES = ((1, 1024, 512, 768), (1, 1024, 512, 8), (1, 8, 1024, 512), (4, 256, 64, 512), (4, 256, 512, 64))


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Let oneDNN multiply fp32 matrices inside the block, where that was found to be right."""
    if device.type != "cpu" or not prefers_onednn():
        yield
        return
    settings: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 - not in torch's own annotations
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@lru_cache(maxsize=1)
def prefers_onednn() -> bool:
    """Whether oneDNN's fp32 products are exact here; tried once in a process, on shapes as training has them.

    The answer depends on processor and torch alone, never on a measured time: a resumed run has to add up in the same
    order as the run before.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch.backends.mkldnn.is_available() or not hasattr(settings, "fp32_precision"):
        return False
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        return all(_error(*shape) < _EXACT for shape in _SHAPES)
    except RuntimeError:
        return False
    finally:
        settings.fp32_precision = before


def _error(batch: int, rows: int, inner: int, columns: int) -> float:
    """Return the largest relative error over the transpositions of a product [batch, rows, inner] x [inner, columns]."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(batch, rows, inner, generator=generator)
    right = torch.randn(batch, inner, columns, generator=generator)
    exact = torch.bmm(left.double(), right.double())
    errors = []
    for one in (left, left.mT.contiguous().mT):
        for other in (right, right.mT.contiguous().mT):
            found = torch.bmm(one, other) if batch > 1 else torch.mm(one[0], other[0])[None]
            errors.append(float((found.double() - exact).norm() / exact.norm()))
    return max(errors)
