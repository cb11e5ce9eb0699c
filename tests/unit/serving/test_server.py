"""The server on a socket of this machine: OpenAI's own client, clients that hang up, dawdle or send rubbish."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.errors import ConfigError
from actune.serving.limits import Limits
from actune.serving.server import bind

openai = pytest.importorskip("openai")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "map")
]
USER = {"role": "user", "content": "hi"}
CALLS = '<tool_call>{"name": "weather", "arguments": {"city": "杭州"}}</tool_call><tool_call>{"name": "map", "arguments": {"city": "b"}}</tool_call>'


@pytest.fixture
def serve(serving_kit: ModuleType, tools_folder: Path):
    """Return (bench, address) of a server for outputs; it is stopped at the end."""
    stops = []

    def start(outputs, *, send_seconds: float = 30.0, **more):
        bench = serving_kit.Bench(tools_folder, outputs, **more)
        context = serving_kit.on_a_socket(bench, send_seconds=send_seconds)
        address = context.__enter__()
        stops.append((context, bench))
        return bench, address

    yield start
    for context, bench in stops:
        context.__exit__(None, None, None)
        bench.close()


def make_client(address: str, **more):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="key", max_retries=0, timeout=20, **more)


def wait_for(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def dial(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def write_head(size: int | None, *, path: str = "/v1/chat/completions") -> bytes:
    length = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def test_the_official_client_through_a_tool_exchange(serve):
    _, address = serve([CALLS, "It is sunny.", CALLS, "It is sunny."])
    client = make_client(address)
    assert [model.id for model in client.models.list()] == ["tuned", "tuned-base"]
    answer = client.chat.completions.create(model="tuned", messages=[USER], tools=TOOLS).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert [call.function.name for call in answer.message.tool_calls] == ["weather", "map"]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "error: no such city"}
        for call in answer.message.tool_calls
    ]
    history = [USER, answer.message, *results]
    final = client.chat.completions.create(model="tuned", messages=history, tools=TOOLS)
    assert final.choices[0].message.content == "It is sunny."
    with client.chat.completions.stream(model="tuned", messages=[USER], tools=TOOLS) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    assert [call.function.name for call in streamed.message.tool_calls] == ["weather", "map"]
    assert json.loads(streamed.message.tool_calls[0].function.arguments) == {"city": "杭州"}
    pieces = client.chat.completions.create(model="tuned", messages=history, tools=TOOLS, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "It is sunny."


def test_errors_are_the_clients_own(serve):
    _, address = serve([])
    client = make_client(address)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="x", messages=[USER])
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tuned", messages=[USER], logprobs=True)
    assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")


def test_an_error_in_the_middle_of_a_stream(serve):
    bench, address = serve(lambda request, base: "word " * 50)

    def fail(base, tickets) -> None:
        if bench.engine.tickets and fail.steps > 5:
            raise RuntimeError
        fail.steps += 1

    fail.steps = 0
    bench.engine.before_step = fail
    seen: list[str] = []
    stream = make_client(address).chat.completions.create(model="tuned", messages=[USER], stream=True)
    with pytest.raises(openai.APIError, match="the model failed"):
        seen.extend(piece.choices[0].delta.content or "" for piece in stream)
    assert "".join(seen).startswith("word")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_row(serve, stream: bool):
    bench, address = serve(lambda request, base: "word " * 100_000)
    bench.engine.seconds = 0.005
    body = json.dumps({"model": "tuned", "messages": [USER], "stream": stream, "max_tokens": 90_000}).encode()
    connection = dial(address)
    connection.sendall(write_head(len(body)) + body)
    if stream:
        found = b""
        while found.count(b"data: ") < 3:
            found += connection.recv(65536)
    else:
        wait_for(lambda: bench.scheduler.count() == (1, 0))
    connection.close()
    wait_for(lambda: bench.scheduler.count() == (0, 0))
    assert bench.engine.cancelled == [1]


def test_a_stream_that_the_client_closes(serve):
    bench, address = serve(lambda request, base: "word " * 100_000)
    bench.engine.seconds = 0.005
    stream = make_client(address).chat.completions.create(
        model="tuned", messages=[USER], stream=True, max_tokens=90_000
    )
    for _, _ in zip(stream, range(3), strict=False):
        pass
    stream.close()
    wait_for(lambda: bench.scheduler.count() == (0, 0))


def test_thirty_two_clients_at_once(serve):
    bench, address = serve(
        lambda request, base: bench.engine.tokenizer.decode(list(request.prompt))[-60:].split("user\n")[1].split("<")[0]
    )
    client = make_client(address)

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        if number % 2:
            pieces = client.chat.completions.create(model="tuned", messages=messages, stream=True)
            return "".join(piece.choices[0].delta.content or "" for piece in pieces)
        answer = client.chat.completions.create(model="tuned-base", messages=messages)
        return answer.choices[0].message.content

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(96))) == [f"number {number}" for number in range(96)]
    wait_for(lambda: bench.scheduler.count() == (0, 0))


def test_a_client_that_does_not_read(serve):
    bench, address = serve(lambda request, base: "word" * 100, send_seconds=0.3)
    bench.engine.script = lambda request, base: "long words " * 200_000
    body = json.dumps({"model": "tuned", "messages": [USER], "stream": True, "max_tokens": 10_000_000}).encode()
    connection = dial(address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(write_head(len(body)) + body)
    wait_for(lambda: bench.scheduler.count() == (1, 0))
    wait_for(lambda: bench.scheduler.count() == (0, 0))
    assert bench.engine.cancelled == [1]
    connection.close()


def test_bodies_that_do_not_come_and_heads_that_are_none(serve):
    bench, address = serve(["ok"], limits=Limits(body_seconds=0.3))
    slow = dial(address)
    slow.sendall(write_head(100) + b'{"model"')
    answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code": "timeout"' in answer
    for raw in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9\r\n\r\n", b"A" * 70_000):
        rubbish = dial(address)
        rubbish.sendall(raw + b"\r\n\r\n")
        rubbish.shutdown(socket.SHUT_WR)
        assert b" 200 " not in read_all(rubbish)[:20]
    cut = dial(address)
    cut.sendall(write_head(100) + b"{")
    cut.close()
    assert (
        make_client(address).chat.completions.create(model="tuned", messages=[USER]).choices[0].message.content == "ok"
    )
    assert len(bench.engine.requests) == 1


def test_ten_megabytes(serve):
    _, address = serve([], limits=Limits(body_bytes=1_000_000))
    for size in (10_000_000, None):
        connection = dial(address)
        connection.sendall(write_head(size))
        piece = b" " * 100_000 if size else b"186a0\r\n" + b" " * 100_000 + b"\r\n"
        for _ in range(100):
            connection.sendall(piece)
        if size is None:
            connection.sendall(b"0\r\n\r\n")
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request_too_large" in answer


def test_a_stopping_server_finishes_what_is_under_way(serving_kit: ModuleType, tools_folder: Path):
    bench = serving_kit.Bench(tools_folder, lambda request, base: "word " * 60)
    bench.engine.seconds = 0.01
    found = []
    with serving_kit.on_a_socket(bench) as address:
        client = make_client(address)

        def ask() -> None:
            pieces = client.chat.completions.create(model="tuned", messages=[USER], stream=True)
            found.append("".join(piece.choices[0].delta.content or "" for piece in pieces))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: bench.scheduler.count() == (1, 0))
    thread.join(20)
    bench.close()
    assert found == ["word " * 60]


def test_a_port_that_is_in_use():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use") as caught:
            bind("127.0.0.1", port)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError):
        bind("203.0.113.9", 0)
