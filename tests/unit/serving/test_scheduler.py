"""The thread that owns the engine: turns, limits, hang-ups, failures."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.engines.engine import Sampling
from actune.core.errors import ModelError
from actune.render.dialects import Stops
from actune.render.encoder import Encoder
from actune.serving.choices import Ask, Output
from actune.serving.errors import ApiError
from actune.serving.scheduler import Job, Scheduler

STOPS = Stops(tokens=frozenset())


class Client:
    """Collects what it hears; `ended` is set with the last of it."""

    def __init__(self, text: str, *, base: bool = False, seconds: float = 60.0) -> None:
        self.text = ""
        self.result: Output | ApiError | None = None
        self.ended = threading.Event()
        self.heard = threading.Event()
        self.job = Job(
            plan=self._plan(text),
            base=base,
            sampling=Sampling(),
            deadline=time.monotonic() + seconds,
            hear=self._hear,
        )

    def _plan(self, text: str):
        generation = yield Ask(prompt=[ord(letter) for letter in text], stops=STOPS, max_tokens=100)
        return Output(text=generation.text, tokens=generation.tokens, reason=generation.reason)

    def _hear(self, event) -> None:
        if isinstance(event, str):
            self.text += event
            self.heard.set()
        else:
            assert self.result is None
            self.result = event
            self.ended.set()

    def wait(self) -> Output | ApiError:
        assert self.ended.wait(20)
        assert self.result is not None
        return self.result


def say(request, base: bool) -> str:
    """Answer with the question, which is the prompt's ids as letters, and with who is asked."""
    return "".join(map(chr, request.prompt)) + (" base" if base else " tuned")


@pytest.fixture
def make(serving_kit: ModuleType, tools_folder: Path):
    encoder = Encoder.from_folder(tools_folder)
    made = []

    def build(script=say, *, batch_size: int = 4, queue: int = 64):
        engine = serving_kit.ScriptedSteps(script, encoder, batch_size=batch_size)
        scheduler = Scheduler(engine, queue=queue)
        made.append(scheduler)
        return engine, scheduler

    yield build
    for scheduler in made:
        scheduler.close()
        assert not scheduler.alive


def test_many_requests_of_two_models_are_not_mixed_up(make):
    engine, scheduler = make(batch_size=3, queue=100)
    sizes: list[int] = []
    engine.before_step = lambda base, tickets: sizes.append(len(tickets))
    clients = [Client(f"question {number}", base=number % 2 == 1) for number in range(40)]
    for client in clients:
        scheduler.submit([client.job])
    for number, client in enumerate(clients):
        result = client.wait()
        assert isinstance(result, Output)
        assert client.text == result.text == f"question {number} {'base' if number % 2 else 'tuned'}"
    assert max(sizes) <= 3
    assert scheduler.count() == (0, 0)


def test_the_two_models_take_turns(make):
    engine, scheduler = make(lambda request, base: "a b c d e f g h", batch_size=2)
    order: list[bool] = []
    start = threading.Event()

    def hold(base, tickets) -> None:
        start.wait(20)
        order.append(base)

    engine.before_step = hold
    clients = [Client("x"), Client("y", base=True)]
    for client in clients:
        scheduler.submit([client.job])
    start.set()
    for client in clients:
        client.wait()
    both = order[1:-1]
    assert abs(both.count(True) - both.count(False)) <= 2
    assert any(one != other for one, other in itertools.pairwise(both))


def test_a_request_joins_while_another_runs(make):
    engine, scheduler = make(lambda request, base: "word " * (40 if request.prompt[0] == ord("l") else 1))
    engine.seconds = 0.01
    long = Client("long")
    scheduler.submit([long.job])
    assert long.heard.wait(20)
    short = Client("short")
    scheduler.submit([short.job])
    short.wait()
    assert not long.ended.is_set()
    long.wait()


def test_the_queue_is_bounded(make):
    engine, scheduler = make(batch_size=1, queue=2)
    release = threading.Event()
    engine.before_step = lambda base, tickets: release.wait(20)
    clients = [Client(str(number)) for number in range(3)]
    for client in clients:
        scheduler.submit([client.job])
    with pytest.raises(ApiError) as caught:
        scheduler.submit([Client("too many").job])
    assert (caught.value.status, caught.value.code, caught.value.headers) == (429, "queue_full", {"Retry-After": "1"})
    release.set()
    for client in clients:
        assert isinstance(client.wait(), Output)


def test_a_cancelled_request_leaves_its_row_at_the_next_step(make):
    engine, scheduler = make(lambda request, base: "word " * 1000)
    engine.seconds = 0.01
    client, waiting = Client("x"), Client("y")
    scheduler.submit([client.job])
    assert client.heard.wait(20)
    scheduler.cancel(client.job)
    scheduler.cancel(waiting.job)
    scheduler.submit([waiting.job])
    until = time.monotonic() + 20
    while scheduler.count() != (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    assert scheduler.count() == (0, 0)
    assert engine.cancelled == [1]
    assert client.result is None
    assert len(client.text) < 1000


def test_a_deadline_ends_waiting_and_writing(make):
    engine, scheduler = make(lambda request, base: "word " * 1000, batch_size=1)
    engine.seconds = 0.02
    first, second = Client("x", seconds=0.4), Client("y", seconds=0.1)
    scheduler.submit([first.job])
    scheduler.submit([second.job])
    late, cut = second.wait(), first.wait()
    assert isinstance(late, ApiError)
    assert (late.status, late.code) == (503, "timeout")
    assert isinstance(cut, Output)
    assert cut.reason == "time"


@pytest.mark.parametrize("error", [MemoryError("x"), RuntimeError("secret text of a client")])
def test_a_failing_row_takes_no_other_with_it(make, error: Exception):
    engine, scheduler = make(lambda request, base: "a b c d " + "".join(map(chr, request.prompt)))
    bad: set[int] = set()
    steps = [0]

    def fail(base, tickets) -> None:
        # The row of "bad" fails at its third step, whatever else is in the batch.
        steps[0] += 1
        bad.update(number for number, request in enumerate(engine.requests, 1) if request.prompt[0] == ord("b"))
        if steps[0] >= 3 and bad & set(tickets):
            raise error

    engine.before_step = fail
    clients = [Client(name) for name in ("one", "bad", "two")]
    for client in clients:
        scheduler.submit([client.job])
    one, failed, two = [client.wait() for client in clients]
    assert isinstance(failed, ApiError)
    assert failed.status in (500, 503)
    assert "secret" not in failed.message
    for client, result, name in ((clients[0], one, "one"), (clients[2], two, "two")):
        assert isinstance(result, Output)
        assert client.text == result.text == f"a b c d {name}", "what was told before is not told again"
    again = Client("again")
    engine.before_step = lambda base, tickets: None
    scheduler.submit([again.job])
    assert isinstance(again.wait(), Output)


def test_a_row_that_writes_something_else_the_second_time_fails(make):
    texts = iter(["a b c d", "a x c d", "z z z z"])
    engine, scheduler = make(lambda request, base: "one" if request.prompt[0] == ord("o") else next(texts))
    clients = [Client("changes"), Client("other")]

    def fail(base, tickets) -> None:
        if len(tickets) == 2 and "b" in clients[0].text:
            raise RuntimeError

    engine.before_step = fail
    for client in clients:
        scheduler.submit([client.job])
    result = clients[0].wait()
    assert isinstance(result, ApiError)
    assert clients[0].text.startswith("a")
    assert "x" not in clients[0].text


def test_a_prompt_that_the_engine_refuses(make):
    engine, scheduler = make()

    def refuse(request, base):
        raise ModelError("the text is too long", fix="x")

    engine.script = refuse
    client = Client("x")
    scheduler.submit([client.job])
    result = client.wait()
    assert isinstance(result, ApiError)
    assert (result.status, result.code) == (500, "model_error")


def test_closing_tells_those_under_way(make):
    engine, scheduler = make(lambda request, base: "word " * 1000, batch_size=1)
    engine.seconds = 0.01
    clients = [Client("x"), Client("y")]
    for client in clients:
        scheduler.submit([client.job])
    assert clients[0].heard.wait(20)
    scheduler.close()
    for client in clients:
        result = client.wait()
        assert isinstance(result, ApiError)
        assert (result.status, result.code) == (503, "shutting_down")
    with pytest.raises(ApiError):
        scheduler.submit([Client("z").job])
