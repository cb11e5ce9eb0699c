from __future__ import annotations

import os
import signal

import pytest

from actune.training import interrupts
from actune.training.interrupts import Interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_acts(monkeypatch, number):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = signal.getsignal(number)
    with Interrupts() as wish:
        assert not wish.wanted
        send(number)
        assert wish.wanted
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) == before


def test_under_torchrun_the_same_signal_twice_at_once_is_one(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with Interrupts() as wish:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert wish.wanted
        monkeypatch.setattr(interrupts, "_SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
