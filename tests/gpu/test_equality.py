"""The same training on an accelerator: equal to the plain model there. Skipped on machines without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actune.data.pack import pack
from actune.modeling.adapters import attach_adapter
from actune.modeling.attention import Layout, attend_packed
from actune.modeling.fused.decoder import Decoder
from actune.modeling.fused.trial import prepare_decoder
from actune.modeling.isolation import prepare_packing
from actune.modeling.segments import plan_blocks
from actune.modeling.targets import resolve_targets
from actune.modeling.tree_attention import TreeAttention
from actune.training.step import StepInput, TrainStep

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator")


@pytest.fixture
def device():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield torch.accelerator.current_accelerator()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("window", [None, 9])
def test_attention_is_that_of_the_cpu(kit, device, dtype, bound, window):
    batch = pack(kit.build_rows(9), share=True)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(len(batch), heads, 64, generator=generator).to(dtype) for heads in (4, 2, 2)]
    gradient = torch.randn(len(batch), 4, 64, generator=generator).to(dtype)
    results = []
    for place in (torch.device("cpu"), device):
        inputs = [
            tensor.to(place, torch.float32 if place.type == "cpu" else dtype).requires_grad_() for tensor in states
        ]
        layout = Layout.of(batch, place)
        if place.type == "cpu":
            out = TreeAttention.apply(*inputs, plan_blocks(layout.segments, window), 0.125)
        else:
            out = attend_packed(*inputs, layout, window=window, scale=0.125)
        out.backward(gradient.to(place, out.dtype))
        results.append([tensor.detach().cpu().float() for tensor in (out, *(one.grad for one in inputs))])
    for found, wanted in zip(results[1], results[0], strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen2"])
def test_the_fused_decoder_trains_as_the_plain_model(kit, device, kind, dtype, bound):
    model = kit.build_model(kind, tie_word_embeddings=True).to(device, dtype)
    assert prepare_packing(model) is None
    names = resolve_targets(model, ["ALL"]).modules
    adapted = attach_adapter(model, modules=names, rank=4, alpha=8, dropout=0.0, seed=0)
    torch.manual_seed(0)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    decoder = prepare_decoder(adapted)
    assert isinstance(decoder, Decoder), decoder
    batch = pack(kit.build_rows(9), share=True)
    results = []
    for chosen in (None, decoder):
        adapted.zero_grad()
        loss, _ = TrainStep(adapted, decoder=chosen)(StepInput.of(batch, device, packed=True))
        loss.backward()
        results.append((float(loss), [weight.grad.float() for weight in adapted.parameters() if weight.requires_grad]))
    assert results[1][0] == pytest.approx(results[0][0], rel=bound)
    gaps = [
        float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(results[1][1], results[0][1], strict=True)
    ]
    assert np.max(gaps) < bound
