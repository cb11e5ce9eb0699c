"""What surrounds a 4-bit base, without bitsandbytes; the numbers are in tests/numerics/test_quantize.py."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from actune.config.conflicts import find_conflicts
from actune.config.extras import require_extras
from actune.config.settings import Settings, TuningSettings
from actune.core.errors import ConfigError, MissingExtraError, ModelError
from actune.modeling import quantize
from actune.modeling.quantize import FILE, Quantization, read_quantization, write_quantization


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr("actune.config.extras.find_spec", lambda _: None)


@pytest.fixture
def stub(monkeypatch):
    """A bitsandbytes that knows one kind of device."""
    module = SimpleNamespace(__version__="9", supported_torch_devices={"cuda"})
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    monkeypatch.setattr("actune.config.extras.find_spec", lambda _: object())
    return module


def test_a_missing_package_is_named_before_anything_is_read(missing):
    with pytest.raises(MissingExtraError, match="bitsandbytes") as caught:
        require_extras(Settings(tuning=TuningSettings(quant_bits=4)))
    assert "actune[qlora]" in caught.value.fix
    require_extras(Settings())


def test_a_device_without_products_is_refused(stub):
    assert quantize.require_bitsandbytes(torch.device("cuda")) is stub
    with pytest.raises(ConfigError, match="no 4-bit products for cpu; it has them for cuda"):
        quantize.require_bitsandbytes(torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quant_bits": 4, "sft_type": "full"}, "cannot be trained"),
        ({"quant_bits": 4}, None),
    ],
)
def test_settings_that_do_not_fit(changes, words):
    found = [
        one.message for one in find_conflicts(Settings(tuning=TuningSettings(**changes))) if one.name == "quant_bits"
    ]
    assert bool(found) == (words is not None)
    assert words is None or words in found[0]


def test_settings_become_a_quantisation():
    assert Quantization.of(TuningSettings(), torch.bfloat16) is None
    found = Quantization.of(TuningSettings(quant_bits=4, bnb_4bit_use_double_quant=False), torch.bfloat16)
    assert found == Quantization(dtype="bfloat16", double_quant=False)


def test_what_is_written_beside_an_adapter_is_read(tmp_path):
    assert read_quantization(tmp_path) is None
    wanted = Quantization(dtype="float16", double_quant=False)
    write_quantization(tmp_path, wanted)
    assert read_quantization(tmp_path) == wanted


@pytest.mark.parametrize("change", [{"version": 2}, {"quant_bits": 8}, {"dtype": "int8"}, {"double_quant": "yes"}])
def test_a_quantisation_that_is_not_known_is_no_guess(tmp_path, change):
    write_quantization(tmp_path, Quantization(dtype="float32"))
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | change))
    with pytest.raises(ModelError, match="does not know"):
        read_quantization(tmp_path)


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_quantization(tmp_path)
