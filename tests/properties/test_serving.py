"""A server's prompts are those of training, its streams are its answers, and no output or body breaks it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actune.core.errors import ActuneError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.dialects import ChatDialect, ReactDialect
from actune.render.encoder import Encoder
from actune.serving.errors import ApiError
from actune.serving.reading import Reader, Reply
from actune.serving.replies import Envelope, Usage, end_deltas
from actune.serving.requests import Choice, parse_body, read_request
from actune.serving.service import Service
from actune.serving.splitter import make_splitter

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"the {name} tool",
            "parameters": {"type": "object", "properties": {"value": {"type": "string", "description": "a value"}}},
        },
    }
    for name in ("first", "second")
]
# Text with everything that could be taken for something else, whole and in parts.
PIECES = st.sampled_from(
    [
        "Thought:", "Thought: ", "Action: first", "Action:", "Action Input:", "Action Input: {}", "\nAction: first\nAction Input: {\"value\": 1}",
        "Observation:", "Observation", "Final Answer:", "\nFinal Answer: ", "Fin", "\nAct", "\n", " ", "  ", "\t", "好", "\N{WINKING FACE}",
        "<|im_end|>", "<tool_call>", "</tool_call>", "\n<tool_call>\n", "<tool", '{"name": "first", "arguments": {"value": "x"}}',
        '\n<tool_call>\n{"name": "second", "arguments": {"value": "y"}}\n</tool_call>', "<think>", "<think>\n", "</think>", "\n</think>\n\n",
        "</thi", "[", "[TOOL_CALLS] [", "<calls>", "[CALL]first[ID]", "[ARGS]{}", "functools[", "<py>[", "first(value=\"x\")", "<call>first",
        "<k>value</k><v>x</v></call>", "<|ch|>", "<|ch|>think<|go|>", "<|ch|>final<|go|>", "<|ch|>to=first json<|go|>{}", "first\n{}",
        "{", "}", '"', "'a': 1", "\\", "a", "b c", "\u2028", "\r\n", "\x0b",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=9).map("".join)


def play(text: str, cuts: list[int], reader: Reader, make) -> tuple[Reply, str, str]:
    """Return the answer of an output, and the reasoning and content that its stream joins to."""
    splitter = make()
    sent = {"reasoning": "", "content": ""}
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    for start, end in itertools.pairwise(edges):
        for kind, piece in splitter.push(text[start:end]):
            assert piece
            sent[kind] += piece
    assert (splitter.reasoning, splitter.content) == (sent["reasoning"], sent["content"])
    assert splitter.text == text
    reply = reader.read(text, "token", splitter)
    envelope = Envelope(model="m")
    sizes = {"reasoning": len(sent["reasoning"]), "content": len(sent["content"])}
    calls: dict[int, dict[str, str]] = {}
    for chunk in end_deltas(envelope, 0, reply, **sizes):
        delta = chunk["choices"][0]["delta"]
        sent["reasoning"] += delta.get("reasoning_content") or ""
        sent["content"] += delta.get("content") or ""
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += piece.get("id", "")
            call["name"] += piece["function"].get("name", "")
            call["arguments"] += piece["function"]["arguments"]
    whole = envelope.whole([reply], Usage(prompt=1))["choices"][0]
    message = whole["message"]
    assert sent["reasoning"] == message.get("reasoning_content", "")
    assert sent["content"] == (message["content"] or "")
    listed = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())]
    assert list(calls.values()) == listed
    json.dumps(whole).encode()
    return reply, sent["reasoning"], sent["content"]


def check_streams(dialect, tools: tuple[ToolSpec, ...], tail: str, *, examples: int, written=()) -> set[str]:
    """Check that the stream of any output is its answer, however it is cut; returns what was seen.

    `written` are outputs that are in order; they are tried alone and with anything around them.
    """
    seen: set[str] = set()
    texts = TEXTS if not written else TEXTS | st.tuples(TEXTS, st.sampled_from(written), TEXTS).map("".join)
    for text in written:
        reader = Reader(dialect=dialect, tools=tools, choice=Choice(), new_id=lambda: "a")
        reply, *_ = play(
            text, list(range(len(text))), reader, lambda: make_splitter(dialect, tools=bool(tools), answer_tail=tail)
        )
        seen |= {reply.reason, *(fault.code for fault in reply.faults)}

    @settings(max_examples=examples, deadline=None)
    @given(text=texts, cuts=st.lists(st.integers(0, 60), max_size=12), mode=st.sampled_from(["auto", "none"]))
    @example(text="Thought: a\nFinal Answer: b\nObservation:", cuts=list(range(60)), mode="auto")
    @example(text="<think>\na\n</think>\n\nb <tool", cuts=list(range(60)), mode="auto")
    def check(text, cuts, mode) -> None:
        reader = Reader(dialect=dialect, tools=tools, choice=Choice(mode=mode), new_id=lambda: "call00001")

        def make():
            return make_splitter(dialect, tools=bool(tools), answer_tail=tail)

        reply, reasoning, content = play(text, cuts, reader, make)
        again, *other = play(text, list(range(len(text))), reader, make)
        assert (reply, [reasoning, content]) == (again, other)
        assert not (mode == "none" and reply.message.tool_calls)
        seen.update(fault.code for fault in reply.faults)
        seen.add(reply.reason)

    check()
    return seen


@pytest.mark.parametrize("tail", ["", "\n", "</answer>"])
def test_a_react_stream_is_the_answer(tools_folder: Path, tail: str):
    encoder = Encoder.from_folder(tools_folder)
    dialect = ReactDialect(encoder.renderer, "en")
    tools = read_request({"model": "m", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS}).tools
    step = "Thought: a\nAction: first\nAction Input: {}\nObservation:"
    written = [step, "Thought: a", "Thought: a\nFinal Answer: b\nObservation:", "plain"]
    seen = check_streams(dialect, tools, tail, examples=300, written=written)
    assert {"stop", "tool_calls", "thought_only", "text_after_answer"} <= seen


CALL = ToolCall(name="get_weather", arguments='{"city": "好 b", "days": 2}', id="abc123xyz")
ANSWERS = [
    Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)
    for content in ("", "some words")
    for reasoning in ("", "a thought\nof two lines")
    for calls in ((), (CALL,), (CALL, replace(CALL, id="abc123abc")))
    if content or calls
]


def write_output(native_kit: ModuleType, renderer, message: Message) -> str | None:
    try:
        return native_kit.write_output(renderer, message)
    except (ActuneError, ValueError):
        return None


def test_a_native_stream_is_the_answer(native_kit: ModuleType, tokenizer_folder: Path):
    templates = [native_kit.make_template(answer) for answer in native_kit.ANSWERS.values()]
    templates.append(native_kit.make_template(native_kit.OPENED, opened="<think>\\n"))
    templates.append(native_kit.make_template(native_kit.APART))
    seen: set[str] = set()
    for template in templates:
        renderer = native_kit.make_renderer(tokenizer_folder, template)
        dialect = ChatDialect(renderer)
        written = [text for message in ANSWERS if (text := write_output(native_kit, renderer, message)) is not None]
        written.append("\n<tool_call>\n{")
        seen |= check_streams(dialect, native_kit.TOOLS, "", examples=60, written=written)
        seen |= check_streams(dialect, (), "", examples=20, written=written)
    assert {"stop", "tool_calls", "call_unreadable"} <= seen


def test_reasoning_that_does_not_end_is_reasoning(native_kit: ModuleType, tokenizer_folder: Path):
    dialect = ChatDialect(
        native_kit.make_renderer(tokenizer_folder, native_kit.make_template(native_kit.ANSWERS["json in tags"]))
    )
    reader = Reader(dialect=dialect, tools=native_kit.TOOLS, choice=Choice(), new_id=lambda: "a")
    text = "<think>\nso I thought </thi"
    reply, reasoning, content = play(
        text, list(range(60)), reader, lambda: make_splitter(dialect, tools=True, answer_tail="")
    )
    assert (reasoning, content, reply.faults[0].code) == ("so I thought </thi", "", "reasoning_open")


# --- prompts ----------------------------------------------------------------------------------------------------------

VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\U000f0000\U000f0001"), max_size=12)
UNMARKED = TEXTS.map(lambda text: text.replace("\U000f0000", ""))
CALLS = st.lists(st.tuples(st.sampled_from(["first", "second"]), VALUES), min_size=1, max_size=3)


def write_react(calls: list[tuple[str, str]], layout: str, thought: str) -> str:
    """One step, in the layout of training or in others that models come upon."""
    name, value = calls[0]
    arguments = json.dumps({"value": value}, ensure_ascii=False)
    if layout == "literal":
        arguments = repr({"value": value})
    if layout == "broken":
        arguments = arguments[:-1] + ","
    head = f"Thought: {thought}\n" if layout != "bare" else ""
    gap = "\n\n" if layout == "wide" else " "
    return f"{head}Action: {name}\nAction Input:{gap}{arguments}\nObservation:"


def write_native(calls: list[tuple[str, str]], layout: str, thought: str) -> str:
    written = []
    for name, value in calls:
        call = json.dumps({"name": name, "arguments": {"value": value}}, ensure_ascii=False)
        written.append(f"<tool_call>{call}</tool_call>")
    return ("" if layout == "bare" else thought) + "".join(written)


def answer_text(style: str, layout: str) -> str:
    if style == "chat":
        return "完成了。"
    return {"bare": "plain words", "wide": "Thought: ok\n\nFinal Answer:  done "}.get(
        layout, "Thought: ok\nFinal Answer: done"
    )


@pytest.mark.parametrize("style", ["react", "react_zh", "chat"])
def test_prompts_of_the_server_are_those_of_training(tools_folder: Path, style: str):
    """A client that sends back what it got, with reasoning or without, gets the prompts of training, turn by turn."""
    encoder = Encoder.from_folder(tools_folder)
    service = Service(encoder, style, models={"m": False})
    write = write_native if style == "chat" else write_react
    layouts = st.sampled_from(["normal", "bare", "literal", "broken", "wide"])

    @settings(max_examples=40, deadline=None)
    @given(
        system=st.none() | VALUES.filter(bool),
        rounds=st.lists(
            st.tuples(VALUES, st.lists(st.tuples(CALLS, layouts), max_size=3), layouts), min_size=1, max_size=2
        ),
        observations=st.lists(UNMARKED, min_size=1, max_size=3),
        nulls=st.booleans(),
        kept=st.sampled_from(["all", "none", "last"]),
    )
    def check(system, rounds, observations, nulls, kept) -> None:
        sent = [{"role": "system", "content": system}] if system else []
        exact = [Message(role="system", content=system)] if system else []
        prompts = []

        def answer(text: str):
            body = {"model": "m", "messages": sent, "tools": TOOLS}
            prepared = service.prepare(read_request(parse_body(json.dumps(body).encode())))
            prompts.append(list(prepared.ids))
            splitter = prepared.make_splitter()
            splitter.push(text)
            reply = prepared.readers[0].read(text, "token", splitter)
            service.memory.remember(prepared.before, reply.message, reply.exact)
            message = Envelope(model="m").whole([reply], Usage(prompt=1))["choices"][0]["message"]
            if not nulls:
                message = {key: value for key, value in message.items() if value is not None}
            for earlier in sent if kept == "last" else ():
                earlier.pop("reasoning_content", None)
            if kept == "none":
                message.pop("reasoning_content", None)
            sent.append(message)
            exact.append(reply.exact)
            return reply

        for question, steps, layout in rounds:
            sent.append({"role": "user", "content": question})
            exact.append(Message(role="user", content=question))
            for calls, how in steps:
                reply = answer(write(calls, how, "go"))
                assert [call.name for call in reply.message.tool_calls] == [
                    name for name, _ in (calls if style == "chat" else calls[:1])
                ]
                for number, call in enumerate(reply.message.tool_calls):
                    observation = observations[number % len(observations)]
                    sent.append({"role": "tool", "tool_call_id": call.id, "content": observation})
                    exact.append(Message(role="tool", content=observation, tool_call_id=call.id))
            answer(answer_text(style, layout))
        tools = read_request({"model": "m", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS}).tools
        row = Conversation(messages=tuple(exact), tools=tools, style=style, source=Source(file="row", line=1))
        # Training would refuse a row whose arguments are broken; the text of its prompts is the dialect's all the same.
        dialect, encode = encoder.dialect_of(row), encoder.renderer.tokenizer.encode
        places = [index for index, message in enumerate(exact) if message.role == "assistant"]
        assert prompts == [encode(dialect.prompt(row, index)) for index in places]
        readable = all(how != "broken" for _, steps, _ in rounds for _, how in steps) or style == "chat"
        if readable:
            assert prompts == [turn.ids[: turn.start] for turn in encoder.encode_turns(row)]

    check()


def test_prompts_under_templates_of_every_form(native_kit: ModuleType, tokenizer_folder: Path):
    """A call, its results, an answer and a next question: ids that templates show and models write included."""
    tried = 0
    for answer in [*native_kit.ANSWERS.values(), native_kit.OPENED]:
        opened = "<think>\\n" if answer == native_kit.OPENED else ""
        renderer = native_kit.make_renderer(tokenizer_folder, native_kit.make_template(answer, opened=opened))
        encoder = Encoder(renderer)
        service = Service(encoder, "chat", models={"m": False})
        for calls in ((CALL,), (CALL, replace(CALL, name="look-up.v2", id="second001"))):
            reasoning = "a thought" if "think" in answer else ""
            call = Message(role="assistant", reasoning=reasoning, tool_calls=calls)
            outputs = [
                write_output(native_kit, renderer, one) for one in (call, replace(call, content="ok", tool_calls=()))
            ]
            if None in outputs:
                continue
            tools = [tool.describe() for tool in native_kit.TOOLS]
            sent, exact, prompts = [{"role": "user", "content": "?"}], [Message(role="user", content="?")], []
            for text in (*outputs, outputs[0]):
                prepared = service.prepare(read_request({"model": "m", "messages": sent, "tools": tools}))
                prompts.append(list(prepared.ids))
                splitter = prepared.make_splitter()
                splitter.push(text)
                reply = prepared.readers[0].read(text, "token", splitter)
                assert reply.faults == ()
                service.memory.remember(prepared.before, reply.message, reply.exact)
                message = Envelope(model="m").whole([reply], Usage(prompt=1))["choices"][0]["message"]
                sent = [*sent, message]
                exact.append(reply.exact)
                for one in reply.message.tool_calls:
                    sent.append({"role": "tool", "tool_call_id": one.id, "content": "r"})
                    exact.append(Message(role="tool", content="r", tool_call_id=one.id))
                if not reply.message.tool_calls:
                    sent.append({"role": "user", "content": "?"})
                    exact.append(Message(role="user", content="?"))
            row = Conversation(messages=tuple(exact), tools=native_kit.TOOLS, source=Source(file="row", line=1))
            turns = encoder.encode_turns(row)
            assert prompts == [turn.ids[: turn.start] for turn in turns]
            tried += 1
    assert tried >= 20


# --- bodies -----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(["role", "content", "type"]), inner)
    ),
    max_leaves=8,
)
NAMES = [
    "model", "messages", "tools", "tool_choice", "stream", "stream_options", "stop", "max_tokens", "temperature", "top_p",
    "seed", "n", "logprobs", "response_format", "user", "parallel_tool_calls", "functions", "reasoning_effort", "x",
]  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "x"]) | JSON,
        "content": TEXTS | JSON | st.just([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]),
        "tool_calls": JSON | st.just([{"id": "a", "function": {"name": "first", "arguments": "{"}}]),
        "tool_call_id": JSON,
        "name": JSON,
        "reasoning_content": JSON,
        "refusal": JSON,
        "x": JSON,
    },
)


def attempt(work):
    """Return what some work gives, or the error that a client would be told."""
    try:
        return work()
    except ApiError as error:
        return error


def test_no_body_breaks_the_server(tools_folder: Path):
    service = Service(Encoder.from_folder(tools_folder), "react", models={"m": False})
    body = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5)
    good = st.fixed_dictionaries({"model": st.just("m"), "messages": st.lists(MESSAGE, max_size=4)})

    @settings(max_examples=200, deadline=None)
    @given(first=body, second=good, tools=st.booleans())
    def check(first, second, tools) -> None:
        given_body = {**first, **second} | ({"tools": TOOLS} if tools else {})
        found = attempt(lambda: service.prepare(read_request(parse_body(json.dumps(given_body).encode()))))
        if isinstance(found, ApiError):
            assert found.status in (400, 404)
            json.dumps(found.to_json()).encode()
        else:
            assert found.ids
            for plan in found.plans:
                plan.close()

    check()


@given(st.binary(max_size=40))
def test_no_bytes_break_the_parser(raw):
    found = attempt(lambda: parse_body(raw))
    assert isinstance(found, dict) or found.status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff\xfe{}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=repr,
)  # fmt: skip
def test_bodies_that_are_no_json_object(raw):
    with pytest.raises(ApiError) as caught:
        parse_body(raw)
    assert caught.value.status == 400
