"""The endpoints without a socket: answers, streams, choices of tools, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from actune.serving.limits import Limits
from actune.serving.service import Defaults

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
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "杭州"}}</tool_call>'
STEP = 'Thought: look\nAction: weather\nAction Input: {"city": "杭州"}\nObservation:'


@pytest.fixture
def make(serving_kit: ModuleType, tools_folder: Path):
    """Return a bench and a client of it for outputs, closed at the end."""
    benches = []

    def build(outputs, **more):
        bench = serving_kit.Bench(tools_folder, outputs, **more)
        benches.append(bench)
        return bench, TestClient(bench.app)

    yield build
    for bench in benches:
        bench.close()


def ask(client, *, model="tuned", messages=(USER,), **more):
    return client.post("/v1/chat/completions", json={"model": model, "messages": list(messages), **more})


def read_stream(text: str):
    """Return (chunks, what their deltas join to, whether it ended in [DONE])."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    joined = {"content": "", "reasoning_content": "", "calls": {}, "finish": None}
    for chunk in chunks:
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            joined["content"] += delta.get("content") or ""
            joined["reasoning_content"] += delta.get("reasoning_content") or ""
            for piece in delta.get("tool_calls", ()):
                call = joined["calls"].setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.get("id", "")
                call["name"] += piece["function"].get("name", "")
                call["arguments"] += piece["function"]["arguments"]
            joined["finish"] = choice["finish_reason"] or joined["finish"]
    return chunks, joined, events[-1] == "[DONE]"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_and_its_usage(make):
    _, client = make(["Hello."])
    body = ask(client, user="u", metadata={"a": "b"}, store=False).json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] > 1
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_parallel_calls_and_their_results(make):
    bench, client = make([CALL + CALL.replace("weather", "map"), "Sunny."])
    first = ask(client, tools=TOOLS).json()["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["content"] is None
    calls = first["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["weather", "map"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "杭州"}
    assert len({call["id"] for call in calls}) == 2
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "25 degrees"} for call in calls]
    second = ask(client, messages=[USER, first["message"], *results], tools=TOOLS).json()
    assert second["choices"][0]["message"]["content"] == "Sunny."
    assert bench.engine.prompts()[1].count("25 degrees") == 2


def test_the_base_is_the_second_model(make):
    _, client = make(lambda request, base: "base" if base else "tuned")
    answers = [ask(client, model=name).json()["choices"][0]["message"]["content"] for name in ("tuned", "tuned-base")]
    assert answers == ["tuned", "base"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tuned", "tuned-base"]
    assert client.get("/v1/models/tuned-base").json()["id"] == "tuned-base"
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_several_choices(make):
    bench, client = make(["one", "two", "three"])
    choices = ask(client, n=3, temperature=1, seed=5).json()["choices"]
    assert sorted(choice["message"]["content"] for choice in choices) == ["one", "three", "two"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [request.sampling.seed for request in bench.engine.requests] == [5, 6, 7]


def test_what_a_request_says_of_sampling_wins(make):
    bench, client = make(["a", "b"], defaults=Defaults(max_tokens=9, temperature=0.5, top_p=0.9))
    ask(client)
    ask(client, max_completion_tokens=3, temperature=0, top_p=0.5)
    first, second = bench.engine.requests
    assert (first.max_tokens, first.sampling.temperature, first.sampling.top_p) == (9, 0.5, 0.9)
    assert (second.max_tokens, second.sampling.temperature, second.sampling.top_p) == (3, 0, 0.5)


def test_stops_and_length(make):
    _, client = make(["one two three four five", "one two three four five"])
    assert ask(client, stop=[" three"]).json()["choices"][0]["message"]["content"] == "one two"
    cut = ask(client, max_tokens=2).json()["choices"][0]
    assert (cut["finish_reason"], cut["message"]["content"]) == (
        "length",
        "one two three four five"[: len(cut["message"]["content"])],
    )


def test_a_step_that_is_neither_call_nor_answer_is_its_text(make):
    _, client = make(["Thought: go\nAction: weather\nFinal Answer: no"], style="react")
    choice = ask(client, tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "Action: weather\nFinal Answer: no"
    assert choice["message"]["reasoning_content"] == "go"
    assert choice["actune"]["faults"][0]["code"] == "action_without_input"


@pytest.mark.parametrize(
    ("written", "given", "code"),
    [
        ("{'city': 'a'}", '{"city": "a"}', None),
        ('{"city": "a"', '{"city": "a"}', "arguments_repaired"),
        ("nothing", "nothing", "arguments_unreadable"),
    ],
)
def test_arguments_that_are_no_json(make, written: str, given: str, code: str | None):
    bench, client = make([f"Action: weather\nAction Input: {written}\nObservation:", "Final Answer: ok"], style="react")
    choice = ask(client, tools=TOOLS).json()["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["arguments"] == given
    assert [fault["code"] for fault in choice.get("actune", {}).get("faults", ())] == ([code] if code else [])
    result = {"role": "tool", "tool_call_id": call["id"], "content": "x"}
    assert ask(client, messages=[USER, choice["message"], result], tools=TOOLS).status_code == 200
    assert f"Action Input: {written}\nObservation: x\n" in bench.engine.prompts()[1]


def test_an_answer_that_was_changed_is_written_as_it_came(make):
    bench, client = make(
        ["Action: weather\nAction Input: {'city': 'a'}\nObservation:", "Final Answer: ok"], style="react"
    )
    message = ask(client, tools=TOOLS).json()["choices"][0]["message"]
    message["tool_calls"][0]["function"]["arguments"] = '{"city": "b"}'
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "x"}
    ask(client, messages=[USER, message, result], tools=TOOLS)
    assert 'Action Input: {"city": "b"}\nObservation: x\n' in bench.engine.prompts()[1]


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_joins_to_the_answer(make):
    bench, client = make(["Thought: I know it\nFinal Answer: 25 degrees, 晴", STEP], style="react")
    text = ask(client, tools=TOOLS, stream=True, stream_options={"include_usage": True}).text
    chunks, joined, done = read_stream(text)
    assert done
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (joined["reasoning_content"], joined["content"], joined["finish"]) == ("I know it", "25 degrees, 晴", "stop")
    assert sum("content" in chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]) > 3, "piece by piece"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    _, joined, _ = read_stream(ask(client, tools=TOOLS, stream=True).text)
    assert [call["name"] for call in joined["calls"].values()] == ["weather"]
    assert (joined["finish"], json.loads(joined["calls"][0]["arguments"])) == ("tool_calls", {"city": "杭州"})
    assert "usage" not in text.split("\n\n")[0]
    assert bench.scheduler.count() == (0, 0)


def test_content_before_a_call_is_streamed_and_the_call_follows(make):
    _, client = make(["I look it up." + CALL])
    chunks, joined, _ = read_stream(ask(client, tools=TOOLS, stream=True).text)
    assert joined["content"] == "I look it up."
    assert joined["calls"][0]["name"] == "weather"
    assert sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in chunks) > 3


def test_streams_of_several_choices_are_told_apart(make):
    _, client = make(["one word", "two words"])
    chunks, _, done = read_stream(ask(client, n=2, stream=True, temperature=1).text)
    found = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found[choice["index"]] += choice["delta"].get("content") or ""
    assert done
    assert sorted(found.values()) == ["one word", "two words"]


# --- tool_choice ------------------------------------------------------------------------------------------------------


def test_no_call_where_none_is_wanted_react(make):
    bench, client = make(["Thought: hm\nAction: weather\nAction Input:", " It is sunny."], style="react")
    choice = ask(client, tools=TOOLS, tool_choice="none").json()["choices"][0]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("It is sunny.", "hm")
    assert bench.engine.prompts()[1].endswith("Thought: hm\nFinal Answer:")
    assert "weather" in bench.engine.prompts()[0], "the tools are shown as in training"


def test_no_call_where_none_is_wanted_native(make):
    bench, client = make(["I would: " + CALL, "So " + CALL])
    choice = ask(client, tools=TOOLS, tool_choice="none").json()["choices"][0]
    assert "weather" not in bench.engine.prompts()[0], "a row without tools"
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I would: ", "stop")
    assert "tool_calls" not in choice["message"]
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
    choice = ask(client, messages=history, tools=TOOLS, tool_choice="none").json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("So ", "stop")


def test_a_required_call_is_the_likeliest_react(make):
    bench, client = make(["Thought: hm\nFinal Answer:", ' {"city": "a"}\nObservation:'], style="react")
    bench.engine.rate = lambda text: 0.0 if "map" in text else -1.0
    choice = ask(client, tools=TOOLS, tool_choice="required").json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "map", "arguments": '{"city": "a"}'}
    assert choice["message"]["reasoning_content"] == "hm"
    assert bench.engine.prompts()[1].endswith("Thought: hm\nAction: map\nAction Input:")
    rated = [bench.engine.tokenizer.decode(list(ids)) for _, ids in bench.engine.scored[0]]
    assert rated == ["Thought: hm\nAction: weather\nAction Input:", "Thought: hm\nAction: map\nAction Input:"]


def test_a_named_call_native(make):
    bench, client = make(['{"city": "a"}}</tool_call>' + CALL])
    named = {"type": "function", "function": {"name": "map"}}
    choice = ask(client, tools=TOOLS, tool_choice=named, model="tuned-base").json()["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["map"]
    assert choice["actune"]["faults"][0]["code"] == "calls_left_out"
    assert bench.engine.prompts()[0].endswith('"name": "map", "arguments": ')
    assert bench.engine.scored == []


def test_a_required_call_of_the_base_is_rated_without_the_adapter(make):
    bench, client = make(['{"city": "a"}}</tool_call>'])
    seen = []
    bench.engine.rate = lambda text: float(seen.append(bench.engine.in_base) or 0)
    assert ask(client, tools=TOOLS, tool_choice="required", model="tuned-base").status_code == 200
    assert seen == [True, True]


def test_a_required_call_that_cannot_be_read_is_an_error(make):
    _, client = make(["no json at all"])
    response = ask(client, tools=TOOLS, tool_choice="required")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "tool_call_unreadable"


def test_one_call_where_no_parallel_ones_are_wanted(make):
    _, client = make([CALL + CALL])
    choice = ask(client, tools=TOOLS, parallel_tool_calls=False).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["actune"]["faults"][0]["code"] == "calls_left_out"


def test_allowed_tools_are_those_shown(make):
    bench, client = make(["no"])
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "map"}}]}
    ask(client, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert "weather" not in bench.engine.prompts()[0]
    assert "map" in bench.engine.prompts()[0]


# --- what is refused --------------------------------------------------------------------------------------------------

TOOL_MESSAGE = {"role": "tool", "tool_call_id": "x", "content": "y"}
OPEN_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "map", "arguments": "{}"}}],
}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": "nobody"}, "model", "model_not_found"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "invalid_value"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, "messages[1]", "invalid_value"),
        ({"messages": [USER, TOOL_MESSAGE]}, "messages[1]", "result_without_call"),
        ({"messages": [USER, OPEN_CALL, USER]}, "messages[2]", "call_without_result"),
        ({"messages": [USER, {"role": "system", "content": "late"}, USER]}, "messages[1]", "system_late"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]", "content_block"),
        ({"messages": [{"role": "user", "content": "a", "cache_control": {}}]}, "messages[0].cache_control", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "invalid_value"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2]", "tool_duplicate"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"audio": {"voice": "a"}}, "audio", "unsupported_parameter"),
        ({"top_k": 5}, "top_k", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"n": 0}, "n", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(make, change, param, code):
    _, client = make([])
    response = client.post("/v1/chat/completions", json={"model": "tuned", "messages": [USER], **change})
    assert response.status_code == (404 if code == "model_not_found" else 400)
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert set(error) == {"message", "type", "param", "code"}


def test_what_changes_nothing_is_accepted(make):
    _, client = make(lambda request, base: "ok")
    neutral = {"logprobs": False, "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}}
    neutral |= {
        "tools": None,
        "stop": None,
        "logit_bias": {},
        "service_tier": "auto",
        "modalities": ["text"],
        "seed": -1,
    }
    assert ask(client, **neutral).status_code == 200
    sent = {
        "role": "assistant",
        "content": "a",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert ask(client, messages=[{"role": "developer", "content": "s"}, USER, sent, parts]).status_code == 200
    legacy = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "map", "arguments": "{}"}},
        {"role": "function", "name": "map", "content": "r"},
    ]
    assert ask(client, messages=legacy, tools=TOOLS).status_code == 200
    assert ask(client, messages=[USER, {"role": "assistant", "content": ""}, USER]).status_code == 200


def test_a_prompt_beyond_the_context(make):
    bench, client = make([], context=4)
    error = ask(client).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert bench.engine.requests == []


def test_other_addresses_and_methods(make):
    _, client = make([])
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/v1/engines").json()["error"]["code"] == "not_found"
    assert client.post("/v1/models").json()["error"]["type"] == "invalid_request_error"
    assert client.get("/health").json() == {"status": "ok", "active": 0, "waiting": 0}
    text = client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert text.status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page/app.py",
        "/page/__init__.py",
        "/page//etc/passwd",
    ],
)
def test_only_files_of_the_page_are_served(make, path: str):
    _, client = make([])
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in client.get("/page/chat.js").headers["content-security-policy"]
    assert client.get(path).status_code == 404


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_keys(make):
    _, client = make(["ok"], limits=Limits(hosts=None, key="secret-1"))
    for headers, code in (
        ({}, "missing_api_key"),
        ({"authorization": "Bearer secret-2"}, "invalid_api_key"),
        ({"authorization": "Bearer \xe9"}, "invalid_api_key"),
        ({"authorization": "Basic secret-1"}, "missing_api_key"),
    ):
        response = client.get("/v1/models", headers={name: value.encode("latin-1") for name, value in headers.items()})
        assert (response.status_code, response.json()["error"]["code"]) == (401, code)
        assert "secret" not in response.text
    good = client.post(
        "/v1/chat/completions",
        json={"model": "tuned", "messages": [USER]},
        headers={"authorization": "Bearer secret-1"},
    )
    assert good.status_code == 200
    assert client.get("/").status_code == 200, "the page itself asks for the key"
    assert client.get("/health").status_code == 200


def test_names_that_are_not_the_servers(make):
    _, client = make([], limits=Limits())
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1@evil.example", ""):
        assert client.get("/v1/models", headers={"host": host}).status_code == 403
        assert client.get("/", headers={"host": host}).status_code == 403
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:1"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_pages_of_other_sites(make):
    _, client = make([], limits=Limits(origins=("https://ok.example",)))
    local = {"host": "localhost:8000"}
    for origin in ("https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8000"):
        response = client.get("/v1/models", headers={**local, "origin": origin})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert client.get("/v1/models", headers={**local, "origin": "http://localhost:8000"}).status_code == 200
    allowed = client.get("/v1/models", headers={**local, "origin": "https://ok.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://ok.example"
    asked = client.options("/v1/chat/completions", headers={**local, "origin": "https://ok.example"})
    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (204, "authorization, content-type")


def test_large_bodies(make):
    bench, client = make([], limits=Limits(hosts=None, body_bytes=1000))
    large = client.post("/v1/chat/completions", content=b"x" * 10_000_000, headers={"content-type": "application/json"})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")

    def pieces():
        for _ in range(100):
            yield b"x" * 100

    chunked = client.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert bench.engine.requests == []
