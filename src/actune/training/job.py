"""What the training loop is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actune.config.settings import Settings
from actune.modeling.fused.decoder import Decoder
from actune.render.tree import TokenTree
from actune.training.memory import MemoryPlan
from actune.training.probing import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained on, and where results go.

    `validation` rows make the evaluation loss; `held_out` rows are evaluated beside them, each source by itself.
    `probe` measures the model then, generating with `attention`, the model's own.
    `packed`: the model keeps packed rows apart (else one plain sequence a forward pass). `memory`: tokens of a
    forward pass. `decoder`: computes the model (None: its own forward pass does). `autocast`: dtype of matrix
    products where weights are kept in fp32. `save_extra` copies tokenizer files into a folder of weights.
    """

    settings: Settings
    train: Sequence[TokenTree]
    validation: Sequence[TokenTree]
    held_out: Sequence[TokenTree]
    run_dir: Path
    fingerprint: str
    packed: bool
    memory: MemoryPlan
    probe: Probe | None = None
    attention: str = "sdpa"
    decoder: Decoder | None = None
    resume_from: Path | None = None
    autocast: torch.dtype | None = None
    save_extra: Callable[[Path], None] = lambda _folder: None
    say: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """`folder`: the trained weights (`adapter/` or `model/`). Losses are None where no step had one."""

    steps: int
    first_loss: float | None
    last_loss: float | None
    eval_loss: float | None
    seconds: float
    folder: Path
