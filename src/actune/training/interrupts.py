"""Ctrl-C and SIGTERM as a question the loop asks at safe places."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# Under torchrun a process can get the same signal twice: from the system, which tells all, and passed on by torchrun.
_SAME_SECONDS = 2.0


class Interrupts:
    """While active, the first SIGINT or SIGTERM only sets `wanted`; a second one acts at once.

    Under torchrun a second one that follows at once is taken for the first.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Take the signals over; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._since < _SAME_SECONDS:
                return
            raise KeyboardInterrupt
        self._since = time.monotonic()
        self.wanted = True
