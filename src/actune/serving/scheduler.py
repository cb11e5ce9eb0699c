"""One thread that owns the engine: requests of two models in turn, rows that join others under way, and what ends them.

A job is a plan (see `choices`) on its way. Jobs wait here and not in the engine, so that one that nobody wants any more
costs nothing, and so that only one prompt is computed between two steps of those under way. The models, with and without
adapter, take turns step by step.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from actune.agents.engines.engine import Generation, Request, Sampling
from actune.core.errors import ActuneError
from actune.serving.choices import Ask, Output, Plan, Rate, Tell
from actune.serving.errors import ApiError, from_actune

log = logging.getLogger("actune.serving")


class Rows(Protocol):
    """Requests under way in one model; `LocalEngine.begin` gives one."""

    def add(self, request: Request, on_text: Callable[[str], None] | None = None) -> int:
        """Take a request in; returns its ticket."""
        ...

    def step(self) -> dict[int, Generation]:
        """Compute one token of every row; returns those that have ended."""
        ...

    def cancel(self, ticket: int) -> None:
        """Forget a row."""
        ...

    def __len__(self) -> int: ...


class Engine(Protocol):
    """What the thread asks of an engine; `LocalEngine` is one."""

    batch_size: int

    def begin(self, *, base: bool = False) -> Rows:
        """Return rows of the model, without its adapter if `base`."""
        ...

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return log-probabilities; see `actune.agents.engines.engine.Engine`."""
        ...

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Be the base model for a while."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One answer to generate. `hear` is called in the thread of the scheduler: with text, and once with how it ended.

    `told` is what of the present output was passed on. Of a job that is begun again `skip` is what its client has seen,
    and `changed` says that the model now writes something else. `cached` are the tokens of the prompt that were known.
    """

    plan: Plan
    base: bool
    sampling: Sampling
    deadline: float
    hear: Callable[[str | Output | ApiError], None]
    cancelled: bool = False
    asked: Ask | None = None
    told: str = ""
    skip: str = ""
    retried: bool = False
    changed: bool = False
    cached: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Lane:
    """The jobs of one model: waiting, to be computed alone after a failure, and under way by ticket."""

    base: bool
    waiting: deque[Job] = field(default_factory=deque)
    alone: deque[Job] = field(default_factory=deque)
    active: dict[int, Job] = field(default_factory=dict)
    rows: Rows | None = None

    def jobs(self) -> list[Job]:
        return [*self.active.values(), *self.alone, *self.waiting]


class Scheduler:
    """Runs jobs in a thread of its own."""

    def __init__(self, engine: Engine, *, queue: int = 64) -> None:
        """Let `queue` jobs wait besides those under way, of which there are as many as the engine takes at once."""
        self._engine = engine
        self._queue = queue
        self._lanes = (_Lane(base=False), _Lane(base=True))
        self._lock = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._closing = False
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="actune-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are still taken care of."""
        return self._thread.is_alive()

    def count(self) -> tuple[int, int]:
        """Return how many jobs are (under way, waiting)."""
        with self._lock:
            active = sum(len(lane.active) for lane in self._lanes)
            return active, len(self._arrived) + sum(len(lane.waiting) + len(lane.alone) for lane in self._lanes)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait for their turn, all or none.

        Raises:
            ApiError: 429 where too many wait, 503 where the server is about to stop.
        """
        with self._lock:
            if self._closing or not self._thread.is_alive():
                raise _stopping()
            waiting = len(self._arrived) + sum(len(lane.waiting) for lane in self._lanes)
            free = max(0, self._engine.batch_size - sum(len(lane.active) for lane in self._lanes))
            if waiting + len(jobs) > self._queue + free:
                raise ApiError(
                    429,
                    f"{waiting} requests are waiting already; at most {self._queue} may",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._arrived.extend(jobs)
            self._lock.notify()

    def cancel(self, job: Job) -> None:
        """Let go of a job that nobody waits for; it ends at the next step and says nothing more."""
        with self._lock:
            job.cancelled = True
            self._lock.notify()

    def close(self, *, seconds: float = 10.0) -> None:
        """Fail what is left, with 503, and end the thread; wait for that at most so long."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join(timeout=seconds)

    # --- the thread ---

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._arrived or self._closing or any(lane.jobs() for lane in self._lanes)):
                    self._lock.wait()
                while self._arrived:
                    job = self._arrived.popleft()
                    self._lanes[job.base].waiting.append(job)
                if self._closing and not any(lane.jobs() for lane in self._lanes):
                    return
            try:
                self._go_round()
            except Exception as error:  # noqa: BLE001 - a bug of ours: all requests fail, and the server goes on
                self._fail_all(explain(error))

    def _go_round(self) -> None:
        for lane in self._lanes:
            self._drop(lane)
        self._turn = 1 - self._turn
        order = self._lanes[self._turn], self._lanes[1 - self._turn]
        for lane in order:
            self._admit(lane)
        for lane in order:
            self._step(lane)

    def _fail_all(self, error: ApiError) -> None:
        for lane in self._lanes:
            with self._lock:
                jobs = lane.jobs()
                lane.active.clear()
                lane.waiting.clear()
                lane.alone.clear()
            lane.rows = None
            for job in jobs:
                self._end(lane, job, error)

    def _drop(self, lane: _Lane) -> None:
        """Let go of what was cancelled or has waited too long."""
        now = time.monotonic()
        for ticket, job in list(lane.active.items()):
            if job.cancelled or self._closing:
                assert lane.rows is not None
                lane.rows.cancel(ticket)
                self._end(lane, job, _stopping(), ticket=ticket)
        for queue in (lane.waiting, lane.alone):
            for job in list(queue):
                if job.cancelled or self._closing or job.deadline <= now:
                    with self._lock:
                        queue.remove(job)
                    self._end(lane, job, _stopping() if self._closing else _late())

    def _admit(self, lane: _Lane) -> None:
        """Begin one job if there is room for it."""
        if lane.alone:
            queue = lane.alone if not lane.active else None
        else:
            active = sum(len(one.active) for one in self._lanes)
            queue = lane.waiting if active < self._engine.batch_size else None
        if not queue:
            return
        with self._lock:
            job = queue.popleft()
        if job.asked is not None:
            self._ask(lane, job, job.asked)
        else:
            self._advance(lane, job, None)

    def _advance(self, lane: _Lane, job: Job, result: Any) -> None:  # noqa: ANN401 - whatever the plan waits for
        """Give a plan what it waited for and do what it wants next."""
        try:
            while True:
                wanted = job.plan.send(result)
                if isinstance(wanted, Ask):
                    job.told = job.skip = ""
                    return self._ask(lane, job, wanted)
                result = None
                if isinstance(wanted, Tell):
                    job.hear(wanted.text)
                else:
                    result = self._rate(lane, wanted)
        except StopIteration as stop:
            self._end(lane, job, stop.value)
        except Exception as error:  # noqa: BLE001 - one request fails, the server goes on
            self._end(lane, job, explain(error))

    def _rate(self, lane: _Lane, wanted: Rate) -> list[list[float]]:
        if not lane.base:
            return self._engine.score(wanted.sequences)
        with self._engine.without_adapter():
            return self._engine.score(wanted.sequences)

    def _ask(self, lane: _Lane, job: Job, wanted: Ask) -> None:
        job.asked = wanted
        request = Request(
            prompt=wanted.prompt,
            stops=wanted.stops,
            max_tokens=wanted.max_tokens,
            sampling=job.sampling,
            deadline=job.deadline,
        )
        try:
            if lane.rows is None:
                lane.rows = self._engine.begin(base=lane.base)
            ticket = lane.rows.add(request, on_text=lambda piece: self._tell(job, piece))
        except Exception as error:  # noqa: BLE001 - as above
            self._end(lane, job, explain(error))
            return
        with self._lock:
            lane.active[ticket] = job

    def _tell(self, job: Job, piece: str) -> None:
        """Pass text on, less what was passed on before the job had to be begun again."""
        if job.asked is None or not job.asked.live:
            return
        if job.skip:
            size = min(len(job.skip), len(piece))
            job.changed = job.changed or job.skip[:size] != piece[:size]
            job.skip, piece = job.skip[size:], piece[size:]
        if piece and not job.changed:
            job.told += piece
            job.hear(piece)

    def _step(self, lane: _Lane) -> None:
        if not lane.active or lane.rows is None:
            return
        try:
            ended = lane.rows.step()
        except Exception as error:  # noqa: BLE001 - as above
            self._recover(lane, error)
            return
        for ticket, generation in ended.items():
            job = lane.active.get(ticket)
            if job is None:
                continue
            with self._lock:
                del lane.active[ticket]
            job.retried, job.asked = False, None
            job.cached = generation.known if job.cached is None else job.cached
            if job.changed:
                self._end(lane, job, ApiError(500, "the model failed in the middle of this answer", code="model_error"))
                continue
            if generation.reason == "time" and not generation.tokens and not job.told:
                self._end(lane, job, _late())
                continue
            self._advance(lane, job, generation)

    def _recover(self, lane: _Lane, error: Exception) -> None:
        """Begin the rows of a failed step again, each alone, so that only the one at fault fails."""
        log.warning("a step of %d rows failed: %s", len(lane.active), type(error).__name__)
        jobs = list(lane.active.values())
        with self._lock:
            lane.active.clear()
        lane.rows = None
        error.__traceback__ = None  # it holds the tensors of the step
        _free_memory()
        for job in jobs:
            if len(jobs) == 1 or job.retried or job.asked is None:
                self._end(lane, job, explain(error))
            else:
                job.retried, job.skip = True, job.told
                job.told = ""
                with self._lock:
                    lane.alone.append(job)

    def _end(
        self, lane: _Lane, job: Job, result: Output | ApiError | None = None, *, ticket: int | None = None
    ) -> None:
        with self._lock:
            if ticket is not None:
                del lane.active[ticket]
        job.plan.close()
        if result is not None and not job.cancelled:
            job.hear(result)


def _stopping() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})


def _late() -> ApiError:
    message = "the request waited too long for its turn"
    return ApiError(503, message, code="timeout", headers={"Retry-After": "5"})


def explain(error: Exception) -> ApiError:
    """Return what a client is told of an exception; what it may hold of other requests is not."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ActuneError):
        return from_actune(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ApiError(503, "the model ran out of memory on this request", code="out_of_memory")
    # The text of an exception may hold the client's, the places in the code do not.
    log.error("a request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ApiError(500, f"the model failed on this request ({type(error).__name__})", code="model_error")


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
