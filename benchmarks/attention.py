"""Attention on the CPU, forward and backward: matrix products by segments against torch's own kernel, row by row.

    python benchmarks/attention.py [--threads 1]

Rows of one length side by side, and rows that begin with the same tokens. Both ways compute the same; the largest relative
difference is printed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from actune.modeling.products import fast_products
from actune.modeling.segments import cut_segments, plan_blocks
from actune.modeling.tree_attention import TreeAttention

HEADS, SHARED, SIZE = 4, 2, 64
# Tokens in common, tokens of each row after them, rows.
CASES = ((0, 256, 16), (0, 1024, 4), (0, 2048, 2), (1400, 440, 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(
        "| in common | rows | torch, ms | segments, ms | segments without oneDNN, ms | ratio | difference |\n|---|---|---|---|---|---|---|"
    )
    for common, length, rows in CASES:
        with fast_products(torch.device("cpu")):
            fast, found = time_segments(common, length, rows)
        plain, _ = time_segments(common, length, rows)
        slow, wanted = time_torch(common, length, rows)
        gap = max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
        print(
            f"| {common} | {rows} x {length} | {slow * 1e3:.1f} | {fast * 1e3:.1f} | {plain * 1e3:.1f} "
            f"| {slow / fast:.2f} | {gap:.1e} |"
        )


def make(tokens: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(tokens, heads, SIZE, generator=generator) for heads in (HEADS, SHARED, SHARED)]
    return states, torch.randn(tokens, HEADS, SIZE, generator=generator)


def time_segments(common: int, length: int, rows: int) -> tuple[float, list[torch.Tensor]]:
    """Return seconds, and [output, gradients of query, key, value]."""
    tokens = common + rows * length
    end = np.full(tokens, tokens, np.int32)
    for start in range(common, tokens, length):
        end[start : start + length] = start + length
    states, gradient = make(tokens)
    plan = plan_blocks(cut_segments(end), None)

    def run() -> list[torch.Tensor]:
        inputs = [state.clone().requires_grad_() for state in states]
        out = TreeAttention.apply(*inputs, plan, SIZE**-0.5)
        return [out.detach(), *torch.autograd.grad(out, inputs, gradient)]

    return best(run)


def time_torch(common: int, length: int, rows: int) -> tuple[float, list[torch.Tensor]]:
    """The same, each row whole; what rows have in common is added up."""
    states, gradient = make(common + rows * length)

    def run() -> list[torch.Tensor]:
        inputs = [state.clone().requires_grad_() for state in states]
        total = [torch.zeros_like(gradient), *(torch.zeros_like(one) for one in inputs)]
        for start in range(common, common + rows * length, length):
            index = torch.cat([torch.arange(common), torch.arange(start, start + length)])
            query, key, value = (one[index].transpose(0, 1)[None] for one in inputs)
            out = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
            weight = gradient[index].clone()
            if start > common:
                weight[:common] = 0  # each token counts once
            for place, part in zip(total[1:], torch.autograd.grad(out, inputs, weight), strict=True):
                place += part
            total[0][index] = out.detach()
        return total

    return best(run)


def best(run) -> tuple[float, list[torch.Tensor]]:
    run()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


if __name__ == "__main__":
    main()
