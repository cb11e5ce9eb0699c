"""The engine behind a server: exact outputs whatever the server does, and clear words for what goes wrong."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from actune.agents.engines.engine import Request, Sampling
from actune.agents.engines.remote import RemoteEngine
from actune.agents.engines.remote_http import Server, ServerError, read_address
from actune.agents.engines.remote_probe import open_engine, pick_model
from actune.core.errors import ConfigError, ModelError
from actune.render.dialects import Stops
from actune.render.encoder import Encoder

CALL = 'Thought: 看\nAction: weather\nAction Input: {"city": "杭州"}\nObservation:'
FAMILIES = ["vllm", "sglang", "llamacpp", "openai", "text"]


@pytest.fixture(scope="module")
def encoder(tools_folder: Path) -> Encoder:
    return Encoder.from_folder(tools_folder)


@pytest.fixture(scope="module")
def tokenizer(encoder: Encoder):
    return encoder.renderer.tokenizer


@pytest.fixture
def stops(tokenizer) -> Stops:
    return Stops(tokens=frozenset({tokenizer.token_id("<|im_end|>")}), words=("Observation:",))


@pytest.fixture
def open_(tokenizer):
    """Return a function that connects to a fake server; everything is hung up at the end."""
    servers: list[Server] = []

    def connect(fake, *, key: str | None = None, model: str | None = None, context: int | None = None) -> RemoteEngine:
        server = Server(read_address(fake.url, key))
        servers.append(server)
        trial = tokenizer.encode("<|im_start|>user\nHello<|im_end|>\n")
        engine, _ = open_engine(server, pick_model(server, model), tokenizer, trial=trial, context=context)
        return engine

    yield connect
    for server in servers:
        server.close()


def ask(tokenizer, stops: Stops, text: str = "<|im_start|>user\nhi<|im_end|>\n", **more) -> Request:
    return Request(prompt=tokenizer.encode(text), stops=stops, **{"max_tokens": 200, **more})


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        (CALL + " made up\nFinal Answer: no<stop>", CALL, "word"),
        (
            "Thought: ok\nFinal Answer: 晴 \N{WINKING FACE}<stop>",
            "Thought: ok\nFinal Answer: 晴 \N{WINKING FACE}",
            "token",
        ),
        ("Observation: at once<stop>", "Observation:", "word"),
        ("see Observation: inside a line<stop>", "see Observation: inside a line", "token"),
        ("", "", "length"),
    ],
)
def test_an_output_ends_exactly_at_its_stop(
    server_kit: ModuleType, open_, tokenizer, stops, family, stream, said, text, reason
):
    fake = server_kit.FakeServer(family, tokenizer=tokenizer, outputs=[said], stream=stream)
    with server_kit.serve(fake):
        pieces: list[str] = []
        (generation,) = open_(fake).generate([ask(tokenizer, stops)], on_text=lambda _, piece: pieces.append(piece))
    assert (generation.text, generation.reason, generation.error) == (text, reason, None)
    assert "".join(pieces) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_the_ids_of_here_and_sampling_is_said(server_kit: ModuleType, open_, tokenizer, stops, family):
    fake = server_kit.FakeServer(family, tokenizer=tokenizer, outputs=["a<stop>"])
    request = ask(tokenizer, stops, sampling=Sampling(temperature=0.5, top_p=0.9, seed=7))
    with server_kit.serve(fake):
        open_(fake).generate([request])
    body = fake.bodies[-1]
    sent = body["prompt"]
    assert (tokenizer.encode(sent) if isinstance(sent, str) else sent) == list(request.prompt)
    assert isinstance(sent, str) == (family == "text")
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.5, 0.9, 7, 200)
    assert body["stream"] is True
    # A stop goes only to servers that give it back: of others the client could not tell it from the turn's end.
    assert body.get("stop") == (["\nObservation:"] if family in ("vllm", "sglang") else None)
    assert (body.get("stop_token_ids") == sorted(stops.tokens)) == (family in ("vllm", "sglang", "text"))
    if family == "openai":
        assert body.keys() <= server_kit.STRICT
    if family == "llamacpp":
        assert (body["top_k"], body["min_p"], body["repeat_penalty"]) == (0, 0.0, 1.0)


def test_the_length_ends_an_output(server_kit: ModuleType, open_, tokenizer, stops):
    for family in FAMILIES:
        fake = server_kit.FakeServer(family, tokenizer=tokenizer, outputs=["word " * 50])
        with server_kit.serve(fake):
            (generation,) = open_(fake).generate([ask(tokenizer, stops, max_tokens=5)])
        assert (generation.reason, generation.tokens) == ("length", 5)


def test_many_requests_go_at_once_and_are_not_mixed_up(server_kit: ModuleType, open_, tokenizer, stops):
    together = threading.Barrier(8, timeout=20)

    def answer(body) -> str:
        together.wait()
        return tokenizer.decode(body["prompt"]).removesuffix("<|im_end|>\n").rpartition("\n")[2] + "<stop>"

    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer, outputs=answer)
    with server_kit.serve(fake):
        requests = [ask(tokenizer, stops, f"<|im_start|>user\nnumber {n}<|im_end|>\n") for n in range(8)]
        heard: dict[int, str] = {}
        generations = open_(fake).generate(
            requests, on_text=lambda i, piece: heard.update({i: heard.get(i, "") + piece})
        )
    assert [one.text for one in generations] == [f"number {n}" for n in range(8)]
    assert heard == {n: f"number {n}" for n in range(8)}


def test_hanging_up_ends_the_generation(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("llamacpp", tokenizer=tokenizer)

    def endless(handler) -> None:
        handler.begin_events()
        for piece in ["Action: a", "\nObser", "vation", ": "] + ["more "] * 100_000:
            handler.send_event({"choices": [{"index": 0, "text": piece, "finish_reason": None}]})

    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [endless]
        (generation,) = engine.generate([ask(tokenizer, stops)])
        assert (generation.text, generation.reason) == ("Action: a\nObservation:", "word")
        assert fake.hung_up.wait(20)


def test_a_server_that_does_not_count_is_stopped(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("other", tokenizer=tokenizer)

    def endless(handler) -> None:
        handler.begin_events()
        while True:
            handler.send_event({"choices": [{"index": 0, "text": "la ", "finish_reason": None}]})

    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [endless]
        (generation,) = engine.generate([ask(tokenizer, stops, max_tokens=10)])
    assert generation.reason == "length"


def test_a_slow_server_is_left_at_the_deadline_with_what_it_said(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("other", tokenizer=tokenizer)
    release = threading.Event()

    def slow(handler) -> None:
        handler.begin_events()
        handler.send_event({"choices": [{"index": 0, "text": "so far", "finish_reason": None}]})
        release.wait(30)

    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [slow]
        (generation,) = engine.generate([ask(tokenizer, stops, deadline=time.monotonic() + 0.5)])
        release.set()
    assert (generation.text, generation.reason, generation.error) == ("so far", "time", None)


def test_a_server_that_cannot_count_in_streams_is_not_asked_to(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("other", tokenizer=tokenizer, outputs=["a<stop>", "b<stop>"], usage=False)
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.bodies.clear()
        fake.faults = [lambda handler: handler.fail(400, {"error": {"message": "unknown field stream_options"}})]
        texts = [engine.generate([ask(tokenizer, stops)])[0].text for _ in range(2)]
    assert texts == ["a", "b"]
    assert ["stream_options" in body for body in fake.bodies] == [True, False, False]


def test_usage_that_does_not_come_is_not_waited_for_in_vain(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("other", tokenizer=tokenizer, outputs=["a b c<stop>"], usage=False)
    with server_kit.serve(fake):
        (generation,) = open_(fake).generate([ask(tokenizer, stops)])
    assert (generation.text, generation.reason) == ("a b c", "token")
    assert generation.tokens == len(tokenizer.encode_after("a b c")) + 1


def test_scores_are_refused(server_kit: ModuleType, open_, tokenizer):
    with server_kit.serve(server_kit.FakeServer("vllm", tokenizer=tokenizer)) as fake, pytest.raises(ModelError):
        open_(fake).score([([1], [2])])


# --- what the server is -----------------------------------------------------------------------------------------------


def models(*names: str, **more) -> list[dict]:
    return [{"id": name, **more} for name in names]


def test_the_model_is_the_only_one_or_the_named_one(server_kit: ModuleType, open_, tokenizer):
    with server_kit.serve(server_kit.FakeServer(tokenizer=tokenizer, models=models("a-1", "a-2"))) as fake:
        assert open_(fake, model="a-2").wire.model == "a-2"
        with pytest.raises(ConfigError, match="2 models: a-1, a-2"):
            open_(fake)
        with pytest.raises(ConfigError, match="did you mean 'a-"):
            open_(fake, model="a-l")
    with server_kit.serve(server_kit.FakeServer(tokenizer=tokenizer, models=models("qwen:latest", "b"))) as fake:
        assert open_(fake, model="qwen").wire.model == "qwen:latest"


@pytest.mark.parametrize(
    ("said", "own", "context"),
    [
        ({"max_model_len": 512}, None, 512),
        ({"max_model_len": 512}, 256, 256),
        ({"meta": {"n_ctx": 300, "n_ctx_train": 9000}}, 4096, 300),
        ({"context_length": 77}, None, 77),
        ({"max_model_len": None, "meta": None}, 64, 64),
        ({"max_model_len": -1, "meta": {"n_ctx": "x"}}, None, None),
    ],
)
def test_the_context_is_the_shorter_of_both_sides(server_kit: ModuleType, open_, tokenizer, said, own, context):
    with server_kit.serve(server_kit.FakeServer(tokenizer=tokenizer, models=models("m", **said))) as fake:
        assert open_(fake, context=own).context == context


@pytest.mark.parametrize(
    ("family", "added", "what"), [("vllm", 1, "in front"), ("other", -2, "cuts"), ("text", 40, "template")]
)
def test_a_server_that_reads_other_tokens_is_refused(server_kit: ModuleType, open_, tokenizer, family, added, what):
    with (
        server_kit.serve(server_kit.FakeServer(family, tokenizer=tokenizer, added=added)) as fake,
        pytest.raises(ServerError, match=what),
    ):
        open_(fake)


def test_a_server_that_begins_to_read_other_tokens_is_left(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer, outputs=["a<stop>"])
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.added = 5
        with pytest.raises(ServerError, match="counted"):
            engine.generate([ask(tokenizer, stops)])


def test_ollama_is_sent_to_chat(server_kit: ModuleType, open_, tokenizer):
    with server_kit.serve(server_kit.FakeServer("ollama", tokenizer=tokenizer)) as fake:
        with pytest.raises(ServerError, match="Ollama") as caught:
            open_(fake)
        assert "--server_api chat" in caught.value.fix
        assert all(isinstance(body["prompt"], str) for body in fake.bodies)


def test_a_prompt_that_no_text_stands_for_is_refused_where_only_text_goes(
    server_kit: ModuleType, open_, tokenizer, stops, encoder: Encoder
):
    plain = tokenizer.encode("<\N{ZERO WIDTH SPACE}")[:1] + tokenizer.encode_after("|im_end|>")
    assert tokenizer.encode(tokenizer.decode(plain)) != plain
    with server_kit.serve(server_kit.FakeServer("text", tokenizer=tokenizer, outputs=["a<stop>"])) as fake:
        engine = open_(fake)
        bad, good = Request(prompt=plain, stops=stops, max_tokens=5), ask(tokenizer, stops)
        refused, done = engine.generate([bad, good])
    assert (refused.reason, done.text) == ("error", "a")
    assert "control tokens" in refused.error


def test_no_completions_at_all(server_kit: ModuleType, open_, tokenizer):
    fake = server_kit.FakeServer(tokenizer=tokenizer)
    fake.faults = [lambda handler: handler.fail(404, {"detail": "Not Found"})] * 9
    with server_kit.serve(fake), pytest.raises(ServerError, match="no /completions") as caught:
        open_(fake)
    assert "chat" in caught.value.fix


# --- addresses and keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        (" http://[::1]:1/api/openai ", "http://[::1]:1/api/openai"),
    ],
)
def test_addresses(text: str, url: str):
    assert read_address(text, None).url == url


@pytest.mark.parametrize("text", ["", "127.0.0.1:8000", "ftp://x/v1", "http://", "http://u:p@h/v1", "http://h/v1?a=b"])
def test_what_is_no_address(text: str):
    with pytest.raises(ConfigError) as caught:
        read_address(text, None)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a\nb", "schlüssel"])
def test_what_is_no_key(key: str):
    with pytest.raises(ConfigError):
        read_address("http://127.0.0.1", key)


@pytest.mark.parametrize(
    ("url", "shows"),
    [
        ("http://127.0.0.1:1", False), ("http://localhost", False), ("http://[::1]", False), ("https://far.example", False),
        ("http://far.example", True), ("http://10.0.0.1", True), ("http://localhost.far.example", True),
    ],
)  # fmt: skip
def test_a_key_that_others_can_read_is_known(url: str, shows: bool):
    assert read_address(url, "k").shows_key is shows
    assert not read_address(url, None).shows_key


def test_the_key_is_sent_and_never_said(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer, key="sk-right", outputs=["a<stop>"])
    with server_kit.serve(fake):
        assert open_(fake, key="sk-right").generate([ask(tokenizer, stops)])[0].text == "a"
        fake.key = None
        engine = open_(fake, key="sk-wrong")
        fake.key = "sk-right"
        with pytest.raises(ServerError, match="401: Incorrect API key") as caught:
            engine.generate([ask(tokenizer, stops)])
    assert "sk-wrong" not in str(caught.value)
    assert "--api_key_env" in caught.value.fix


# --- faults -----------------------------------------------------------------------------------------------------------


def test_busy_servers_are_asked_again(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer, outputs=["a<stop>"])
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [
            lambda handler: handler.fail(429, {"error": {"message": "slow down"}}, retry_after="0.05"),
            lambda handler: handler.fail(503, {"error": {"message": "loading"}}, retry_after="0"),
        ]
        (generation,) = engine.generate([ask(tokenizer, stops)])
        assert generation.text == "a"
        # An hour is not waited for, and the deadline holds.
        fake.faults = [lambda handler: handler.fail(429, {"error": {"message": "quota"}}, retry_after="3600")]
        (generation,) = engine.generate([ask(tokenizer, stops)])
        assert (generation.reason, "quota" in generation.error) == ("error", True)
        fake.faults = [lambda handler: handler.fail(429, {"error": {"message": "quota"}}, retry_after="5")]
        (generation,) = engine.generate([ask(tokenizer, stops, deadline=time.monotonic() + 1)])
        assert generation.reason == "error"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, {"error": {"message": "CUDA out of memory", "type": "server_error"}}, "500: CUDA out of memory"),
        (400, {"object": "error", "message": "too large", "type": "BadRequestError", "code": 400}, "400: too large"),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, "bad"),
        (502, "<html>\x1b[31mBad Gateway</html>", "Bad Gateway"),
        (500, {"error": "model runner has stopped"}, "runner has stopped"),
    ],
)
def test_errors_are_said_in_words_and_concern_one_request(
    server_kit: ModuleType, open_, tokenizer, stops, status, body, said
):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer, outputs=["a<stop>"])
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [lambda handler: handler.fail(status, body)]
        first, second = engine.generate([ask(tokenizer, stops)] * 2)
    generations = sorted((first, second), key=lambda one: one.reason)
    assert [one.reason for one in generations] == ["error", "token"]
    assert said in generations[0].error
    assert "\x1b" not in generations[0].error


def raw(*pieces: bytes):
    def write(handler) -> None:
        handler.begin_events()
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()

    return write


GOOD = b'data: {"choices": [{"index": 0, "text": "so far"}]}\n\n'


@pytest.mark.parametrize(
    ("pieces", "text", "said"),
    [
        ([GOOD, b"data: {broken\n\n"], "so far", "no JSON"),
        ([GOOD, b"data: [1, 2]\n\n"], "so far", "no JSON object"),
        ([b"data: " + b"[" * 100_000 + b"\n\n"], "", "no JSON"),
        ([GOOD, b"data: \xff\xfe{}\n\n"], "so far", "no JSON"),
        ([GOOD], "so far", "hung up"),
        ([], "", "hung up"),
        ([GOOD, b'data: {"error": {"message": "engine died"}}\n\n'], "so far", "engine died"),
        ([GOOD, b'data: {"choices": ["x"]}\n\n'], "so far", "no object"),
        ([GOOD, b'data: {"choices": [{"text": {"a": 1}}]}\n\n'], "so far", "text that is none"),
        ([b'data: {"choices": [{"text": "", "token_ids": ["x", -1]}]}\n\n'], "", "token ids"),
        ([GOOD, b'data: {"choices": [{"text": "", "finish_reason": "abort"}]}\n\n'], "so far", "abort"),
        ([b"data: " + b"x" * (9 * 2**20)], "", "8,388,608 bytes"),
        ([b"data: xxxxxxxxxx\n" * 2**20], "", "bytes"),
        ([b": ping\n\n" * 2**20] * 3, "", "bytes"),
    ],
)
def test_what_is_no_stream_is_an_error_with_what_came_before(
    server_kit: ModuleType, open_, tokenizer, stops, pieces, text, said
):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer)
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [raw(*pieces)]
        (generation,) = engine.generate([ask(tokenizer, stops)])
    assert (generation.text, generation.reason) == (text, "error")
    assert said in generation.error


def test_a_body_without_end_is_cut(server_kit: ModuleType, open_, tokenizer, stops):
    def endless(handler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("connection", "close")
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 2**20)

    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer)
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [endless]
        (generation,) = engine.generate([ask(tokenizer, stops, max_tokens=1)])
        assert generation.reason == "error"
        assert fake.hung_up.wait(20)


def test_events_in_any_layout_are_read(server_kit: ModuleType, open_, tokenizer, stops):
    parts = (
        b': hello\r\n\r\nevent: x\r\ndata:{"choices":\r\ndata: [{"text": "a"}]}\r\n\r\n',
        b'data: {"choices": [{"text": "b"',
        b"}]}\n\nid: 3\n",
        b'data: {"choices": [{"text": "c", "finish_reason": "stop"}]}',
    )
    fake = server_kit.FakeServer("other", tokenizer=tokenizer)
    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [raw(*parts)]
        (generation,) = engine.generate([ask(tokenizer, stops)])
    assert (generation.text, generation.reason, generation.error) == ("abc", "token", None)


def test_a_server_that_is_gone_ends_everything(server_kit: ModuleType, open_, tokenizer, stops):
    with server_kit.serve(server_kit.FakeServer("vllm", tokenizer=tokenizer)) as fake:
        engine = open_(fake)
    with pytest.raises(ServerError, match="cannot be reached") as caught:
        engine.generate([ask(tokenizer, stops, deadline=time.monotonic() + 0.3)])
    assert caught.value.fatal


def test_a_server_that_says_nothing_is_not_waited_for(server_kit: ModuleType, open_, tokenizer, monkeypatch):
    from actune.agents.engines import remote_probe

    release = threading.Event()
    monkeypatch.setattr(remote_probe, "_LIST_SECONDS", 0.2)
    monkeypatch.setattr(remote_probe, "_TRIAL_SECONDS", 0.2)
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer)
    fake.faults = [lambda handler: release.wait(30)]
    with server_kit.serve(fake):
        with pytest.raises(ServerError, match=r"no token within 0\.2 s"):
            open_(fake)
        fake.silent = release
        with pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
            open_(fake)
        release.set()


def test_redirects_are_not_followed(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("vllm", tokenizer=tokenizer)
    with server_kit.serve(fake):
        engine = open_(fake, key="sk-secret")
        fake.faults = [lambda handler: handler.send_json(307, {}, location="http://elsewhere.example/v1")]
        (generation,) = engine.generate([ask(tokenizer, stops)])
    assert "elsewhere" in generation.error
    assert json.dumps(fake.bodies).count("sk-secret") == 0


def test_what_is_no_list_of_models(server_kit: ModuleType, open_, tokenizer):
    fake = server_kit.FakeServer(tokenizer=tokenizer)
    fake.models = {"not": "a list"}
    with server_kit.serve(fake), pytest.raises(ServerError, match="no list of models"):
        open_(fake)


def test_an_interruption_hangs_up(server_kit: ModuleType, open_, tokenizer, stops):
    fake = server_kit.FakeServer("other", tokenizer=tokenizer)

    def endless(handler) -> None:
        handler.begin_events()
        while True:
            handler.send_event({"choices": [{"index": 0, "text": "la "}]})
            time.sleep(0.01)

    def interrupt(_index: int, _piece: str) -> None:
        raise KeyboardInterrupt

    with server_kit.serve(fake):
        engine = open_(fake)
        fake.faults = [endless]
        with pytest.raises(KeyboardInterrupt):
            engine.generate([ask(tokenizer, stops, max_tokens=100_000)], on_text=interrupt)
        assert fake.hung_up.wait(20)
        # The engine is still good for the next question.
        fake.outputs = ["a<stop>"]
        assert engine.generate([ask(tokenizer, stops)])[0].text == "a"
