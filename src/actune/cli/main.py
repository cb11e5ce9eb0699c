"""Entry point: words of the command line to one call, and every error to one readable block and an exit code.

Exit codes: 0 done, 1 the work found problems, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from actune.cli.failures import report_failure
from actune.cli.pages import find_page


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; never raises for what a user or a device can cause.

    Args:
        argv: Words after the program name; default: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # What a model or a file writes as a Python literal ("a\\d") is no code of ours that a person should be warned of.
    warnings.filterwarnings("ignore", module="<unknown>")
    try:
        with _terminable():
            code = _dispatch(words)
            sys.stdout.flush()  # here, so that a closed pipe is met inside the error policy
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every error becomes a message
        return report_failure(error)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that nothing half-written stays.

    Not under torchrun, which ends processes this way that hang in a collective, where Python runs no handler.
    """
    if "WORLD_SIZE" in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _dispatch(words: list[str]) -> int:
    page = find_page(words)
    if page is not None:
        sys.stdout.write(page)
        return 0
    # `sft` reads its many flags itself, to report every problem at once, and answers --help without loading cyclopts.
    if words[:1] == ["sft"]:
        from actune.cli.sft import sft

        return sft(words[1:])
    from actune.cli.app import run_app

    return run_app(words)
