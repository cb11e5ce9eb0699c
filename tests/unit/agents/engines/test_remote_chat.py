"""A model behind chat/completions: messages of all the ways that servers send them, and what is sent back."""

from __future__ import annotations

import json
import time
from types import ModuleType

import pytest

from actune.agents.engines.engine import Sampling
from actune.agents.engines.remote_chat import ChatModel
from actune.agents.engines.remote_http import Server, ServerError, read_address
from actune.agents.loop import Agent, Event, Limits, Task
from actune.agents.model import Ask
from actune.agents.tools.toolbox import Tool, Toolbox
from actune.agents.trace import Dropped
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec

SPEC = ToolSpec(
    name="weather",
    description="Weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ANSWER = [{"role": "assistant", "content": "It is "}, {"content": "sunny."}, "stop"]


def toolbox() -> Toolbox:
    return Toolbox([SPEC], [Tool(spec=SPEC, call=lambda arguments: f"sunny in {arguments['city']}", inline=True)])


@pytest.fixture
def open_():
    servers: list[Server] = []

    def connect(fake, **given) -> ChatModel:
        servers.append(Server(read_address(fake.url, None)))
        return ChatModel(servers[-1], "tiny", **given)

    yield connect
    for server in servers:
        server.close()


def run(model: ChatModel, *messages: Message, on_event=None, **limits):
    task = Task(messages=messages or (Message(role="user", content="Rome?"),), tools=(SPEC,))
    return Agent(model, toolbox(), limits=Limits(**limits)).run(task, on_event=on_event)


def call(index: int | None, name: str | None = None, arguments=None, call_id: str | None = None) -> dict:
    """Return a piece of a call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    keys = {"index": index, "id": call_id, "function": function}
    return {key: value for key, value in keys.items() if value is not None}


CITY = '{"city": "Rome"}'
# How servers send a message with calls: (parts of it, the calls it means).
WAYS = {
    "fragments": (
        [
            {"role": "assistant", "content": None},
            {"tool_calls": [call(0, "weather", "", "call_1")]},
            {"tool_calls": [call(0, None, '{"city":')]},
            {"tool_calls": [call(0, None, ' "Rome"}')]},
            "tool_calls",
        ],
        [("weather", CITY)],
    ),
    "two in turns": (
        [
            {"tool_calls": [call(0, "weather", "", "a")]},
            {"tool_calls": [call(1, "weather", "", "b")]},
            {"tool_calls": [call(1, None, '{"city": "Oslo"}'), call(0, None, CITY)]},
            "tool_calls",
        ],
        [("weather", CITY), ("weather", '{"city": "Oslo"}')],
    ),
    "whole, all with index 0": (
        [
            {"role": "assistant", "content": "", "tool_calls": [call(0, "weather", CITY, "call_a")]},
            {"role": "assistant", "content": "", "tool_calls": [call(0, "weather", '{"city": "Oslo"}', "call_b")]},
            "stop",
        ],
        [("weather", CITY), ("weather", '{"city": "Oslo"}')],
    ),
    "no ids, no index": (
        [{"tool_calls": [call(None, "weather", CITY), call(None, "weather", '{"city": "Oslo"}')]}, "stop"],
        [("weather", CITY), ("weather", '{"city": "Oslo"}')],
    ),
    "no index, pieces": (
        [{"tool_calls": [call(None, "weather", '{"city"', "x")]}, {"tool_calls": [call(None, None, ': "Rome"}')]}, "stop"],
        [("weather", '{"city": "Rome"}')],
    ),
    "the name in every piece": (
        [{"tool_calls": [call(0, "weather", '{"city": ', "x")]}, {"tool_calls": [call(0, "weather", '"Rome"}', "x")]}, "stop"],
        [("weather", CITY)],
    ),
    "the same id twice": (
        [{"tool_calls": [call(0, "weather", CITY, "x"), call(1, "weather", '{"city": "Oslo"}', "x")]}, "tool_calls"],
        [("weather", CITY), ("weather", '{"city": "Oslo"}')],
    ),
    "arguments as an object": (
        {"role": "assistant", "content": None, "tool_calls": [call(0, "weather", {"city": "Rome"}, "x")]},
        [("weather", CITY)],
    ),
    "a whole message, null everywhere": (
        {
            "role": "assistant", "content": None, "refusal": None, "reasoning_content": None, "function_call": None,
            "tool_calls": [call(None, "weather", CITY, "x")], "finish_reason": "tool_calls",
        },
        [("weather", CITY)],
    ),
    "a number as id": ([{"tool_calls": [call(0, "weather", CITY) | {"id": 7}]}, "tool_calls"], [("weather", CITY)]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_calls_come_in_many_ways(server_kit: ModuleType, open_, way: str):
    parts, wanted = WAYS[way]
    with server_kit.serve(server_kit.FakeServer(messages=[parts, ANSWER])) as fake:
        trace = run(open_(fake))
    assert (trace.reason, trace.final_answer) == ("answer", "It is sunny.")
    assert [(one.name, json.loads(one.arguments)) for one in trace.steps[0].calls] == [
        (name, json.loads(arguments)) for name, arguments in wanted
    ]
    assert len(trace.steps[0].observations) == len(wanted)
    # Ids are there, are unlike, and pair each result with its call; the server sees the same.
    ids = [one.id for one in trace.messages[1].tool_calls]
    assert len(set(ids)) == len(wanted)
    assert None not in ids
    assert [message.tool_call_id for message in trace.messages if message.role == "tool"] == ids
    sent = fake.bodies[1]["messages"]
    assert [one["id"] for one in sent[1]["tool_calls"]] == ids
    assert [one["tool_call_id"] for one in sent[2:]] == ids
    assert [json.loads(one["function"]["arguments"]) for one in sent[1]["tool_calls"]] == [
        json.loads(arguments) for _, arguments in wanted
    ]


def test_the_request_is_openais(server_kit: ModuleType, open_):
    with server_kit.serve(server_kit.FakeServer(messages=[ANSWER])) as fake:
        model = open_(fake)
        agent = Agent(model, toolbox(), limits=Limits(output_tokens=33), sampling=Sampling(temperature=0.5, seed=4))
        events: list[Event] = []
        messages = (Message(role="system", content="Be brief."), Message(role="user", content="Rome?", name="Ann"))
        trace = agent.run(Task(messages=messages, tools=(SPEC,)), on_event=events.append)
    body = fake.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rome?", "name": "Ann"},
    ]
    assert body["tools"] == [SPEC.describe()]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("tiny", 33, 0.5, 4)
    assert body.keys() <= server_kit.STRICT
    assert "".join(event.text for event in events if event.kind == "text") == "It is sunny."
    assert (trace.dialect, trace.model, trace.steps[0].tokens) == ("chat", "tiny", 5)


def test_no_tools_are_no_key(server_kit: ModuleType, open_):
    with server_kit.serve(server_kit.FakeServer(messages=[ANSWER])) as fake:
        Agent(open_(fake), toolbox()).run(Task(messages=(Message(role="user", content="?"),)))
    assert "tools" not in fake.bodies[0]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("drop", [False, True])
def test_thoughts_go_back_under_the_name_they_came_with(server_kit: ModuleType, open_, key: str, drop: bool):
    first = [{key: "let me "}, {key: "look"}, {"tool_calls": [call(0, "weather", CITY, "x")]}, "tool_calls"]
    with server_kit.serve(server_kit.FakeServer(messages=[first, ANSWER])) as fake:
        trace = run(open_(fake, drop_reasoning=drop))
    assert trace.messages[1].reasoning == "let me look"
    assert trace.to_json()["messages"][1]["reasoning_content"] == "let me look"
    sent = fake.bodies[1]["messages"][1]
    assert sent.get(key) == (None if drop else "let me look")
    assert len(sent.keys() & {"reasoning_content", "reasoning", "thinking"}) == (0 if drop else 1)


def test_a_thought_under_two_names_is_one(server_kit: ModuleType, open_):
    parts = [{"reasoning_content": "a", "reasoning": "a"}, {"reasoning_content": "b", "reasoning": "b"}, *ANSWER]
    with server_kit.serve(server_kit.FakeServer(messages=[parts])) as fake:
        assert run(open_(fake)).messages[-1].reasoning == "ab"


def test_contents_in_parts_and_refusals(server_kit: ModuleType, open_):
    listed = [{"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"type": "text", "text": "b"}]}, "stop"]
    refused = [{"content": None, "refusal": "I will not."}, "stop"]
    with server_kit.serve(server_kit.FakeServer(messages=[listed, refused])) as fake:
        assert run(open_(fake)).final_answer == "ab"
        assert run(open_(fake)).final_answer == "I will not."


def test_calls_without_arguments_are_said(server_kit: ModuleType, open_):
    parts = [{"tool_calls": [call(0, "weather", "", "x")]}, "tool_calls"]
    with server_kit.serve(server_kit.FakeServer(messages=[parts, ANSWER])) as fake:
        trace = run(open_(fake))
    assert trace.steps[0].repaired == (0,)
    assert "city" in trace.steps[0].error


def test_arguments_that_are_no_json_come_back_as_json(server_kit: ModuleType, open_):
    broken = [{"tool_calls": [call(0, "weather", "Rome, I think", "x")]}, "tool_calls"]
    with server_kit.serve(server_kit.FakeServer(messages=[broken, ANSWER])) as fake:
        trace = run(open_(fake))
    assert trace.steps[0].error.startswith("arguments-unreadable")
    assert trace.messages[1].tool_calls[0].arguments == "Rome, I think"
    sent = json.loads(fake.bodies[1]["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert sent == {"unreadable": "Rome, I think"}


@pytest.mark.parametrize(
    ("parts", "reason", "said"),
    [
        ([{"content": "It is"}, "length"], "tokens", "cut after 5 tokens"),
        ([{"tool_calls": [call(0, "weather", '{"ci', "x")]}, "length"], "tokens", "cut"),
        ([{"content": "?"}, "content_filter"], "error", "content_filter"),
        ([{"content": "so far"}, None], "error", "hung up"),
        ([{"tool_calls": [call(0, None, CITY, "x")]}, "tool_calls"], "unparsable", "no name"),
        ([{"tool_calls": ["x"]}, "tool_calls"], "error", "no object"),
        ([{"tool_calls": [call(n, "weather", CITY, f"x{n}") for n in range(200)]}, "stop"], "error", "128"),
    ],
)
def test_what_is_no_message_ends_the_run(server_kit: ModuleType, open_, parts, reason, said):
    with server_kit.serve(server_kit.FakeServer(messages=[parts])) as fake:
        trace = run(open_(fake))
    assert (trace.reason, trace.final_answer, trace.steps[0].calls) == (reason, None, ())
    assert said in trace.steps[0].error


def talk(turns: int) -> tuple[Message, ...]:
    messages = [Message(role="system", content="Be brief.")]
    for number in range(turns):
        messages += [Message(role="user", content=f"q{number}"), Message(role="assistant", content=f"a{number}")]
    return (*messages, Message(role="user", content="last"))


TOO_LONG = {
    "vllm": (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is 64 tokens. However, you requested 90"}}),
    "sglang": (400, {"object": "error", "message": "The input is longer than the model's context length", "code": 400}),
    "llamacpp": (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "request (90 tokens) exceeds the available context size (64 tokens)"}}),
    "openai": (400, {"error": {"message": "too many", "code": "context_length_exceeded", "type": "context_length_exceeded"}}),
}  # fmt: skip


@pytest.mark.parametrize("family", ["vllm", "sglang", "llamacpp"])
def test_turns_are_dropped_while_the_server_says_that_it_is_too_long(server_kit: ModuleType, open_, family: str):
    status, body = TOO_LONG[family]
    fake = server_kit.FakeServer(messages=[ANSWER])
    fake.faults = [lambda handler: handler.fail(status, body)] * 3
    events: list[Event] = []
    with server_kit.serve(fake):
        trace = run(open_(fake), *talk(3), on_event=events.append)
    assert (trace.reason, trace.dropped) == ("answer", (Dropped(step=0, messages=4),))
    shown = [[message["content"] for message in body["messages"]] for body in fake.bodies[1:]]
    # First a shorter output, then less of the history.
    assert [body["max_tokens"] for body in fake.bodies] == [1024, 256, 256, 256]
    assert fake.bodies[0]["messages"] == fake.bodies[1]["messages"]
    assert shown == [
        ["Be brief.", "q0", "a0", "q1", "a1", "q2", "a2", "last"],
        ["Be brief.", "q1", "a1", "q2", "a2", "last"],
        ["Be brief.", "q2", "a2", "last"],
    ]
    assert next(event.kind for event in events) == "text"
    assert "note" in [event.kind for event in events]


@pytest.mark.parametrize(("history", "asked"), [("turns", 4), ("error", 2)])
def test_the_last_turn_alone_may_be_too_long(server_kit: ModuleType, open_, history: str, asked: int):
    status, body = TOO_LONG["vllm"]
    fake = server_kit.FakeServer()
    fake.faults = [lambda handler: handler.fail(status, body)] * 9
    with server_kit.serve(fake):
        trace = run(open_(fake, history=history), *talk(2))
    assert (trace.reason, len(fake.bodies)) == ("tokens", asked)
    assert "maximum context length" in trace.steps[0].error


def test_newer_models_want_another_name_for_the_limit(server_kit: ModuleType, open_):
    said = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    fake = server_kit.FakeServer(messages=[ANSWER, ANSWER])
    fake.faults = [lambda handler: handler.fail(400, said)]
    with server_kit.serve(fake):
        model = open_(fake)
        assert [run(model).reason, run(model).reason] == ["answer", "answer"]
    assert [("max_tokens" in body, "max_completion_tokens" in body) for body in fake.bodies] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip


def test_a_server_that_cannot_count_in_streams_is_not_asked_to(server_kit: ModuleType, open_):
    fake = server_kit.FakeServer(messages=[ANSWER, ANSWER], usage=False)
    said = {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}
    fake.faults = [lambda handler: handler.fail(422, said)]
    with server_kit.serve(fake):
        model = open_(fake)
        assert [run(model).reason, run(model).reason] == ["answer", "answer"]
    assert ["stream_options" in body for body in fake.bodies] == [True, False, False]


def test_many_that_are_refused_at_once_all_adapt(server_kit: ModuleType, open_):
    def answer(body):
        if "stream_options" in body or "max_tokens" in body:
            what = "stream_options" if "stream_options" in body else "max_tokens, use max_completion_tokens"
            return {"refused": what}
        return ANSWER

    class Strict(server_kit.FakeServer):
        def chat(self, handler, body) -> None:
            given = answer(body)
            if isinstance(given, dict):
                return handler.fail(400, {"error": {"message": f"unsupported: {given['refused']}"}})
            return super().chat(handler, body)

    with server_kit.serve(Strict(messages=lambda body: ANSWER, usage=False)) as fake:
        tasks = [Task(messages=(Message(role="user", content=str(n)),)) for n in range(6)]
        traces = Agent(open_(fake), toolbox()).run_many(tasks, parallel=6)
    assert [trace.reason for trace in traces] == ["answer"] * 6


def test_one_task_that_fails_leaves_the_others(server_kit: ModuleType, open_):
    fake = server_kit.FakeServer(messages=lambda body: ANSWER)
    fake.faults = [lambda handler: handler.fail(500, {"error": {"message": "boom"}})]
    with server_kit.serve(fake):
        tasks = [Task(messages=(Message(role="user", content=str(n)),), id=str(n)) for n in range(5)]
        traces = Agent(open_(fake), toolbox()).run_many(tasks, parallel=5)
    assert sorted(trace.reason for trace in traces) == ["answer"] * 4 + ["error"]
    assert [trace.id for trace in traces] == [str(n) for n in range(5)]


def test_a_refused_key_ends_everything(server_kit: ModuleType, open_):
    with server_kit.serve(server_kit.FakeServer(key="right", messages=[ANSWER])) as fake, pytest.raises(ServerError):
        run(open_(fake))


def test_time_ends_a_slow_answer(server_kit: ModuleType, open_):
    def slow(handler) -> None:
        handler.begin_events()
        handler.send_event({"choices": [{"delta": {"content": "so far"}}]})
        time.sleep(3)

    fake = server_kit.FakeServer()
    fake.faults = [slow]
    with server_kit.serve(fake):
        trace = run(open_(fake), seconds=0.5)
    assert (trace.reason, trace.steps[0].output) == ("seconds", "so far")


def test_replies_come_in_the_order_of_the_asks(server_kit: ModuleType, open_):
    def answer(body):
        time.sleep(0.05 * (3 - int(body["messages"][0]["content"])))
        return [{"content": f"answer {body['messages'][0]['content']}"}, "stop"]

    with server_kit.serve(server_kit.FakeServer(messages=answer)) as fake:
        asks = [
            Ask(
                conversation=Conversation(messages=(Message(role="user", content=str(n)),), source=Source(file="x", line=1)),
                start=0,
                max_tokens=5,
                sampling=Sampling(),
            )
            for n in range(4)
        ]  # fmt: skip
        replies = open_(fake).reply(asks)
    assert [reply.message.content for reply in replies] == [f"answer {n}" for n in range(4)]


def test_history_of_the_task_is_sent_whole(server_kit: ModuleType, open_):
    messages = (
        Message(role="user", content="Rome?"),
        Message(role="assistant", reasoning="hm", tool_calls=(ToolCall(name="weather", arguments=CITY, id="c1"),)),
        Message(role="tool", content="sunny", tool_call_id="c1"),
        Message(role="assistant", content="Sunny."),
        Message(role="user", content="And Oslo?"),
    )
    with server_kit.serve(server_kit.FakeServer(messages=[ANSWER])) as fake:
        run(open_(fake), *messages)
    sent = fake.bodies[0]["messages"]
    assert sent[1] == {
        "role": "assistant", "content": "", "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": CITY}}],
    }  # fmt: skip
    assert sent[2] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}
