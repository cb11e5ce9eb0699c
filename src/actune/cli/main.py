"""Entry point: words of the command line to one call, and every error to one readable block and an exit code.

Exit codes: 0 done, 1 the work found problems, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from actune.cli.failures import report_failure


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; never raises for what a user or a device can cause.

    Args:
        argv: Words after the program name; default: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()  # here, so that a closed pipe is met inside the error policy
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every error becomes a message
        return report_failure(error)
    return code


def _dispatch(words: list[str]) -> int:
    # `sft` reads its many flags itself, to report every problem at once, and answers --help without loading cyclopts.
    if words[:1] == ["sft"]:
        from actune.cli.sft import sft

        return sft(words[1:])
    from actune.cli.app import run_app

    return run_app(words)
