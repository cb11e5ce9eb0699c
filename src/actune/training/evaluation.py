"""The loss over rows that are held back, added up over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from actune.render.tree import TokenTree
from actune.training.dealing import Dealer
from actune.training.ranks import Ranks
from actune.training.recovery import Shortage
from actune.training.step import StepInput, TrainStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sum of weight x negative log-likelihood, and sum of weights, over all processes."""

    loss: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """`packed`: the model keeps packed rows apart, else it gets one plain sequence a forward pass."""

    step_module: TrainStep
    dealer: Dealer
    ranks: Ranks
    packed: bool

    @torch.no_grad()
    def measure(
        self, trees: Sequence[TokenTree], *, budget: int, cut: Callable[[Shortage | None, int], int]
    ) -> tuple[Sums, int]:
        """Return the sums over all targets of some rows, and the tokens of a forward pass that did fit.

        All processes call this together. `budget`: tokens of a forward pass; where that does not fit, `cut` is given
        what did not and the budget, and returns a smaller one. The model is left in training mode.
        """
        self.step_module.model.eval()
        while True:
            loss, weight, shortage = self._add_up(trees, budget)
            loss, weight, short = self.ranks.sum([loss, weight, float(shortage is not None)])
            if not short:
                break
            budget = cut(shortage, budget)
        self.step_module.model.train()
        return Sums(loss=loss, weight=weight), budget

    def _add_up(self, trees: Sequence[TokenTree], budget: int) -> tuple[float, float, Shortage | None]:
        """Return this process's sums of loss and weight, and what did not fit."""
        losses, weights = [], []
        for chosen, batch in self.dealer.deal(range(len(trees)), trees, rank=self.ranks.rank, budget=budget):
            try:
                inputs = StepInput.of(batch, self.ranks.device, packed=self.packed)
                total, weight = self.step_module(inputs)
            except (RuntimeError, MemoryError) as error:
                return 0.0, 0.0, Shortage.of(error, rows=len(chosen), batch=batch)
            losses.append(float(total))
            weights.append(float(weight))
        return math.fsum(losses), math.fsum(weights), None
