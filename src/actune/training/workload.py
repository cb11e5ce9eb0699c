"""What the steps of a run compute, laid out as the run lays them out: tokens, forward passes, operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actune.data.pack import Batch, RunPlan, trim
from actune.render.tree import TokenTree
from actune.training.dealing import Dealer
from actune.training.flops import Flops

# Rows laid out for an estimate: enough that a mean over steps is known to a few percent, in a second or two.
_ROWS = 4096
_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass: tokens laid out (what rows share once), supervised positions, operations.

    `training`: forward and backward; `forward`: forward alone; `again`: the layers' forward, which recomputation repeats.
    """

    tokens: int
    positions: int
    training: int
    forward: int
    again: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Means over the steps that were laid out (`looked_at` of `steps`); of the busiest process where there are several.

    `rows` and `tokens` (trimmed, each row by itself) of all processes; `laid_out` tokens, `passes`, operations
    `training`, `forward` and `again` of the busiest one. `peaks`: tokens and supervised positions of every forward pass.
    """

    steps: int
    looked_at: int
    rows: float
    tokens: float
    laid_out: float
    passes: float
    training: float
    forward: float
    again: float
    peaks: tuple[tuple[int, int], ...]


def count_steps(
    plan: RunPlan, trees: Sequence[TokenTree], dealer: Dealer, *, budget: int, training: Flops, forward: Flops
) -> Steps:
    """Lay out steps of a run, all of a short one and an even choice of a long one's, and count what they compute.

    `budget`: tokens of a forward pass.
    """
    chosen = choose_steps(plan)
    found = [
        _count(dealer, plan.step(step), trees, budget=budget, training=training, forward=forward) for step in chosen
    ]
    rows = [row for step in chosen for row in plan.step(step)]
    # The last step may be smaller: means are those of a row (or pack), times the rows of the mean step.
    share = plan.total / plan.steps / sum(plan.consumed(step + 1) - plan.consumed(step) for step in chosen)

    def mean(values: Sequence[int]) -> float:
        return sum(values) * share

    return Steps(
        steps=plan.steps,
        looked_at=len(chosen),
        rows=mean([len(rows)]),
        tokens=mean([len(trim(trees[row])) for row in rows]),
        laid_out=mean([max(sum(one.tokens for one in own) for own in step) for step in found]),
        passes=mean([max(len(own) for own in step) for step in found]),
        training=mean([max(sum(one.training for one in own) for own in step) for step in found]),
        forward=mean([max(sum(one.forward for one in own) for own in step) for step in found]),
        again=mean([max(sum(one.again for one in own) for own in step) for step in found]),
        peaks=tuple(sorted({(one.tokens, one.positions) for step in found for own in step for one in own})),
    )


def count_evaluation(
    trees: Sequence[TokenTree], dealer: Dealer, *, budget: int, training: Flops, forward: Flops
) -> float:
    """Return the operations of one evaluation of some rows in the busiest process."""
    if not trees:
        return 0.0
    some = trees if len(trees) <= _ROWS else trees[:: -(-len(trees) // _ROWS)]
    found = _count(dealer, range(len(some)), some, budget=budget, training=training, forward=forward)
    return max(sum(one.forward for one in own) for own in found) * len(trees) / len(some)


def choose_steps(plan: RunPlan) -> list[int]:
    """Return which steps are laid out: all, or the middles of equal parts of the run."""
    count = min(plan.steps, max(_STEPS, _ROWS // plan.size))
    return [(2 * part + 1) * plan.steps // (2 * count) for part in range(count)]


def _count(
    dealer: Dealer,
    rows: Sequence[int],
    trees: Sequence[TokenTree],
    *,
    budget: int,
    training: Flops,
    forward: Flops,
) -> list[list[Pass]]:
    """Return the forward passes of each process."""
    layers = replace(forward, position=0)
    return [
        [
            _measure(batch, training, forward, layers)
            for chosen, batch in dealer.deal(rows, trees, rank=rank, budget=budget)
            if chosen
        ]
        for rank in range(dealer.ranks)
    ]


def _measure(batch: Batch, training: Flops, forward: Flops, layers: Flops) -> Pass:
    return Pass(
        tokens=len(batch),
        positions=len(set(batch.target_positions.tolist())),
        training=training.count(batch),
        forward=forward.count(batch),
        again=layers.count(batch),
    )
