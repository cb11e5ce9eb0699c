"""Out of memory: which errors mean it, how small micro-batches became because of it, and what would free how much."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from actune.config.settings import Settings
from actune.core.errors import CheckpointError, TrainingError
from actune.core.files import atomic_text
from actune.data.pack import Batch
from actune.modeling.adapters import unwrap
from actune.training.checkpoint import State
from actune.training.memory import StepMemory
from actune.training.ranks import Ranks

FILE = "memory.json"
_VERSION = 1
# How back ends word it where they do not raise torch.OutOfMemoryError. oneDNN says of a product that lacks memory only
# that it "could not create a primitive" or "a memory object" (seen under a limit of the address space).
_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "not enough memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "could not create a memory object",
)

Kind = Literal["train", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """From a step on (counted from 1), or the evaluation after it, a forward pass takes at most so many tokens."""

    kind: Kind
    step: int
    micro_batch_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A micro-batch of so many rows that did not fit, and what was said."""

    rows: int
    batch: Batch
    message: str

    @classmethod
    def of(cls, error: BaseException, *, rows: int, batch: Batch) -> Shortage:
        """Take what an error says; one that does not say that memory is lacking is raised again."""
        if not is_out_of_memory(error):
            raise error
        return cls(rows=rows, batch=batch, message=str(error).partition("\n")[0])


class Budgets:
    """Tokens of one forward pass: as set, until that did not fit; then less, for the rest of the run.

    Cuts are kept with the step they began at, in `memory.json` and in checkpoints: dropout depends on how rows are
    split, so a resumed run has to split every step as it was split.
    """

    def __init__(self, run_dir: Path, *, writes: bool) -> None:
        """Start without cuts; `writes`: this process writes `memory.json` of the run."""
        self._path = run_dir / FILE
        self._writes = writes
        self._cuts: tuple[Cut, ...] = ()

    def limit(self, wanted: int, *, kind: Kind, step: int) -> int:
        """Return the tokens of a forward pass in a step (counted from 1), or after it, where `wanted` is set."""
        return min([wanted, *(cut.micro_batch_tokens for cut in self._cuts if cut.kind == kind and cut.step <= step)])

    def cut(self, shortage: Shortage | None, *, wanted: int, kind: Kind, step: int, ranks: Ranks) -> int | None:
        """Return how many tokens a forward pass may take from a step on, None where a single row does not fit.

        All processes call this together, each with the micro-batch of its own that did not fit, if any. Half of what
        failed is tried: repeated, that ends at micro-batches of one row.

        Raises:
            CheckpointError: `memory.json` cannot be written.
            TrainingError: it cannot, in the leading process.
        """
        halves, singles = [0.0] * ranks.size, 0.0
        if shortage is not None and shortage.rows > 1:
            halves[ranks.rank] = max(1, len(shortage.batch) // 2)
        elif shortage is not None:
            singles = 1.0
        *halves, singles = ranks.sum([*halves, singles])
        if singles:
            return None
        budget = min(wanted, *(int(value) for value in halves if value))
        self._cuts = (*self._cuts, Cut(kind=kind, step=step, micro_batch_tokens=budget))
        with ranks.together("noting what did not fit"):
            if self._writes:
                content = {"version": _VERSION, "cuts": self.dump()}
                atomic_text(self._path, json.dumps(content, indent=1) + "\n")
        return budget

    def dump(self) -> tuple[dict[str, Any], ...]:
        """Return the cuts for `state.json`."""
        return tuple(asdict(cut) for cut in self._cuts)

    def restore(self, state: State | None, settings: Settings, *, ranks: Ranks) -> None:
        """Take over the cuts of a checkpoint, and those of this run after its step; none where the setting changed.

        All processes call this together and get what the leading one finds.

        Raises:
            CheckpointError: `memory.json` is damaged.
            TrainingError: it is, in the leading process.
        """
        with ranks.together("reading what did not fit"):
            if ranks.leads:
                saved = state.settings.get("training", {}) if state is not None else {}
                now = settings.training.micro_batch_tokens
                if saved.get("micro_batch_tokens", now) != now:
                    self._path.unlink(missing_ok=True)
                else:
                    self._cuts = self._read(state)
        text = ranks.broadcast_text(json.dumps(self.dump()))
        self._cuts = tuple(Cut(**cut) for cut in json.loads(text))

    def _read(self, state: State | None) -> tuple[Cut, ...]:
        own: Sequence[Cut] = ()
        try:
            kept = [Cut(**cut) for cut in (state.cuts if state is not None else ())]
            if self._path.exists():
                own = [Cut(**cut) for cut in json.loads(self._path.read_text(encoding="utf-8"))["cuts"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._path} cannot be read: {error!r}",
                fix="remove it: micro-batches are made smaller again when they do not fit",
            ) from error
        done = state.step if state is not None else 0
        return (*kept, *(cut for cut in own if cut.step > done))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is lacking, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def explain_shortage(
    model: nn.Module, settings: Settings, shortage: Shortage | None, *, step: int, fused: bool = False
) -> TrainingError:
    """Return the error for a row that does not fit by itself: which of the settings would free about how much."""
    device = next(model.parameters()).device
    if shortage is None or shortage.rows > 1:
        return TrainingError(
            f"step {step}: a row by itself does not fit the memory of another process, which says more"
        )
    batch = shortage.batch
    relief = list_relief(model, settings, tokens=len(batch), supervised=len(batch.target_ids), fused=fused)
    return TrainingError(
        f"step {step}: one row of {len(batch):,} tokens does not fit the memory of {device} by itself, so smaller "
        f"micro-batches do not help: {shortage.message}",
        fix="one of these, with what it would free by a rough model:\n  - " + "\n  - ".join(relief),
    )


def explain_sharded(error: BaseException, *, what: str) -> TrainingError:
    """Return the error for a forward pass that does not fit while weights are spread over processes.

    The others are in the middle of putting a layer together and cannot begin the step again.
    """
    if not is_out_of_memory(error):
        raise error
    return TrainingError(
        f"{what}: a forward pass does not fit the memory: {str(error).partition(chr(10))[0]}",
        fix="set --micro_batch_tokens to less, or --gradient_checkpointing true, and go on with --resume auto",
    )


def explain_update(error: BaseException, *, step: int) -> TrainingError:
    """Return the error for an update of weights that does not fit, which no smaller micro-batch helps."""
    if not is_out_of_memory(error):
        raise error
    return TrainingError(
        f"step {step}: the optimiser's state does not fit the memory: {str(error).partition(chr(10))[0]}",
        fix="train fewer weights (--sft_type lora, a smaller --lora_rank, fewer --lora_target_modules); the last "
        "checkpoint is intact, and --resume auto goes on from it",
    )


def list_relief(
    model: nn.Module,
    settings: Settings,
    *,
    tokens: int,
    supervised: int,
    fused: bool = False,
    recompute: bool | None = None,
) -> list[str]:
    """Say what would free about how much in a step that holds one row, by the byte model of a step.

    `recompute`: whether activations are recomputed; unless given, whether the model's own layers are set to that.
    """
    inner = unwrap(model)
    full = settings.tuning.sft_type == "full"
    compute = next(model.parameters()).dtype

    def estimate(tokens: int, supervised: int, kind: torch.dtype = compute, *, recompute: bool = False) -> int:
        memory = StepMemory.of(model, compute=kind, fused=fused, dropout=settings.tuning.lora_dropout_p > 0)
        return memory.total(tokens=tokens, supervised=supervised, recompute=recompute) - memory.fixed

    recomputes = recompute
    if recomputes is None:
        recomputes = any(getattr(module, "gradient_checkpointing", False) for module in inner.modules())
    activations, logits = estimate(tokens, 0, recompute=recomputes), estimate(0, supervised)
    found = []
    if not recomputes and inner.supports_gradient_checkpointing:
        kept = estimate(tokens, 0, recompute=True)
        found.append(("--gradient_checkpointing true", activations - kept))
    found.append((f"--max_length {tokens // 2} (leaves longer rows out)", (activations + logits) // 2))
    if compute == torch.float32 and settings.model.dtype == "fp32":
        halved = activations - estimate(tokens, 0, torch.bfloat16, recompute=recomputes)
        stored = 0 if full else sum(weight.numel() * 2 for weight in model.parameters() if not weight.requires_grad)
        found.append(("--dtype bf16", halved + stored))
    if full:
        found.append(("--sft_type lora", 12 * sum(weight.numel() for weight in model.parameters())))
    elif not fused and settings.tuning.lora_target_modules != ("DEFAULT",):
        found.append(("--lora_target_modules DEFAULT (fewer layers keep their input), at most", activations // 2))
    return [f"{name}: about {say_bytes(size)}" for name, size in found if size > 0]


def say_bytes(size: int) -> str:
    """Write bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
