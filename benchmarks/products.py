"""Speed and error of fp32 matrix products on the CPU: torch's default, oneDNN as actune switches it, and bfloat16.

python benchmarks/products.py [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from actune.modeling.products import fast_products, prefers_onednn

# Rows, inner size, columns: layers, an adapter's product, its gradient; then batches of attention.
SHAPES = ((4096, 256, 768), (4096, 1024, 1024), (4096, 256, 8), (24, 4096, 256))
BATCHES = ((2, 256, 64, 1792), (2, 256, 1792, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(f"oneDNN is exact here: {'yes' if prefers_onednn() else 'no, it stays off'}\n")
    print(
        "| product | default, GFLOP/s | oneDNN | bfloat16 | error, default | error, oneDNN |\n|---|---|---|---|---|---|"
    )
    generator = torch.Generator().manual_seed(0)
    for batch, rows, inner, columns in [(1, *shape) for shape in SHAPES] + list(BATCHES):
        left = torch.randn(batch, rows, inner, generator=generator)
        right = torch.randn(batch, inner, columns, generator=generator)
        exact = left.double() @ right.double()
        work = 2 * batch * rows * inner * columns / 1e9
        plain, found = run(lambda one=left, other=right: torch.bmm(one, other))
        with fast_products(torch.device("cpu")):
            fast, quick = run(lambda one=left, other=right: torch.bmm(one, other))
        halves = left.bfloat16(), right.bfloat16()
        half, _ = run(lambda pair=halves: torch.bmm(*pair))
        errors = [float((one.double() - exact).norm() / exact.norm()) for one in (found, quick)]
        print(
            f"| {batch} x {rows} x {inner} x {columns} | {work / plain:.0f} | {work / fast:.0f} | {work / half:.0f} "
            f"| {errors[0]:.1e} | {errors[1]:.1e} |"
        )


def run(product: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Return the seconds of the fastest of many runs, and the result."""
    best = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        result = product()
        best = min(best, time.perf_counter() - began)
    return best, result


if __name__ == "__main__":
    main()
