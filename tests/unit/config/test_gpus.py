"""Names of devices as people write them, figures of one's own, and what is not known."""

from __future__ import annotations

import pytest

from actune.config.gpus import GPUS, find_device, parse_gpu
from actune.core.errors import ConfigError


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_name_of_the_table_is_read_however_it_is_written(gpu):
    for text in (
        gpu.name,
        gpu.name.lower(),
        gpu.name.replace("-", " "),
        f"NVIDIA {gpu.name}",
        f"{gpu.name}".replace("-", "_"),
    ):
        assert parse_gpu(text) is gpu
    assert gpu.memory >= 8
    assert gpu.half > gpu.single >= 0
    assert gpu.source
    assert gpu.rate("bf16") == gpu.rate("fp16") == gpu.half * 1e12


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100-80GB", "A100-80G"),
        ("a100 80g", "A100-80G"),
        ("A100", "A100-40G"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("4090", "RTX4090"),
        ("Tesla V100", "V100-16G"),
        ("Ascend 910B", "910B"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_names_as_people_write_them(text, name):
    assert parse_gpu(text).name == name


def test_the_name_of_a_driver_finds_the_entry_of_that_device():
    # A longer name before the shorter one that it holds.
    for driver, name in {
        "NVIDIA H100 PCIe": "H100-PCIe",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA L40S": "L40S",
        "NVIDIA L40": "L40",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTXPRO6000",
    }.items():
        found = find_device(driver)
        assert found is not None
        assert found.name == name
    for driver in ("NVIDIA RTX A1000", "NVIDIA A10G", "Quadro T400", "Radeon"):
        assert find_device(driver) is None


def test_figures_of_a_device_that_is_not_in_the_table():
    gpu = parse_gpu("mine = 48GB, 0.2 PFLOPS, 1.5TB/s")
    assert (gpu.name, gpu.memory, gpu.half, gpu.single, gpu.bandwidth) == ("mine", 48, 200, 200, 1500)
    assert parse_gpu("mine=8GiB,60TFLOPS").bandwidth == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("H1000", "H100"),
        ("RTX490", "RTX4090"),
        ("nonsense", "There are GB200"),
        ("mine=48GB", "a peak"),
        ("mine=200TFLOPS", "memory"),
        ("=48GB,200TFLOPS", "a name"),
        ("mine=0GB,200TFLOPS", "memory"),
        ("mine=48,200TFLOPS", "'48'"),
        ("mine=48GB,48GB,200TFLOPS", "'48GB'"),
    ],
)
def test_what_is_not_known_is_refused_with_what_to_write(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_gpu(text)
    assert said in f"{caught.value.message} {caught.value.fix}"
