"""What a user sees when something goes wrong: one block on stderr, and an exit code. The one place that decides it."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback

from actune.core.errors import ActuneError

_SPEAKING_SECONDS = 5.0
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells report it
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_WRONG_REQUEST = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)


def report_failure(error: BaseException) -> int:
    """Write what went wrong to stderr and return the exit code.

    The traceback is printed before the message only with ACTUNE_TRACEBACK=1.
    """
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return _BROKEN_PIPE
    if os.environ.get("ACTUNE_TRACEBACK") == "1":
        traceback.print_exception(error)
    message, code = _explain(error)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # Most errors are those of every process, and torchrun ends all when one ends: let the first one speak.
        time.sleep(_SPEAKING_SECONDS)
    sys.stderr.write(f"{_name_rank()}{message}\n")
    sys.stderr.flush()
    return code


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ActuneError):
        return f"error: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    # Before OSError: torch's out-of-memory error is recognised by name, since torch need not be loaded here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        detail = f": {str(error).splitlines()[0]}" if str(error) else ""
        return f"error: out of memory{detail}\n  fix: lower batch_size, micro_batch_tokens or max_length", 1
    if isinstance(error, OSError):
        return _explain_os_error(error)
    detail = " ".join(str(error).split())
    shown = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    return f"error: bug in actune: {shown} (run again with ACTUNE_TRACEBACK=1 and report the traceback)", 1


def _explain_os_error(error: OSError) -> tuple[str, int]:
    # Some libraries raise OSError with a message of their own instead of a number.
    reason = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    message = f"error: {': '.join([' -> '.join(names), reason]) if names else reason}"
    if error.errno in _NO_SPACE:
        return f"{message}\n  fix: free some space, or choose another folder; finished checkpoints are complete", 1
    return message, 2 if isinstance(error, _WRONG_REQUEST) and names else 1


def _name_rank() -> str:
    """Return which process speaks, where torchrun started several."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail on the closed pipe."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # stdout is no file, in tests for example
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, descriptor)
    os.close(sink)
