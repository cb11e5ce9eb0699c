"""What `sft --dry-run` says beside its counts: steps, memory and time on named devices, before anything is paid for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from actune.config.gpus import Gpu, find_device, parse_gpu
from actune.config.settings import Settings
from actune.core.files import atomic_text
from actune.data.prepare import Prepared
from actune.modeling.load import pick_device, pick_dtype
from actune.modeling.products import fast_products
from actune.render.tree import TokenTree
from actune.training.estimate import (
    EFFICIENCY_CPU,
    Device,
    Estimate,
    Span,
    Time,
    Workload,
    estimate,
    relieve,
)
from actune.training.flops import find_peak
from actune.training.memory import USABLE
from actune.training.outline import Outline, outline

_VERSION = 1
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Columns of the labels, and of one device.
_LABEL, _COLUMN = 26, 18
_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One device: what was counted of the model in its dtype, what follows from it, and what would free memory."""

    model: Outline
    found: Estimate
    relief: tuple[str, ...]


def show_plan(
    settings: Settings, prepared: Prepared, held_out: Sequence[TokenTree], model_dir: Path, console: Console
) -> None:
    """Print the plan of a run that is prepared, and write it to `plan_file` where that is set; no weights are read.

    `held_out`: rows evaluated beside the validation rows.

    Raises:
        ModelError: the config describes no model that can be trained.
        ConfigError: a setting does not fit the model, or a device is not known.
    """
    work = Workload.of(
        settings,
        prepared.train,
        (*prepared.validation, *held_out),
        processes=settings.output.plan_processes or int(os.environ.get("WORLD_SIZE", "1")),
        sizes=prepared.train.sizes(),
    )
    planned = list(plan_devices(settings, work, model_dir))
    console.print(_draw_run(work, planned[0]))
    size = max(1, (console.width - _LABEL) // _COLUMN)
    for first in range(0, len(planned), size):
        console.print(_draw_devices(planned[first : first + size]))
    for line in _list_notes(settings, planned):
        console.print(f"note: {line}", markup=False)
    if settings.output.plan_file is not None:
        path = Path(settings.output.plan_file)
        atomic_text(path, json.dumps(dump_plan(work, planned), indent=1) + "\n")
        console.print(f"Plan: {path}", markup=False)


def plan_devices(settings: Settings, work: Workload, model_dir: Path) -> Iterator[Planned]:
    """Yield the plan for each device that is named, else for the one that is here."""
    outlines: dict[tuple[str, bool], Outline] = {}
    for device in [_name_device(settings, parse_gpu(name)) for name in settings.output.plan_gpu] or [
        find_here(settings)
    ]:
        key = (device.dtype, device.cpu)
        if key not in outlines:
            outlines[key] = outline(settings, model_dir, compute=_DTYPES[device.dtype], device=device.kind)
        found = estimate(settings, outlines[key], work, device)
        relief: list[str] = []
        if found.verdict in ("tight", "does not fit"):
            relief = relieve(settings, outlines[key], found, work)
        yield Planned(model=outlines[key], found=found, relief=tuple(relief))


def _name_device(settings: Settings, gpu: Gpu) -> Device:
    """Return a device of the table with the dtype that a run has there."""
    wanted = settings.model.dtype
    dtype = wanted if wanted != "AUTO" else "bf16" if gpu.bf16 else "fp32"
    device = Device.of(gpu, dtype)
    if dtype == "bf16" and not gpu.bf16:  # computed as fp32
        return Device.of(gpu, "fp32").in_dtype("bf16")
    return device


def find_here(settings: Settings) -> Device:
    """Return the accelerator of this machine, else its CPU, with the rate of one product measured where none is known."""
    device = pick_device()
    dtype = pick_dtype(settings.model.dtype, device)
    with fast_products(device):
        peak = find_peak(device, dtype, given=settings.monitor.device_peak_tflops or None)
    rate, source = (peak.rate, peak.source) if peak is not None else (0.0, "not known")
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        return Device(
            name=name,
            dtype=_NAMES[dtype],
            size=_measure_memory(),
            rate=rate,
            bandwidth=0.0,
            source=source,
            efficiency=EFFICIENCY_CPU[_NAMES[dtype]],
            cpu=True,
        )
    try:
        _, size = torch.accelerator.get_memory_info(device)
    except (RuntimeError, AttributeError, NotImplementedError):
        size = None
    name = str(getattr(torch.get_device_module(device).get_device_properties(device), "name", device.type))
    known = find_device(name)
    bandwidth = known.bandwidth * 1e9 if known is not None else 0.0
    return Device(name=name, dtype=_NAMES[dtype], size=size, rate=rate, bandwidth=bandwidth, source=source)


def _measure_memory() -> int | None:
    """Return the bytes of memory that this machine, or the container this runs in, has."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(size, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or none with a limit ("max")
        return size


# --- tables -----------------------------------------------------------------------------------------------------------


def _draw_run(work: Workload, first: Planned) -> Table:
    """Return what is the same on every device."""
    run, model, steps = work.run, first.model, first.found.steps
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, min_width=_LABEL)
    table.add_column(overflow="fold")
    table.add_row("rows", f"{len(work.train):,}, {run.total / run.rows:,.2f} epochs of them")
    table.add_row("tokens", f"{work.tokens:,}, of them supervised {work.supervised_tokens:,} ({work.share:.0%})")
    table.add_row("longest row", f"{work.longest:,} tokens")
    table.add_row(
        "steps",
        f"{run.steps:,} of {run.size:,} {run.unit}, about {steps.tokens:,.0f} tokens; "
        f"{_count(work.processes, 'process')}",
    )
    share = model.trained / model.weights
    kinds = "4 bits, " if model.quantized else ""
    table.add_row("model", f"{model.kind}, {model.weights:,} weights ({kinds}trained: {model.trained:,}, {share:.2%})")
    operations = steps.training * work.processes / max(1, steps.tokens)
    table.add_row("operations", f"{operations / 1e9:,.2f} GFLOP a token")
    return table


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 'es'}"


def _draw_devices(planned: Sequence[Planned]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("estimated on", no_wrap=True, min_width=_LABEL)
    for one in planned:
        table.add_column(one.found.device.name, justify="right", no_wrap=False)
    rows = _list_rows([one.found for one in planned])
    for label, cells in rows:
        if not cells:
            table.add_section()
            table.add_row(label)
        elif any(cells):
            table.add_row(label, *cells)
    return table


def _list_rows(found: Sequence[Estimate]) -> Iterator[tuple[str, list[str]]]:
    def each(write: Callable[[Estimate], str]) -> list[str]:
        return [write(one) for one in found]

    yield "products in", each(lambda one: one.device.dtype)
    yield "tokens a forward pass", each(lambda one: f"{max(tokens for tokens, _ in one.steps.peaks):,}")
    yield "forward passes a step", each(lambda one: f"{one.steps.passes:,.1f}")
    yield "activations recomputed", each(lambda one: "yes" if one.plan.recompute else "no")
    yield "weights spread (FSDP2)", each(lambda one: f"over {one.processes}" if one.sharded else "")
    yield "memory, GiB", []
    for part in ("weights", "gradients", "moments", "copies", "activations", "logits", "libraries"):
        sizes = [getattr(one.memory, part) for one in found]
        if any(sizes):
            yield f"  {part}", [f"{size / 2**30:,.2f}" for size in sizes]
    yield "  in all", each(lambda one: f"{one.memory.total / 2**30:,.2f}")
    yield "  of", each(lambda one: f"{one.device.size / 2**30:,.1f}" if one.device.size else "")
    yield "  verdict", each(lambda one: one.verdict)
    if not any(one.time for one in found):
        return
    yield "time", []
    parts: dict[str, Callable[[Time], Span]] = {
        "a step": lambda time: time.step,
        "training": lambda time: time.training,
        "evaluations": lambda time: time.evaluations,
        "start and saves": lambda time: time.start + time.saves,
        "in all": lambda time: time.total,
    }
    for label, pick in parts.items():
        spans = [pick(one.time) if one.time else None for one in found]
        if any(span is not None and span.most for span in spans):
            yield f"  {label}", [write_span(span) if span is not None else "not known" for span in spans]
    yield "tokens a second", each(lambda one: _write_rates(*one.rates) if one.time else "")


def _write_rates(least: float, most: float) -> str:
    return f"{least:,.0f} to {most:,.0f}"


def write_span(span: Span) -> str:
    """Write a span of time for people: `48 to 82 min`."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if span.most >= 2 * seconds or unit == "ms":
            least, most = span.least / seconds, span.most / seconds
            if f"{least:.2g}" == f"{most:.2g}":
                return f"{most:.2g} {unit}" if most < 100 else f"{most:,.0f} {unit}"
            return f"{_short(least)} to {_short(most)} {unit}"
    return ""


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


# --- notes ------------------------------------------------------------------------------------------------------------


def _list_notes(settings: Settings, planned: Sequence[Planned]) -> Iterator[str]:
    first = planned[0].found
    yield from _note_assumptions(settings, planned)
    if first.steps.looked_at < first.steps.steps:
        yield f"estimated from {first.steps.looked_at:,} of {first.steps.steps:,} steps, evenly chosen"
    for one in planned:
        found, name = one.found, one.found.device.name
        if found.verdict in ("tight", "does not fit"):
            size = (found.device.size or 0) / 2**30
            what = (
                f"{name}: {found.memory.total / 2**30:,.1f} of {size:,.1f} GiB leave less than {1 - USABLE:.0%} free"
                if found.verdict == "tight"
                else f"{name}: {found.memory.total / 2**30:,.1f} GiB do not fit {size:,.1f}"
            )
            yield (
                what + "; what would free how much, by a rough model:" + "".join(f"\n  - {line}" for line in one.relief)
            )
        if name in {gpu.name for gpu in _no_bf16(settings)}:
            gpu = parse_gpu(name)
            yield (
                f"{name} multiplies no bf16 numbers: fp32 products at {gpu.single:g} TFLOP/s are planned; --dtype fp16 has "
                f"{gpu.half:g}"
            )
    if (reason := planned[0].model.unfused) and settings.tuning.sft_type == "lora":
        yield f"the model's own forward pass computes its layers: {reason}"


def _note_assumptions(settings: Settings, planned: Sequence[Planned]) -> Iterator[str]:
    left_out = ["downloads"]
    if settings.output.compare:
        left_out.append("the comparison after training")
    if planned[0].found.processes > 1:
        left_out.append("communication between processes")
    if settings.monitor.probe_items:
        left_out.append("probes")
    shares = dict.fromkeys((one.found.device.efficiency, one.found.device.cpu) for one in planned if one.found.time)
    for (least, most), cpu in shares:
        of = "a product measured here" if cpu else "the peak of the data sheet"
        yield f"time: products at {least:.0%} to {most:.0%} of {of} (docs/planning.md); without {', '.join(left_out)}"
    for one in planned:
        if one.found.time is None:
            yield f"{one.found.device.name}: its peak for {one.found.device.dtype} is not known, so neither is the time"


def _no_bf16(settings: Settings) -> list[Gpu]:
    if settings.model.dtype not in ("AUTO", "bf16"):
        return []
    return [gpu for name in settings.output.plan_gpu if not (gpu := parse_gpu(name)).bf16]


# --- as JSON ----------------------------------------------------------------------------------------------------------


def dump_plan(work: Workload, planned: Sequence[Planned]) -> dict[str, Any]:
    """Return the plan as JSON; sizes in bytes, times in seconds (least, most)."""
    run = work.run
    return {
        "version": _VERSION,
        "rows": len(work.train),
        "epochs": run.total / run.rows,
        "tokens": work.tokens,
        "supervised_tokens": work.supervised_tokens,
        "longest_row": work.longest,
        "steps": run.steps,
        f"{run.unit}_per_step": run.size,
        "processes": work.processes,
        "devices": [_dump_device(one) for one in planned],
    }


def _dump_device(one: Planned) -> dict[str, Any]:
    found, model = one.found, one.model
    content: dict[str, Any] = {
        "name": found.device.name,
        "source": found.device.source,
        "dtype": found.device.dtype,
        "weights": model.weights,
        "trained": model.trained,
        "fused": model.fused,
        "recompute": found.plan.recompute,
        "sharded": found.sharded,
        "micro_batch_tokens": found.plan.tokens,
        "forward_passes_per_step": found.steps.passes,
        "tokens_per_step": found.steps.tokens,
        "flops_per_step": found.steps.training,
        "memory_bytes": {**asdict(found.memory), "total": found.memory.total},
        "verdict": found.verdict,
        "relief": list(one.relief),
    }
    if found.device.size is not None:
        content["device_bytes"] = found.device.size
    if found.time is not None:
        parts = {**{name: getattr(found.time, name) for name in found.time.__slots__}, "total": found.time.total}
        content["seconds"] = {name: [span.least, span.most] for name, span in parts.items()}
        content["tokens_per_second"] = list(found.rates)
    return content
