from __future__ import annotations

import numpy as np
import pytest

from actune.training.dealing import Dealer


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_even_processes_get_as_many_micro_batches_and_the_same_targets(kit, packed, count):
    trees = kit.build_rows(count)
    trees[-1].target_weights[:] = 0.0 if count > 1 else 1.0  # a row that takes no room
    rows = list(range(count))

    def deal(*, even):
        dealer = Dealer(ranks=3, packed=packed, share=False, even=even)
        return [list(dealer.deal(rows, trees, rank=rank, budget=30)) for rank in range(3)]

    plain, even = deal(even=False), deal(even=True)
    assert len({len(parts) for parts in even}) == 1
    assert len(even[0]) == max(map(len, plain))
    for parts, reference in zip(even, plain, strict=True):
        for (chosen, batch), (wanted, other) in zip(parts, reference, strict=False):
            assert chosen == wanted
            assert np.array_equal(batch.input_ids, other.input_ids)
        for chosen, batch in parts[len(reference) :]:
            assert chosen == []
            assert len(batch) == 1
            assert batch.target_weights.tolist() == [0.0]
