"""From logits to a token. Needs torch; only `local.py` uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actune.agents.engines.engine import Sampling
from actune.core.errors import ConfigError, ModelError


class Chooser:
    """Chooses the tokens of one output; with the same logits and seed the same ones, whatever else is generated."""

    def __init__(self, sampling: Sampling) -> None:
        """Seed a generator of its own.

        Raises:
            ConfigError: a temperature below 0 or a top_p outside (0, 1].
        """
        if not sampling.temperature >= 0:
            raise ConfigError(f"temperature is {sampling.temperature}", fix="use 0 (greedy) or more")
        if not 0 < sampling.top_p <= 1:
            raise ConfigError(f"top_p is {sampling.top_p}", fix="use a number above 0 and at most 1")
        self.greedy = sampling.temperature == 0
        self._sampling = sampling
        self._random = torch.Generator().manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """Return a token drawn from logits [vocabulary]."""
        scaled = (logits.double() - logits.max().double()) / self._sampling.temperature
        chances, order = torch.softmax(scaled, dim=-1).sort(descending=True, stable=True)
        total = chances.cumsum(-1)
        # The smallest set of likeliest tokens that reaches top_p.
        size = int((total < self._sampling.top_p).sum()) + 1
        total = total[:size]
        point = torch.rand((), generator=self._random, dtype=torch.float64).to(total.device) * total[-1]
        place = min(int(torch.searchsorted(total, point, right=True)), len(total) - 1)
        return int(order[place])


def choose_tokens(choosers: Sequence[Chooser], logits: Tensor) -> list[int]:
    """Return a token for each row of logits [rows, vocabulary].

    Raises:
        ModelError: the logits are no numbers.
    """
    highest, tokens = logits.max(dim=-1)
    if not bool(torch.isfinite(highest).all()):
        raise ModelError(
            "the model gives logits that are no finite numbers",
            fix="load it with --dtype fp32 or bf16; if it stays so, its weights are broken",
        )
    chosen = tokens.tolist()
    for row, chooser in enumerate(choosers):
        if not chooser.greedy:
            chosen[row] = chooser.draw(logits[row])
    return chosen
