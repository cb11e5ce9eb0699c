"""The layout for kernels of several lengths, and how the kernel is called; computed here by a plain stand-in."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from actune.data.pack import pack
from actune.modeling import varlen
from actune.modeling.segments import cut_segments, plan_blocks
from actune.modeling.tree_attention import TreeAttention
from actune.modeling.varlen import Kernel, Varlen

CPU = torch.device("cpu")


def stand_in(
    query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size=None, is_causal=False, enable_gqa=False
):
    """What torch's kernel computes: causal from the last query and the last key backwards."""
    outputs = []
    for place in range(len(cu_q) - 1):
        q, k, v = (
            query[cu_q[place] : cu_q[place + 1]],
            key[cu_k[place] : cu_k[place + 1]],
            value[cu_k[place] : cu_k[place + 1]],
        )
        assert len(q) <= max_q
        assert len(k) <= max_k
        behind = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
        left = -1 if window_size is None else window_size[0]
        seen = (behind >= 0) & ((behind <= left) if left >= 0 else True)
        assert window_size is None or window_size[1] == 0
        assert window_size is not None or is_causal
        states = (states.transpose(0, 1)[None] for states in (q, k, v))
        out = scaled_dot_product_attention(*states, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize(("windows", "groups"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("share", [True, False])
def test_paths_are_gathered_as_the_rule_says(kit, monkeypatch, windows, groups, window, share):
    if window is not None and not windows:
        return  # such a kernel is not asked, see below
    monkeypatch.setattr(varlen, "find_kernel", lambda: Kernel(function=stand_in, windows=windows, groups=groups))
    batch = pack([kit.build_line(9, seed=0), *kit.build_rows(6)], share=share)
    segments = cut_segments(batch.end)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(len(batch), heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)]
    gradient = torch.randn(len(batch), 4, 8, generator=generator)
    layout = Varlen.of(segments, CPU)
    found = layout.attend(*states, window=window, scale=0.3)
    wanted = TreeAttention.apply(*states, plan_blocks(segments, window), 0.3)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found, states, gradient), torch.autograd.grad(wanted, states, gradient), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_lines_need_no_gathering_and_the_kernel_is_for_halves_on_cuda(kit, monkeypatch):
    layout = Varlen.of(cut_segments(pack([kit.build_line(9, seed=0), kit.build_line(5, seed=1)]).end), CPU)
    assert layout.index is None
    assert layout.queries.tolist() == layout.keys.tolist()
    assert layout.queries.dtype == torch.int32
    assert not layout.takes(torch.zeros(3, 4, 8), None)
    assert not layout.takes(torch.zeros(3, 4, 8, dtype=torch.bfloat16), None)  # on the CPU


def test_a_kernel_that_failed_is_not_used_again(monkeypatch):
    monkeypatch.setattr(varlen, "_given_up", [])
    varlen.find_kernel.cache_clear()
    was = varlen.find_kernel() is not None
    assert varlen.give_up_kernel() == was
    assert varlen.find_kernel() is None
    assert not varlen.give_up_kernel()
    varlen._given_up.clear()
    varlen.find_kernel.cache_clear()
