"""One call of foreign code: in a thread of its own, for so long and no longer, its prints kept off our stdout.

A thread cannot be ended from outside. One that takes too long is left behind; as a daemon it does not keep the process
alive. A tool that can end its work by itself asks `time_left`, and says with `on_stop` how it is stopped earlier.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

# True in the thread of a tool, and in what asyncio and `contextvars` carry over from it.
_IN_TOOL: ContextVar[bool] = ContextVar("in_tool", default=False)
# When the time of the call that runs in this context is over, by `time.perf_counter`.
_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


# What stops the call that runs in this context.
_STOPS: ContextVar[list[Callable[[], object]] | None] = ContextVar("stops", default=None)


def on_stop(stop: Callable[[], object]) -> None:
    """Say what stops the call of a tool that runs in this thread when nobody wants its result any more (Ctrl-C)."""
    stops = _STOPS.get()
    if stops is not None:
        stops.append(stop)


def time_left() -> float | None:
    """Return the seconds that the call of a tool still has, 0 or more, in the thread of that call; elsewhere None."""
    deadline = _DEADLINE.get()
    return None if deadline is None else max(deadline - time.perf_counter(), 0.0)


class Running:
    """A function under way in its own thread."""

    def __init__(self, function: Callable[[], Any], seconds: float) -> None:
        """Start it; it has `seconds`.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        self._function = function
        self.limit = seconds
        self._done = threading.Event()
        self._value: Any = None
        self._stops: list[Callable[[], object]] = []
        self.started = time.perf_counter()
        self.seconds = 0.0
        _OUTPUT.hold()
        try:
            threading.Thread(target=self._run, name="tool", daemon=True).start()
        except BaseException:
            _OUTPUT.release()
            raise

    def wait(self) -> bool:
        """Return whether the function has ended in its time; waits until then."""
        left = self.started + self.limit - time.perf_counter()
        ended = self._done.wait(max(left, 0.0))
        self.seconds = self.seconds if ended else time.perf_counter() - self.started
        return ended

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Return whether the function has ended by now, however late; waits up to `seconds` for it."""
        return self._done.wait(seconds)

    def stop(self) -> None:
        """Stop what can be stopped."""
        for stop in tuple(self._stops):
            stop()

    @property
    def value(self) -> Any:  # noqa: ANN401 - whatever the function returns
        """What the function returned; what it raised is its own business to catch."""
        return self._value

    def _run(self) -> None:
        _IN_TOOL.set(True)
        _DEADLINE.set(self.started + self.limit)
        _STOPS.set(self._stops)
        try:
            self._value = self._function()
        finally:
            self.seconds = time.perf_counter() - self.started
            _OUTPUT.release()
            self._done.set()


class _Output:
    """Where prints of tools go: to stderr, so that stdout holds our results only.

    While a tool runs, `sys.stdout` is replaced by an object that looks who writes; and while we wait for one, the file
    descriptor 1 is stderr too, for the programs that a tool starts. Counted, since calls overlap and some never end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._waiting = 0
        self._saved: int | None = None

    def hold(self) -> None:
        with self._lock:
            self._running += 1
            if not isinstance(sys.stdout, _Fork) and sys.stdout is not None:
                sys.stdout = _Fork(sys.stdout)

    def release(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0 and isinstance(sys.stdout, _Fork):
                sys.stdout = sys.stdout.real

    @contextlib.contextmanager
    def keep_clean(self) -> Iterator[None]:
        """Point the descriptor of stdout at stderr while the caller does nothing but wait."""
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._divert()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if self._waiting == 0:
                    self._restore()

    def _divert(self) -> None:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
            self._saved = os.dup(1)
        except (OSError, ValueError):  # there is no stdout to protect
            self._saved = None
            return
        try:
            os.dup2(2, 1)
        except OSError:  # there is no stderr
            os.close(self._saved)
            self._saved = None

    def _restore(self) -> None:
        if self._saved is not None:
            os.dup2(self._saved, 1)
            os.close(self._saved)
            self._saved = None


class _Fork:
    """Stands for stdout: what a tool writes goes to stderr, what anybody else writes to the real one."""

    def __init__(self, real: TextIO) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - every attribute of a text file
        return getattr(sys.stderr if _IN_TOOL.get() else self.real, name)


_OUTPUT = _Output()
keep_stdout_clean = _OUTPUT.keep_clean
