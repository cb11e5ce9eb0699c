"""The loss over rows that are held back, of each source and as a whole, added up over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from actune.data.labels import label_sources
from actune.render.tree import TokenTree
from actune.training.dealing import Dealer
from actune.training.ranks import Ranks
from actune.training.recovery import Shortage, explain_sharded
from actune.training.step import StepInput, TrainStep

# Given what did not fit and the tokens of a forward pass, returns fewer.
Cut = Callable[[Shortage | None, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows of one source; `counts`: they are validation rows, so part of `loss`, else they only have a loss of their own."""

    name: str
    trees: tuple[TokenTree, ...]
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an evaluation found: values by name (`loss`, `loss/<source>`), and what there is to say about missing ones."""

    values: Mapping[str, float]
    notices: tuple[str, ...]


def group_rows(validation: Sequence[TokenTree], others: Sequence[TokenTree]) -> tuple[Group, ...]:
    """Group rows by source, validation rows first; a source that has rows of both kinds makes two groups of one name."""
    rows = [*((tree, True) for tree in validation), *((tree, False) for tree in others)]
    labels = label_sources([tree.source for tree, _ in rows])
    found: dict[tuple[str, bool], list[TokenTree]] = {}
    for label, (tree, counts) in zip(labels, rows, strict=True):
        found.setdefault((label, counts), []).append(tree)
    return tuple(Group(name=name, trees=tuple(trees), counts=counts) for (name, counts), trees in found.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """`packed`: the model keeps packed rows apart, else it gets one plain sequence a forward pass."""

    step_module: TrainStep
    dealer: Dealer
    ranks: Ranks
    packed: bool
    groups: tuple[Group, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((len(tree) for group in self.groups for tree in group.trees), default=0)

    @torch.no_grad()
    def measure(self, *, budget: int, cut: Cut) -> Found:
        """Return the weighted mean losses of the model as it is; it is left in training mode.

        All processes call this together and get the same. `budget`: tokens of a forward pass.
        """
        sums: dict[str, list[float]] = {}
        self.step_module.model.eval()
        for group in self.groups:
            loss, weight, budget = self._add_up(group.trees, budget, cut)
            for name in (f"loss/{group.name}", *(("loss",) if group.counts else ())):
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += loss
                total[1] += weight
        self.step_module.model.train()
        return _divide(sums)

    def _add_up(self, trees: Sequence[TokenTree], budget: int, cut: Cut) -> tuple[float, float, int]:
        """Return the sums of loss and weight over all processes, and the tokens of a forward pass that did fit."""
        while True:
            loss, weight, shortage = self._add_own(trees, budget)
            loss, weight, short = self.ranks.sum([loss, weight, float(shortage is not None)])
            if not short:
                return loss, weight, budget
            budget = cut(shortage, budget)

    def _add_own(self, trees: Sequence[TokenTree], budget: int) -> tuple[float, float, Shortage | None]:
        """Return this process's sums of loss and weight, and what did not fit."""
        losses, weights = [], []
        for chosen, batch in self.dealer.deal(range(len(trees)), trees, rank=self.ranks.rank, budget=budget):
            try:
                inputs = StepInput.of(batch, self.ranks.device, packed=self.packed)
                total, weight = self.step_module(inputs)
            except (RuntimeError, MemoryError) as error:
                if self.dealer.even:  # the others wait in the middle of this forward pass
                    raise explain_sharded(error, what="the evaluation") from error
                return 0.0, 0.0, Shortage.of(error, rows=len(chosen), batch=batch)
            losses.append(float(total))
            weights.append(float(weight))
        return math.fsum(losses), math.fsum(weights), None


def _divide(sums: Mapping[str, Sequence[float]]) -> Found:
    values, notices = {}, []
    # `loss` first: it is what people look for.
    for name in sorted(sums, key=lambda name: name != "loss"):
        loss, weight = sums[name]
        if weight == 0:
            notices.append(f"no evaluation row has a token with loss weight: no {name}")
        elif not math.isfinite(loss):
            notices.append(f"the evaluation {name} is no finite number; it is left out")
        else:
            values[name] = loss / weight
    return Found(values=values, notices=tuple(notices))
