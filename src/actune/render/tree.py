"""The token tree: all (prompt, completion) pairs of a conversation, merged by common prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actune.core.types import Source

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSequence:
    """One training sequence: `ids` = prompt + completion; `weights[i]` is the loss weight of predicting ids[start + i]."""

    ids: Sequence[int]
    start: int
    weights: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Tokens laid out depth first (T tokens, S targets).

    `input_ids` [T], `positions` [T] (depth of the token in its branch), `end` [T] (index after the last token of the
    subtree that starts there): token q sees token k iff k <= q < end[k]. A target says: from the token at
    `target_positions[s]`, predict `target_ids[s]` with weight `target_weights[s]`.
    """

    input_ids: Ints
    positions: Ints
    end: Ints
    target_positions: Ints
    target_ids: Ints
    target_weights: Floats
    source: Source

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def has_branches(self) -> bool:
        """Whether some token is followed by more than one continuation."""
        return len(self.positions) > 0 and int(self.positions[-1]) != len(self.positions) - 1
