"""Memory and time of a run on a device that need not be there: pure functions of shapes, lengths and data sheets.

The formulas, with symbols, sources and what they were checked against, stand in docs/planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from actune.config.gpus import Gpu
from actune.config.settings import Settings
from actune.data.pack import RunPlan
from actune.render.tree import TokenTree
from actune.training.dealing import Dealer, plan_run
from actune.training.memory import USABLE, MemoryPlan, StepMemory, plan_memory
from actune.training.outline import Outline, bytes_in_4_bits
from actune.training.recovery import list_relief, say_bytes
from actune.training.shards import fills_device
from actune.training.workload import Steps, count_evaluation, count_steps

# Share of the peak that products of a whole step reach, what is computed again included. Accelerators: published
# single-device runs, docs/planning.md; CPU: share of one measured product, benchmarks/plan.py
# and, for the lower end, the demo's model of 3 M weights.
EFFICIENCY = (0.35, 0.60)
EFFICIENCY_CPU = {"fp32": (0.20, 0.85), "bf16": (0.15, 0.60)}
# Bytes of an update for each trained number: AdamW reads weight, gradient and two moments and writes weight and moments.
_UPDATE = 28
# Reading weights and writing checkpoints: a solid-state disk. Start of the process: libraries, trials on the model.
_DISK = 1e9
_START, _START_CPU = 20.0, 5.0
# Resident on the CPU before a model is loaded: Python, torch, transformers, peft; and what the C library's heap does not
# give back, a share of what a forward pass keeps (benchmarks/plan.py).
_LIBRARIES_CPU, _HEAP_CPU = 2**29, 0.15
# Seconds that one layer takes at least, forward and backward, however few tokens: an accelerator waits for the program that
# feeds it. From the shortest rows of published runs by a model's own layers (docs/planning.md); of 4-bit layers more.
_LAYER_SECONDS, _LAYER_SECONDS_4_BITS = 0.005, 0.012
# Share of a device that weights, gradients and moments should leave room for activations in.
_FIXED_SHARE = 0.6


Verdict = Literal["fits", "tight", "does not fit", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a plan knows of a device.

    `dtype`: of products on it (bf16, fp16, fp32). `size`: bytes of its memory, None: not known. `rate`: FLOP/s of products in the dtype that is used there, 0: not known.
    `bandwidth`: bytes a second, 0: not known. `efficiency`: share of `rate`, least and most. `cpu`: whether it is the CPU.
    """

    name: str
    dtype: str
    size: int | None
    rate: float
    bandwidth: float
    source: str
    efficiency: tuple[float, float] = EFFICIENCY
    cpu: bool = False

    @classmethod
    def of(cls, gpu: Gpu, dtype: str) -> Device:
        """Return a device by its data sheet; `dtype`: bf16, fp16 or fp32."""
        return cls(
            name=gpu.name,
            dtype=dtype,
            size=int(gpu.memory * 2**30),
            rate=gpu.rate(dtype),
            bandwidth=gpu.bandwidth * 1e9,
            source=gpu.source,
        )

    def in_dtype(self, dtype: str) -> Device:
        """Return the same device with products in another dtype at the same rate."""
        return replace(self, dtype=dtype)

    @property
    def kind(self) -> torch.device:
        """The CPU, or one that stands for any accelerator."""
        return torch.device("cpu" if self.cpu else "meta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the fullest moment of a step on one device.

    `copies`: rows of tokens, weights cast or put together. `activations` and `logits` are those of the largest forward
    pass; `libraries`: what programs hold before a model is loaded, and do not give back (CPU).
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    logits: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        parts = (self.weights, self.gradients, self.moments, self.copies, self.activations, self.logits)
        return sum(parts) + self.libraries


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Seconds, least and most."""

    least: float
    most: float

    def __add__(self, other: Span) -> Span:
        return Span(least=self.least + other.least, most=self.most + other.most)

    def times(self, factor: float) -> Span:
        """Return so many of it."""
        return Span(least=self.least * factor, most=self.most * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Seconds of a run by its parts; `step`: one of them."""

    start: Span
    step: Span
    training: Span
    evaluations: Span
    saves: Span

    @property
    def total(self) -> Span:
        """All of it."""
        return self.start + self.training + self.evaluations + self.saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A run on one kind of device. `time` is None where the device's peak is not known.

    `plan`: tokens of a forward pass and whether activations are recomputed; `verdict`: fits, tight (it needs memory that
    is best left free) or not. `sharded`: weights are spread over the processes.
    """

    device: Device
    processes: int
    sharded: bool
    plan: MemoryPlan
    steps: Steps
    memory: Memory
    verdict: Verdict
    time: Time | None

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens of the rows a second over all processes, least and most; 0 where the time is not known."""
        if self.time is None:
            return 0.0, 0.0
        return self.steps.tokens / self.time.step.most, self.steps.tokens / self.time.step.least


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a run computes, whatever the device: `run` says which rows its steps take.

    `train`: its rows; `evaluated`: those evaluated beside; `tokens`, `supervised_tokens`: of all trained rows; `longest`:
    tokens of the longest.
    """

    processes: int
    run: RunPlan
    train: Sequence[TokenTree]
    evaluated: Sequence[TokenTree]
    tokens: int
    supervised_tokens: int
    longest: int

    @classmethod
    def of(
        cls,
        settings: Settings,
        train: Sequence[TokenTree],
        evaluated: Sequence[TokenTree] = (),
        *,
        processes: int = 1,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Workload:
        """Plan the steps and count the rows; `sizes`: tokens and supervised tokens of each, where they are known."""
        known = sizes if sizes is not None else [(len(tree), len(tree.target_ids)) for tree in train]
        return cls(
            processes=processes,
            run=plan_run(settings, rows=len(train), ranks=processes, trees=train),
            train=train,
            evaluated=evaluated,
            tokens=sum(size for size, _ in known),
            supervised_tokens=sum(count for _, count in known),
            longest=max(size for size, _ in known),
        )

    @property
    def share(self) -> float:
        """Share of the tokens that are supervised."""
        return self.supervised_tokens / max(1, self.tokens)


def estimate(settings: Settings, model: Outline, work: Workload, device: Device) -> Estimate:
    """Estimate memory and time of a run. The outline has the compute dtype and the kind of the device."""
    sharded = wants_shards(settings, model, device, processes=work.processes)
    parts = work.processes if sharded else 1
    memory = spread(model, parts) if sharded else model.memory
    plan = plan_memory(
        settings, memory, device=device.kind, longest=work.longest, supervised=work.share, size=device.size
    )
    dealer = Dealer(
        ranks=work.processes,
        packed=settings.training.packing != "false",
        share=settings.training.share_prefixes,
    )
    training, forward = model.training, model.forward
    steps = count_steps(work.run, work.train, dealer, budget=plan.tokens, training=training, forward=forward)
    evaluation = count_evaluation(work.evaluated, dealer, budget=plan.tokens, training=training, forward=forward)
    # The longest row may lie in a step that was not laid out.
    peaks = (*steps.peaks, (work.longest, int(work.longest * work.share)))
    full = split_memory(model, memory, peaks, recompute=plan.recompute, processes=parts)
    if device.cpu:
        full = replace(full, libraries=_LIBRARIES_CPU + int(_HEAP_CPU * (full.activations + full.logits)))
    return Estimate(
        device=device,
        processes=work.processes,
        sharded=sharded,
        plan=plan,
        steps=steps,
        memory=full,
        verdict=judge(full.total, device.size),
        time=estimate_time(
            settings, model, steps, device, recompute=plan.recompute, evaluation=evaluation, parts=parts
        ),
    )


def wants_shards(settings: Settings, model: Outline, device: Device, *, processes: int) -> bool:
    """Decide setting `fsdp` as the run will."""
    if settings.tuning.sft_type != "full" or processes == 1 or settings.training.fsdp == "false":
        return False
    if settings.training.fsdp == "true" or device.cpu or device.size is None:
        return settings.training.fsdp == "true"
    return fills_device(model.model, device.size)


def spread(model: Outline, processes: int) -> StepMemory:
    """Return the bytes of a step in each of several processes that share weights, gradients and moments."""
    own = (model.stored + 12 * model.trained) // processes
    return replace(model.memory, fixed=own + _copies(model) + model.gathered)


def _copies(model: Outline) -> int:
    """Return the bytes of copies of weights; those that autocast makes are whole also where weights are spread."""
    return model.memory.fixed - model.stored - 12 * model.trained


def split_memory(
    model: Outline, memory: StepMemory, peaks: Sequence[tuple[int, int]], *, recompute: bool, processes: int
) -> Memory:
    """Return what fills the memory in the largest of some forward passes (tokens, supervised positions).

    `processes`: over how many weights are spread.
    """
    tokens, positions = max(
        peaks, key=lambda peak: memory.total(tokens=peak[0], supervised=peak[1], recompute=recompute)
    )
    activations = memory.total(tokens=tokens, supervised=0, recompute=recompute) - memory.fixed
    trained = model.trained // processes
    weights, gradients, moments = model.stored // processes, 4 * trained, 8 * trained
    return Memory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        copies=memory.fixed - weights - gradients - moments,
        activations=activations,
        logits=memory.total(tokens=tokens, supervised=positions, recompute=recompute) - memory.fixed - activations,
    )


def judge(needed: int, size: int | None) -> Verdict:
    """Say whether so many bytes fit a device of a size."""
    if size is None:
        return "unknown"
    # Supervised positions of one forward pass may be a little more than the mean that was planned with.
    return "fits" if needed <= 1.02 * USABLE * size else "tight" if needed <= size else "does not fit"


def estimate_time(
    settings: Settings,
    model: Outline,
    steps: Steps,
    device: Device,
    *,
    recompute: bool,
    evaluation: float,
    parts: int,
) -> Time | None:
    """Estimate seconds, None where the peak of the device is not known.

    `evaluation`: operations of one evaluation; `parts`: over how many processes the update is spread.
    """
    if not device.rate:
        return None

    def compute(operations: float) -> Span:
        least, most = device.efficiency
        return Span(least=operations / (device.rate * most), most=operations / (device.rate * least))

    output = settings.output
    passes = steps.passes * _move_weights(model, recompute=recompute)
    moved = _UPDATE * model.trained / parts + passes
    still = moved / device.bandwidth if device.bandwidth else 0.0
    step = compute(steps.training + (steps.again if recompute else 0)) + Span(least=still, most=still)
    if not device.cpu:
        layer = _LAYER_SECONDS_4_BITS if model.quantized else _LAYER_SECONDS
        step = replace(step, most=max(step.most, steps.passes * model.memory.layers * layer))
    saved = 12 * model.trained / _DISK
    saves = saved * count_times(steps.steps, output.save_steps or steps.steps)
    start = (_START_CPU if device.cpu else _START) + 2 * model.weights / _DISK
    return Time(
        start=Span(least=start, most=start),
        step=step,
        training=step.times(steps.steps),
        evaluations=compute(evaluation).times(count_times(steps.steps, output.eval_steps)),
        saves=Span(least=saves, most=saves),
    )


def _move_weights(model: Outline, *, recompute: bool) -> float:
    """Return the bytes that a forward pass and its backward pass move to make weights ready for products."""
    turns = 2 if recompute else 1
    # Full fine-tuning: fp32 weights are read and cast, once a forward pass. 4 bits: read and written out in half
    # precision, for the gradients of inputs once more.
    cast = 3 * _copies(model) if model.trained == model.weights else 0
    return turns * cast + (turns + 1) * 2.5 * model.quantized


def count_times(steps: int, every: int) -> int:
    """Return how often something is done that is done every so many steps and at the end; 0: never."""
    return -(-steps // every) if every else 0


def relieve(settings: Settings, model: Outline, found: Estimate, work: Workload) -> list[str]:
    """Say which settings would free about how much where a run does not fit."""
    tuning, size, memory = settings.tuning, found.device.size or 0, model.memory
    recompute = found.plan.recompute
    row = (work.longest, int(work.longest * work.share))
    tokens, positions = max(*found.steps.peaks, row)
    lines = list_relief(
        model.model, settings, tokens=tokens, supervised=positions, fused=model.fused, recompute=recompute
    )
    if tokens > row[0]:  # several rows: they need not lie in one forward pass
        lines = [line for line in lines if not line.startswith("--max_length")]
        saved = memory.total(tokens=tokens, supervised=positions, recompute=recompute) - memory.total(
            tokens=row[0], supervised=row[1], recompute=recompute
        )
        lines.append(f"--micro_batch_tokens {row[0]}: about {say_bytes(saved)}")
    if tuning.sft_type == "lora" and not tuning.quant_bits:
        itemsize = 4 if found.device.dtype == "fp32" else 2
        saved = int(model.matrices * (itemsize - bytes_in_4_bits(tuning)))
        lines.append(f"--quant_bits 4: about {say_bytes(saved)}")
    if tuning.sft_type == "full" and not found.sharded:
        for processes in (2, 4, 8, 16, 32):
            fixed = spread(model, processes).fixed
            if processes > found.processes and (fixed <= _FIXED_SHARE * size or processes == 32):
                saved = memory.fixed - fixed
                lines.append(f"--fsdp auto over {processes} devices: about {say_bytes(saved)} on each")
                break
    return lines
