"""Probes: a few outputs of the model as it is while it is trained, scored by whoever hands in the probe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from actune.core.errors import ActuneError
from actune.modeling.adapters import unwrap
from actune.modeling.attention import ATTENTION, use_attention
from actune.modeling.load import release_memory
from actune.training.evaluation import Found
from actune.training.ranks import Ranks
from actune.training.recovery import is_out_of_memory

# Takes the model in evaluation mode with its own attention; returns scores by name, higher is better.
Probe = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """`active`: some process has a probe; `attention`: the model's own, which generating needs; `autocast`: dtype of products of weights kept in fp32."""

    model: nn.Module
    probe: Probe | None
    active: bool
    attention: str
    autocast: torch.dtype | None
    ranks: Ranks

    @classmethod
    def of(
        cls, model: nn.Module, probe: Probe | None, *, attention: str, autocast: torch.dtype | None, ranks: Ranks
    ) -> Prober:
        """Make one in every process; only the leading one needs a probe."""
        active = ranks.sum([float(probe is not None and ranks.leads)])[0] > 0
        return cls(model=model, probe=probe, active=active, attention=attention, autocast=autocast, ranks=ranks)

    def measure(self) -> Found:
        """Return `probe/<name>` of the model as it is; it is left in training mode, and training goes on as without.

        All processes call this together; the leading one probes, the others wait and get what it found. A probe that
        fails (an item that cannot be shown to the model, no memory) is a notice, not the end of the run.
        """
        if not self.active:
            return Found(values={}, notices=())
        text = ""
        with self.ranks.together("probing the model"):
            if self.probe is not None and self.ranks.leads:
                text = json.dumps(self._run(self.probe))
        values, notices = json.loads(self.ranks.broadcast_text(text) or "[{}, []]")
        return Found(values=values, notices=tuple(notices))

    def _run(self, probe: Probe) -> tuple[dict[str, float], list[str]]:
        try:
            with self._prepare():
                found = probe(self.model)
        except ActuneError as error:
            return {}, [f"the model is not probed: {error.message}"]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release_memory()
            return {}, ["the model is not probed: out of memory; fewer --probe_items or --probe_tokens take less"]
        return {f"probe/{name}": float(value) for name, value in found.items()}, []

    @contextmanager
    def _prepare(self) -> Iterator[None]:
        """Put the model into the state in which it generates, and back."""
        inner, device = unwrap(self.model), self.ranks.device
        packed = inner.config._attn_implementation == ATTENTION
        autocast = torch.autocast(device.type, self.autocast) if self.autocast is not None else nullcontext()
        self.model.eval()
        if packed:
            use_attention(inner, self.attention)
        try:
            # Each step seeds the generators of all devices anew; that of the CPU is kept for whoever counts on it besides.
            with torch.random.fork_rng([]), torch.no_grad(), autocast:
                yield
        finally:
            if packed:
                use_attention(inner, ATTENTION)
            self.model.train()
