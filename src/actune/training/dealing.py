"""Which rows a step takes, and which process computes which of them, in which micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actune.config.settings import Settings
from actune.data.global_packs import pack_globally
from actune.data.pack import Batch, RunPlan, pack, plan_step, steps, trim, unroll
from actune.render.tree import TokenTree


def plan_run(settings: Settings, *, rows: int, ranks: int, trees: Sequence[TokenTree] = ()) -> RunPlan:
    """Plan the steps of a run: one consumes batch_size x gradient_accumulation_steps x ranks conversations.

    With `packing` global it consumes so many packs instead, which are made of the `trees` of the rows; these also say
    which sources are to be interleaved.
    """
    training = settings.training
    packs = None
    if training.packing == "global" and len(trees):
        lengths = [len(trim(tree)) for tree in trees]
        capacity = settings.data.max_length if settings.data.max_length > 0 else max(lengths)
        packs = tuple(tuple(sorted(pack)) for pack in pack_globally(lengths, max(capacity, 1)))
        rows = len(packs)
    interleaved = training.row_order == "interleaved" and len(trees) > 0 and packs is None
    plan = steps(
        rows=rows,
        size=training.batch_size * training.gradient_accumulation_steps * ranks,
        epochs=training.num_train_epochs,
        max_steps=training.max_steps,
        seed=training.seed,
        labels=[tree.source.dataset for tree in trees] if interleaved else None,
    )
    return replace(plan, packs=packs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealer:
    """`packed`: rows side by side in a forward pass, else one plain sequence each; `share`: see `pack`.

    `even`: every process gets as many micro-batches as the others; what it lacks are tokens whose loss counts nothing.
    """

    ranks: int
    packed: bool
    share: bool
    even: bool = False

    def plan(self, rows: Sequence[int], trees: Sequence[TokenTree], budget: int) -> list[list[list[int]]]:
        """Return `plan[rank][micro_batch]`, lists of places in `rows`; `budget`: tokens of a micro-batch."""
        trimmed = [trim(trees[row]) for row in rows]
        return plan_step(trimmed, ranks=self.ranks, budget=budget, share=self.share and self.packed)

    def deal(
        self, rows: Sequence[int], trees: Sequence[TokenTree], *, rank: int, budget: int
    ) -> Iterator[tuple[Sequence[int], Batch]]:
        """Yield the micro-batches of a process, each with the rows it holds."""
        plan = self.plan(rows, trees, budget)
        done = 0
        for places in plan[rank]:
            for part in self.lay_out([rows[place] for place in places], trees):
                done += 1
                yield part
        if self.even:
            most = max(self._count(own, rows, trees) for own in plan)
            yield from (([], _idle(trees[rows[0]])) for _ in range(most - done))

    def _count(self, own: Sequence[Sequence[int]], rows: Sequence[int], trees: Sequence[TokenTree]) -> int:
        """Return how many micro-batches a process lays its part of a plan out as."""
        if self.packed:
            return sum(any(len(trim(trees[rows[place]])) for place in places) for places in own)
        lines = (line for places in own for place in places for line in unroll(trees[rows[place]]))
        return sum(len(trim(line)) > 0 for line in lines)

    def lay_out(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> Iterator[tuple[Sequence[int], Batch]]:
        """Yield what some rows are computed as: one pack, or one plain sequence after the other."""
        if self.packed:
            parts = [(rows, pack([trees[row] for row in rows], share=self.share))]
        else:
            parts = [([row], pack([line])) for row in rows for line in unroll(trees[row])]
        yield from ((part, batch) for part, batch in parts if len(batch))


def derive_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for the dropout of one step in one process: resuming needs no state of the generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _idle(tree: TokenTree) -> Batch:
    """Return a batch of one token with a target of weight 0."""
    first = tree.input_ids[:1]
    line = replace(
        tree,
        input_ids=first,
        positions=np.zeros(1, np.int32),
        end=np.ones(1, np.int32),
        target_positions=np.zeros(1, np.int32),
        target_ids=first,
        target_weights=np.ones(1, np.float32),
    )
    return replace(pack([line]), target_weights=np.zeros(1, np.float32))
