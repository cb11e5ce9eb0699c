"""Accelerators by name: memory, peak and bandwidth of their data sheets. The one table for plans and for MFU."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from actune.core.errors import ConfigError

# FLOP/s and bytes of what may be written behind a name.
_FLOPS = {"tflops": 1.0, "pflops": 1000.0}
_SPEEDS = {"gb/s": 1.0, "tb/s": 1000.0}
_MEMORY = {"gib": 1.0, "gb": 1.0}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z/]+)")
# What vendors put before the name of a model.
_VENDORS = re.compile(r"^(nvidia|amd|huawei|geforce|tesla|instinct|ascend|quadro|rtx)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device as torch counts them (half of an MI250X).

    `memory`: GiB that the driver reports. `half`, `single`: peak in TFLOP/s of dense products of bf16 or fp16 numbers
    with fp32 sums, and of fp32 numbers without TF32 (0: not known). `bandwidth`: GB/s of its memory, 0: not known. `bf16`: whether it
    multiplies bf16 numbers. `words`: what stands in the name that its driver gives it, empty: not recognised by that.
    """

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float
    source: str
    words: str = ""
    bf16: bool = True

    def rate(self, dtype: str) -> float:
        """Return the peak in FLOP/s for products of `bf16`, `fp16` or `fp32` numbers."""
        return (self.single if dtype == "fp32" else self.half) * 1e12


def _gpu(name: str, words: str, memory: float, half: float, single: float, bandwidth: float, source: str) -> Gpu:
    bf16 = not name.startswith(("V100", "T4"))  # their tensor cores know fp16 alone
    return Gpu(
        name=name, words=words, memory=memory, half=half, single=single, bandwidth=bandwidth, source=source, bf16=bf16
    )


# Figures "with sparsity" are halved. Memory is what drivers report where that is known: of GDDR6 with error correction
# a sixteenth less than the sheet says (A10, A40, L4, L40, L40S, T4). A name found in a driver's name counts from the top: an
# "RTX A1000" is no A100.
GPUS = (
    _gpu("GB200", "GB200", 185, 2500, 80, 8000, "NVIDIA GB200 NVL72 data sheet"),
    _gpu("B200", "B200", 179, 2250, 75, 7700, "NVIDIA HGX B200 data sheet"),
    _gpu("GH200", "GH200", 95, 989.4, 67, 4000, "NVIDIA GH200 data sheet (96 GB)"),
    _gpu("H200", "H200", 140, 989.4, 67, 4800, "NVIDIA H200 data sheet"),
    _gpu("H100-PCIe", "H100 PCIe", 79.6, 756, 51, 2000, "NVIDIA H100 data sheet, PCIe"),
    _gpu("H100-NVL", "H100 NVL", 93.6, 835, 60, 3900, "NVIDIA H100 data sheet, NVL"),
    _gpu("H100", "H100", 79.6, 989.4, 67, 3350, "NVIDIA H100 data sheet, SXM"),
    _gpu("H800", "H800", 79.6, 989.4, 67, 3350, "NVIDIA H800 data sheet, SXM"),
    _gpu("H20", "H20", 95.6, 148, 44, 4000, "NVIDIA H20 data sheet"),
    _gpu("A100-40G", "A100", 40, 312, 19.5, 1555, "NVIDIA A100 data sheet, 40 GB"),
    _gpu("A100-80G", "", 80, 312, 19.5, 2039, "NVIDIA A100 data sheet, 80 GB SXM"),
    _gpu("A800", "A800", 80, 312, 19.5, 2039, "NVIDIA A800 data sheet"),
    _gpu("L40S", "L40S", 45, 362, 91.6, 864, "NVIDIA L40S data sheet"),
    _gpu("L40", "L40", 45, 181, 90.5, 864, "NVIDIA L40 data sheet"),
    _gpu("L20", "L20", 45, 119.5, 59.8, 864, "NVIDIA L20 data sheet"),
    _gpu("L4", "L4", 22.5, 121, 30.3, 300, "NVIDIA L4 data sheet"),
    _gpu("RTXPRO6000", "RTX PRO 6000", 95.6, 503.8, 126, 1792, "NVIDIA RTX PRO Blackwell white paper"),
    _gpu("RTX6000Ada", "RTX 6000 Ada", 48, 364, 91.1, 960, "NVIDIA RTX 6000 Ada data sheet"),
    _gpu("RTX5090", "RTX 5090", 31.8, 209.5, 104.8, 1792, "NVIDIA RTX Blackwell white paper"),
    _gpu("RTX4090", "RTX 4090", 24, 165.2, 82.6, 1008, "NVIDIA Ada white paper"),
    _gpu("RTX4080", "RTX 4080", 16, 97.5, 48.7, 717, "NVIDIA Ada white paper"),
    _gpu("RTX3090", "RTX 3090", 24, 71, 35.6, 936, "NVIDIA GA102 white paper"),
    _gpu("RTXA6000", "RTX A6000", 48, 154.8, 38.7, 768, "NVIDIA RTX A6000 data sheet"),
    _gpu("A40", "A40", 45, 149.7, 37.4, 696, "NVIDIA A40 data sheet"),
    _gpu("A30", "A30", 24, 165, 10.3, 933, "NVIDIA A30 data sheet"),
    _gpu("A10", "A10", 22.5, 125, 31.2, 600, "NVIDIA A10 data sheet"),
    _gpu("V100-16G", "V100", 16, 125, 15.7, 900, "NVIDIA V100 data sheet, SXM2 16 GB"),
    _gpu("V100-32G", "", 32, 125, 15.7, 900, "NVIDIA V100 data sheet, SXM2 32 GB"),
    _gpu("T4", "T4", 15, 65, 8.1, 320, "NVIDIA T4 data sheet"),
    _gpu("MI325X", "MI325X", 256, 1307.4, 163.4, 6000, "AMD Instinct MI325X data sheet"),
    _gpu("MI300X", "MI300X", 192, 1307.4, 163.4, 5300, "AMD Instinct MI300X data sheet"),
    _gpu("MI250X", "MI250X", 64, 191.5, 47.9, 1638, "AMD Instinct MI250X data sheet, one of two dies"),
    _gpu("910B", "", 61, 280, 0, 0, "Gitee AI's page of Huawei's Ascend 910B; its versions differ"),
)  # fmt: skip
# A name without its size means the smaller one.
_SHORT = {
    "a100": "A100-40G",
    "v100": "V100-16G",
    "h10080g": "H100",
    "h100sxm": "H100",
    "h200141g": "H200",
    "a100sxm80g": "A100-80G",
    "pro6000": "RTXPRO6000",
}


def find_device(name: str) -> Gpu | None:
    """Return the entry for the name that a driver gives a device; its memory may be another."""
    return next((gpu for gpu in GPUS if gpu.words and re.search(rf"\b{re.escape(gpu.words)}\b", name)), None)


def parse_gpu(text: str) -> Gpu:
    """Return the device of a name (`H100`, `rtx 4090`, `A100-80GB`) or of `NAME=80GiB,312TFLOPS[,2000GB/s]`.

    Raises:
        ConfigError: no such device, with those whose names are close.
    """
    name, given, figures = text.partition("=")
    if given:
        return _read_own(text, name.strip(), figures)
    known = {_normalise(gpu.name): gpu for gpu in GPUS} | {
        short: gpu for short, full in _SHORT.items() for gpu in GPUS if gpu.name == full
    }
    wanted = _normalise(name)
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(dict.fromkeys(known[one].name for one in close))}? " if close else ""
    raise ConfigError(
        f"no data sheet of {text!r} is known",
        fix=f"{hint}There are {', '.join(gpu.name for gpu in GPUS)}; or give its figures: {_own_name(name)}=80GiB,312TFLOPS",
    )


def _own_name(name: str) -> str:
    return name.strip() or "NAME"


def _normalise(name: str) -> str:
    plain = re.sub(r"[\s_-]+", "", name.lower())
    plain = _VENDORS.sub("", plain)
    return re.sub(r"(?<=\d)gi?b$", "g", plain)


def _read_own(text: str, name: str, figures: str) -> Gpu:
    """Read the figures of a device that is not in the table; fp32 products count as fast as half ones."""
    found: dict[str, float] = {}
    for part in figures.split(","):
        match = _NUMBER.fullmatch(part.strip())
        unit = match[2].lower() if match is not None else ""
        kinds = {"memory": _MEMORY, "half": _FLOPS, "bandwidth": _SPEEDS}
        kind = next((kind for kind, units in kinds.items() if unit in units), None)
        if match is None or kind is None or kind in found:
            raise ConfigError(
                f"{part.strip()!r} in {text!r} is no figure of a device",
                fix="write memory, peak and if known bandwidth: NAME=80GiB,312TFLOPS,2000GB/s",
            )
        found[kind] = float(match[1]) * kinds[kind][unit]
    if not name or not found.get("memory") or not found.get("half"):
        raise ConfigError(
            f"{text!r} lacks {'a name' if not name else 'memory' if not found.get('memory') else 'a peak'}",
            fix="write memory, peak and if known bandwidth: NAME=80GiB,312TFLOPS,2000GB/s",
        )
    return Gpu(
        name=name,
        memory=found["memory"],
        half=found["half"],
        single=found["half"],
        bandwidth=found.get("bandwidth", 0.0),
        source="as given",
    )
