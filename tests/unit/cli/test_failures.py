from __future__ import annotations

import errno
import os
import signal
import sys
from types import ModuleType

import pytest

from actune.cli.main import main
from actune.core.errors import ConfigError, DataError, MissingExtraError


class OutOfMemoryError(RuntimeError):
    """Stands for torch's error of this name."""


def run_failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    recipes = ModuleType("actune.recipes")

    def check(**arguments: object) -> int:
        raise error

    recipes.check = check
    monkeypatch.setitem(sys.modules, "actune.recipes", recipes)
    monkeypatch.setattr("actune.recipes", recipes, raising=False)
    return main(["check", "a"])


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ConfigError("m", fix="f"), 2, "error: m\n  fix: f\n"),
        (DataError("m", code="c"), 1, "error: m\n"),
        (MissingExtraError("m"), 2, "error: m\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), 2, "error: a.json: No such file\n"),
        (OSError(errno.EIO, "Input/output error"), 1, "error: Input/output error\n"),
        (OSError("a sentence of some library"), 1, "error: a sentence of some library\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            1,
            "error: out/x: No space left on device\n"
            "  fix: free some space, or choose another folder; finished checkpoints are complete\n",
        ),
        (
            OutOfMemoryError("CUDA out of memory\nlong tail"),
            1,
            "error: out of memory: CUDA out of memory\n  fix: lower batch_size, micro_batch_tokens or max_length\n",
        ),
        (
            KeyError("x\ny"),
            1,
            "error: bug in actune: KeyError: 'x\\ny' (run again with ACTUNE_TRACEBACK=1 and report the traceback)\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_every_error_becomes_one_block_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, expected: str
) -> None:
    monkeypatch.delenv("ACTUNE_TRACEBACK", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("actune.cli.failures._silence_stdout", lambda: None)  # pytest's own stdout stays
    assert run_failing(monkeypatch, error) == code
    captured = capsys.readouterr()
    assert captured.err == expected
    assert captured.out == ""


def test_traceback_only_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ACTUNE_TRACEBACK", "1")
    assert run_failing(monkeypatch, ValueError("x")) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.rstrip().splitlines()[-1].startswith("error: bug in actune: ValueError: x")


def test_processes_of_one_run_say_who_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    waited: list[float] = []
    monkeypatch.setattr("actune.cli.failures.time.sleep", waited.append)
    run_failing(monkeypatch, DataError("m", code="c"))
    assert capsys.readouterr().err == "[rank 3] error: m\n"
    assert waited == [5.0]  # the first process of the machine speaks at once; torchrun then ends the others


def test_sigterm_ends_a_command_like_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("actune.cli.main._dispatch", lambda _words: os.kill(os.getpid(), signal.SIGTERM))
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before
