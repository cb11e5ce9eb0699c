"""One request on its way through the scheduler: text that comes from another thread, taken apart, in order, as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from actune.serving.choices import Output, check_forced
from actune.serving.errors import ApiError
from actune.serving.memory import Memory
from actune.serving.reading import Reply
from actune.serving.replies import Usage
from actune.serving.scheduler import Job, Scheduler
from actune.serving.service import Prepared
from actune.serving.splitter import Piece

# Characters that may wait for a client that reads slowly; no answer of a model is as long.
_PENDING = 4_000_000


class Answer:
    """The choices of a request: begun by `start`, told by `events`, ended by `cancel` at any time."""

    def __init__(self, prepared: Prepared, scheduler: Scheduler, memory: Memory, reading: ThreadPoolExecutor) -> None:
        """Put a request together; outputs are read, and remembered, in the thread `reading`."""
        self._prepared = prepared
        self._scheduler = scheduler
        self._memory = memory
        self._reading = reading
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[tuple[int, str | Output | ApiError]] = asyncio.Queue()
        self._pending = 0
        self.splitters = [prepared.make_splitter() for _ in prepared.plans]
        self.jobs = [
            Job(plan=plan, base=prepared.base, sampling=sampling, deadline=prepared.deadline, hear=self._ear(index))
            for index, (plan, sampling) in enumerate(zip(prepared.plans, prepared.samplings, strict=True))
        ]
        self.usage = Usage(prompt=len(prepared.ids))

    def _ear(self, index: int) -> Callable[[str | Output | ApiError], None]:
        def hear(event: str | Output | ApiError) -> None:
            # A loop that is closed has nobody left to tell.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._take, index, event)

        return hear

    def _take(self, index: int, event: str | Output | ApiError) -> None:
        self._pending += len(event) if isinstance(event, str) else 0
        if self._pending > _PENDING:
            self.cancel()
            event = ApiError(503, "the client reads too slowly", code="slow_client")
        self._inbox.put_nowait((index, event))

    def start(self) -> None:
        """Hand the jobs over.

        Raises:
            ApiError: 429 or 503, see `Scheduler.submit`.
        """
        self._scheduler.submit(self.jobs)

    def cancel(self) -> None:
        """Let go of what is still under way."""
        for job in self.jobs:
            self._scheduler.cancel(job)

    async def events(self) -> AsyncIterator[tuple[int, Piece | Reply]]:
        """Yield (choice, piece of it or the whole of it); a choice ends with its Reply, and when all have, so does this.

        Raises:
            ApiError: one of the choices failed; the others are let go.
        """
        left = len(self.jobs)
        while left:
            index, event = await self._inbox.get()
            if isinstance(event, ApiError):
                raise event
            if isinstance(event, Output):
                left -= 1
                reply = await self._loop.run_in_executor(self._reading, self._finish, index, event)
                self._count(index, event)
                yield index, reply
                continue
            self._pending -= len(event)
            for piece in self.splitters[index].push(event):
                yield index, piece

    def _finish(self, index: int, output: Output) -> Reply:
        """Read an output; runs in the thread that owns renderer and memory."""
        prepared = self._prepared
        reader = prepared.readers[index]
        reply = reader.read(output.text, output.reason, self.splitters[index])
        if reader.choice.mode == "required" and output.reason not in ("length", "time"):
            check_forced(reply)
        self._memory.remember(prepared.before, reply.message, reply.exact)
        return reply

    def _count(self, index: int, output: Output) -> None:
        self.usage.completion += output.tokens
        cached = self.jobs[index].cached
        if cached is not None:
            self.usage.cached = max(cached, self.usage.cached or 0)
