"""Requests under way: they join and leave while others run, each exactly as if it were alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actune.agents.engines.engine import Generation, Request, StopReason
from actune.agents.engines.forward import ForwardPass
from actune.agents.engines.kv import Batch, PrefixStore
from actune.agents.engines.sampling import Chooser, choose_tokens
from actune.agents.engines.stopping import Output
from actune.render.tokenizer import TextTokenizer


@dataclass(slots=True, kw_only=True)
class _Row:
    """One request on its way; `ids` are its prompt and what was sampled, `known` the prompt tokens not computed."""

    ticket: int
    request: Request
    output: Output
    chooser: Chooser
    ids: list[int]
    room: int
    known: int = 0
    started: float = field(default_factory=time.monotonic)
    reason: StopReason | None = None
    dropped: bool = False

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.dropped

    def take(self, token: int) -> None:
        """Add a sampled token; sets `reason` when the output ends with it."""
        self.ids.append(token)
        self.room -= 1
        if self.output.push(token):
            self.reason = self.output.reason
        elif self.room <= 0:
            self.reason = "length"

    def check_time(self) -> bool:
        """Return whether the row has ended, the passing of its deadline included; sets `reason` then."""
        if self.reason is None and self.request.deadline is not None and time.monotonic() >= self.request.deadline:
            self.reason = "time"
        return self.ended

    def close(self) -> Generation:
        """Return the output."""
        text = self.output.finish()
        reason = self.output.reason or self.reason
        assert reason is not None
        seconds = time.monotonic() - self.started
        return Generation(text=text, tokens=self.output.count, reason=reason, seconds=seconds, known=self.known)


class Rows:
    """The requests that one model generates for, token by token.

    One thread at a time may use it. After an exception of `step` the rows are lost and it is not used again.
    """

    def __init__(
        self,
        forward: ForwardPass,
        tokenizer: TextTokenizer,
        store: PrefixStore,
        *,
        batch_size: int,
        switch: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Start without rows; `switch` gives what has to be entered while the model computes."""
        self._forward = forward
        self._tokenizer = tokenizer
        self._store = store
        self._batch_size = batch_size
        self._switch = switch
        self._waiting: deque[_Row] = deque()
        self._active: list[_Row] = []
        self._batch = Batch()
        self._cache: Any = None
        self._tickets = 0

    def __len__(self) -> int:
        """Return how many requests have not ended."""
        return len(self._waiting) + len(self._active)

    def add(self, request: Request, on_text: Callable[[str], None] | None = None) -> int:
        """Let a request wait for its place; returns the ticket under which `step` gives its Generation.

        `on_text` is called by `step` with text as it becomes certain; the pieces joined are the text. It must not raise.

        Raises:
            ModelError: a prompt that is empty or longer than the model's context, or an id that the model lacks.
            ConfigError: sampling that cannot be done.
        """
        self._forward.check_ids(request.prompt)
        room, context = request.max_tokens, self._forward.context
        if context is not None:
            room = min(room, context - len(request.prompt))
        self._tickets += 1
        row = _Row(
            ticket=self._tickets,
            request=request,
            output=Output(self._tokenizer.stream_answer(request.prompt), request.stops, on_text=on_text),
            chooser=Chooser(request.sampling),
            ids=list(request.prompt),
            room=room,
            reason="length" if room <= 0 else None,
        )
        self._waiting.append(row)
        return row.ticket

    def cancel(self, ticket: int) -> None:
        """Drop a request; `step` will not return it. One that has ended already is nobody's business any more."""
        for row in (*self._waiting, *self._active):
            if row.ticket == ticket:
                row.dropped = True
        self._waiting = deque(row for row in self._waiting if not row.dropped)

    @torch.inference_mode()
    def step(self, *, admit: int | None = None) -> dict[int, Generation]:
        """Take up to `admit` waiting requests in (None: as many as there is room for), then one token for every row.

        A request that is taken in costs the computation of its prompt, for which all rows wait. Returns the requests
        that have ended, by ticket.
        """
        done: dict[int, Generation] = {}
        with self._switch():
            self._admit(admit, done)
            for row in self._active:
                row.check_time()
            self._active = self._sweep(done)
            if self._active:
                self._advance()
                self._active = self._sweep(done)
        return done

    def _admit(self, limit: int | None, done: dict[int, Generation]) -> None:
        taken = 0
        while self._waiting and len(self._active) < self._batch_size and (limit is None or taken < limit):
            row = self._waiting.popleft()
            if row.check_time():
                done[row.ticket] = row.close()
                continue
            taken += 1
            row.started = time.monotonic()
            logits, state, row.known = self._forward.prefill(row.ids, self._store)
            self._take([row], logits)
            if row.ended:
                done[row.ticket] = row.close()
                continue
            self._active.append(row)
            if self._forward.fault is None:
                self._batch.join(state, len(row.ids) - 1)
            else:
                self._cache = state

    def _advance(self) -> None:
        """Choose the next token of every row."""
        rows, device = self._active, self._forward.device
        ids = torch.tensor([[row.ids[-1]] for row in rows], device=device)
        positions = torch.tensor([[len(row.ids) - 1] for row in rows], device=device)
        if self._batch.cache is not None:
            mask = self._batch.mask(device)
            logits, _ = self._forward.run(ids, cache=self._batch.cache, positions=positions, mask=mask)
            self._batch.grow()
        elif self._cache is not None:
            logits, self._cache = self._forward.run(ids, cache=self._cache, positions=positions)
        else:  # a model without a cache: the whole text again
            logits, self._cache = self._forward.run(torch.tensor([rows[0].ids], device=device), cache=None, keep=1)
        self._take(rows, logits[:, -1])

    def _take(self, rows: Sequence[_Row], logits: Tensor) -> None:
        tokens = choose_tokens([row.chooser for row in rows], logits.float())
        for row, token in zip(rows, tokens, strict=True):
            row.take(token)

    def _sweep(self, done: dict[int, Generation]) -> list[_Row]:
        """Close the rows that have ended and return the others."""
        left = [place for place, row in enumerate(self._active) if not row.ended]
        if len(left) == len(self._active):
            return self._active
        for place, row in enumerate(self._active):
            if row.ended:
                if self._batch.cache is not None and self._store.limit:
                    self._store.add(row.ids[: self._batch.lengths[place]], self._batch.read(place))
                if not row.dropped:
                    done[row.ticket] = row.close()
        if self._batch.cache is not None:
            self._batch.keep(left)
        if not left:
            self._cache = None
        return [self._active[place] for place in left]
