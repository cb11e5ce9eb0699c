"""Log-likelihoods of continuations; a prompt that several share is computed once. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from actune.agents.engines.forward import ForwardPass
from actune.agents.engines.kv import PrefixStore, build_cache

# Logits that a scoring pass may hold at once, in positions: 2048 of a vocabulary of 150,000 are 1.2 GB in fp32.
_SCORED_POSITIONS = 2048


class Scorer:
    """Scores (prompt ids, continuation ids) with one model, `batch_size` at a time."""

    def __init__(self, forward: ForwardPass, store: PrefixStore, *, batch_size: int) -> None:
        """Use keys and values from `store`, and keep those of shared prompts there."""
        self._forward = forward
        self._store = store
        self._batch_size = batch_size

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation token; see `Engine.score`."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (prompt, continuation) in enumerate(sequences):
            self._forward.check_ids(prompt)
            self._forward.check_ids([*prompt, *continuation])
            groups.setdefault(tuple(prompt), []).append(index)
        scores: list[list[float]] = [[] for _ in sequences]
        alone: list[int] = []
        for prompt, members in groups.items():
            if self._forward.fault is not None or len(members) == 1:
                alone += members
                continue
            found = self._score_shared(prompt, [sequences[member][1] for member in members])
            for member, values in zip(members, found, strict=True):
                scores[member] = values
        alone = [index for index in alone if len(sequences[index][1])]
        for part in self._split(alone, sequences):
            found = self._score_apart([sequences[index] for index in part])
            for index, values in zip(part, found, strict=True):
                scores[index] = values
        return scores

    def _score_shared(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score continuations of one prompt: rows behind the same keys and values, padded on the right."""
        first, layers, _ = self._forward.prefill(prompt, self._store)
        scores = [_read_scores(first, continuation[:1]) for continuation in continuations]
        order = sorted(
            (index for index, continuation in enumerate(continuations) if len(continuation) > 1),
            key=lambda index: -len(continuations[index]),
        )
        while order:
            longest = len(continuations[order[0]])
            size = max(1, min(self._batch_size, _SCORED_POSITIONS // longest))
            part, order = order[:size], order[size:]
            ids = self._pad([continuations[index][:-1] for index in part])
            cache = build_cache(
                tuple(
                    (keys.expand(len(part), -1, -1, -1), values.expand(len(part), -1, -1, -1))
                    for keys, values in layers
                )
            )
            start = len(prompt)
            positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
            logits, _ = self._forward.run(ids, cache=cache, positions=positions)
            for row, index in enumerate(part):
                scores[index] += _read_scores(logits[row], continuations[index][1:])
        return scores

    def _split(
        self, indices: Sequence[int], sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[list[int]]:
        """Deal sequences into batches of like lengths whose logits fit."""
        part: list[int] = []
        for index in sorted(indices, key=lambda index: (-len(sequences[index][0]) - len(sequences[index][1]), index)):
            trial = [*part, index]
            low, high = _find_span([sequences[one] for one in trial])
            if part and (len(trial) > self._batch_size or len(trial) * (high - low) > _SCORED_POSITIONS):
                yield part
                trial = [index]
            part = trial
        if part:
            yield part

    def _score_apart(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Score sequences in one pass, padded on the right, where causal attention does not look."""
        ids = self._pad([[*prompt, *continuation[:-1]] for prompt, continuation in sequences])
        low, high = _find_span(sequences)
        wanted = torch.arange(low, high, device=ids.device)
        logits, _ = self._forward.run(ids, cache=None, keep=wanted, use_cache=False)
        starts = [len(prompt) - 1 - low for prompt, _ in sequences]
        return [
            _read_scores(logits[row, start : start + len(continuation)], continuation)
            for row, (start, (_, continuation)) in enumerate(zip(starts, sequences, strict=True))
        ]

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._forward.device)


def _find_span(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[int, int]:
    """Return the range of positions whose logits are needed by any of the sequences."""
    low = min(len(prompt) - 1 for prompt, _ in sequences)
    return low, max(len(prompt) + len(continuation) - 1 for prompt, continuation in sequences)


def _read_scores(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Return log-probabilities of tokens from logits [at least as many positions, vocabulary], in fp32."""
    if not tokens:
        return []
    rows = logits[: len(tokens)].float()
    wanted = torch.tensor(list(tokens), device=rows.device)[:, None]
    scores: list[float] = (rows.gather(1, wanted)[:, 0] - rows.logsumexp(-1)).tolist()
    return scores
