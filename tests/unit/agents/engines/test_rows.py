"""Requests that join and leave while others run: each output as if it were alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from actune.agents.engines.engine import Request, Sampling
from actune.agents.engines.local import LocalEngine
from actune.core.errors import ModelError
from actune.modeling.adapters import attach_adapter
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer

NOWHERE = Stops(tokens=frozenset())

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(tokenizer_folder)


@pytest.fixture(scope="module")
def engine(kit, tokenizer):
    torch.manual_seed(3)
    base = kit.build_model("qwen3", vocab_size=496, initializer_range=0.3)
    model = attach_adapter(base, modules=["q_proj", "v_proj"], rank=4, alpha=8, dropout=0.1, seed=1)
    with torch.no_grad():  # a fresh adapter changes nothing
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return LocalEngine(model, tokenizer, batch_size=3)


def ask(first: int, tokens: int = 12, **more) -> Request:
    return Request(prompt=[first, 7, 300 - first, 11], stops=NOWHERE, max_tokens=tokens, **more)


def drain(rows, done=None):
    done = {} if done is None else done
    while len(rows):
        done |= rows.step(admit=1)
    return done


def test_rows_that_join_late_give_what_they_give_alone(engine):
    requests = [
        ask(first, 6 + first, sampling=Sampling(temperature=0.8 * (first % 2), seed=first)) for first in range(7)
    ]
    alone = [engine.generate([request])[0].text for request in requests]
    rows = engine.begin()
    heard: dict[int, list[str]] = {}
    done, tickets = {}, []
    for index, request in enumerate(requests):
        pieces = heard.setdefault(index, [])
        tickets.append(rows.add(request, pieces.append))
        for _ in range(index % 3):
            done |= rows.step(admit=1)
    drain(rows, done)
    assert [done[ticket].text for ticket in tickets] == alone
    assert ["".join(heard[index]) for index in range(len(requests))] == alone


def test_cancelled_rows_are_never_returned_and_leave_the_others_alone(engine):
    alone = engine.generate([ask(2)])[0].text
    rows = engine.begin()
    gone, kept, waiting = rows.add(ask(1)), rows.add(ask(2)), [rows.add(ask(3)) for _ in range(3)]
    rows.step()
    rows.cancel(gone)
    for ticket in waiting:
        rows.cancel(ticket)
    rows.cancel(999)
    done = drain(rows)
    assert list(done) == [kept]
    assert done[kept].text == alone


def test_model_and_base_may_be_stepped_in_turn(engine):
    assert engine.has_adapter
    tuned = engine.generate([ask(5)])[0].text
    with engine.without_adapter():
        base = engine.generate([ask(5)])[0].text
    assert tuned != base
    one, other = engine.begin(), engine.begin(base=True)
    for _ in range(2):  # the second time from keys and values that are kept
        first, second = one.add(ask(5)), other.add(ask(5))
        done, plain = {}, {}
        while len(one) or len(other):
            done |= one.step()
            plain |= other.step()
        assert done[first].text == tuned
        assert plain[second].text == base
    assert engine.generate([ask(5)])[0].text == tuned


def test_known_tokens_are_counted(engine):
    request = Request(prompt=[9, 8, 7, 6, 5, 4, 3], stops=NOWHERE, max_tokens=2)
    engine.generate([request])
    assert engine.generate([request])[0].known == len(request.prompt) - 1


def test_a_deadline_ends_one_row_only(engine):
    rows = engine.begin()
    late = rows.add(ask(1, 40, deadline=time.monotonic() - 1))
    fine = rows.add(ask(2, 3))
    done = drain(rows)
    assert (done[late].reason, done[late].tokens) == ("time", 0)
    assert done[fine].reason == "length"


def test_a_bad_prompt_is_refused_before_it_waits(engine):
    rows = engine.begin()
    with pytest.raises(ModelError, match="not among"):
        rows.add(Request(prompt=[10_000], stops=NOWHERE, max_tokens=1))
    assert len(rows) == 0


def test_the_base_keeps_its_own_prompts_between_uses(engine):
    request = Request(prompt=[21, 22, 23, 24, 25], stops=NOWHERE, max_tokens=2)
    with engine.without_adapter() as plain:
        first = plain.generate([request])[0]
    rows = engine.begin(base=True)
    ticket = rows.add(request)
    again = drain(rows)[ticket]
    assert (first.known, again.known) == (0, len(request.prompt) - 1)
    assert again.text == first.text
    assert engine.generate([request])[0].known == 0
