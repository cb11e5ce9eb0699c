"""The library of fp32 products is chosen by exactness, and put back."""

from __future__ import annotations

import pytest
import torch

from actune.modeling import products
from actune.modeling.products import fast_products, prefers_onednn

matmul = pytest.importorskip("torch.backends.mkldnn").matmul


@pytest.fixture(autouse=True)
def _fresh():
    prefers_onednn.cache_clear()
    yield
    prefers_onednn.cache_clear()


def test_products_inside_are_exact_and_the_setting_is_put_back():
    before = matmul.fp32_precision
    left, right = torch.randn(300, 200), torch.randn(200, 100)
    with fast_products(torch.device("cpu")):
        assert (matmul.fp32_precision == "bf16") == prefers_onednn()
        exact = left.double() @ right.double()
        assert float(((left @ right).double() - exact).norm() / exact.norm()) < 2e-6
    assert matmul.fp32_precision == before


def test_a_processor_that_rounds_keeps_the_default(monkeypatch):
    original = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: original(a.bfloat16().float(), b.bfloat16().float()))
    assert not prefers_onednn()
    before = matmul.fp32_precision
    with fast_products(torch.device("cpu")):
        assert matmul.fp32_precision == before


def test_it_is_tried_once(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "_error", lambda *shape: calls.append(shape) or 0.0)
    assert prefers_onednn() == prefers_onednn()
    assert len(calls) in (0, len(products._SHAPES))
