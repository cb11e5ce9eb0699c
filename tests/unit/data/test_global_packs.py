"""Packs over all rows: every row once, none too full, few of them."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from actune.data.global_packs import pack_globally


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(min_value=0, max_value=40), max_size=80),
    capacity=st.integers(min_value=1, max_value=40),
)
def test_every_row_is_in_one_pack_that_holds_it(lengths, capacity):
    packs = pack_globally(lengths, capacity)
    assert sorted(place for pack in packs for place in pack) == list(range(len(lengths)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[place] for place in pack) <= capacity
    needed = -(-sum(min(length, capacity) for length in lengths) // capacity)
    assert len(packs) <= max(1, needed * 2) + sum(length == 0 for length in lengths)


def test_packs_of_many_short_rows_are_full():
    rng = random.Random(0)
    lengths = [min(2048, 30 + int(rng.expovariate(1 / 400))) for _ in range(5000)]
    packs = pack_globally(lengths, 2048)
    assert len(packs) <= -(-sum(lengths) // 2048) + 1
    assert packs == pack_globally(lengths, 2048)
