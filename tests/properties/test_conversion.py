"""Properties of conversion: what both can hold comes back equal, what cannot is an error with a code, place and fix."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from actune.core.api_list import write_system
from actune.core.conversion import convert_style, flatten, to_chat, to_react
from actune.core.differences import find_difference
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.formats import ms_agent, registry

SOURCE = Source(file="rows.jsonl", line=1)
REFUSED = {
    "react-parallel-calls", "react-two-thoughts", "react-two-answers", "react-speaker", "react-api-list",
    "react-tool-schema", "react-marker-in-text", "react-weights", "arguments-unreadable", "format-cannot-hold",
}  # fmt: skip

plain = st.text(alphabet=st.sampled_from("ab:{}'\" \n\t杭.😀"), max_size=10)
marked = st.lists(
    st.one_of(
        st.sampled_from(
            ["Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:", "\n", " ", "{}", "x"]
        ),
        plain,
    ),
    max_size=8,
).map("".join)
texts = st.one_of(plain, plain, plain, marked)
entries = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "object", ["string", "null"]])},
    optional={
        "description": texts,
        "enum": st.lists(texts, max_size=2),
        "required": st.lists(st.sampled_from(["x", "y"]), max_size=2, unique=True),
        "name": texts,
        "schema": st.just({"a": 1}),
    },
)


@st.composite
def tool_lists(draw: st.DrawFn) -> tuple[ToolSpec, ...]:
    tools = []
    for name in ("search", "查询"):
        properties = draw(st.dictionaries(st.sampled_from(["q", "城市", "required"]), entries, max_size=2))
        schema = {"type": "object", "properties": properties}
        needed = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        schema |= {"required": needed} if needed else {}
        schema |= draw(st.sampled_from([{}, {}, {}, {"additionalProperties": False}, {"$defs": {}}]))
        tools.append(ToolSpec(name=name, description=draw(texts), parameters=schema))
    return tuple(tools)


@st.composite
def chats(draw: st.DrawFn) -> Conversation:
    """Draw conversations with native calls, of which ReAct text can hold many and not all."""
    messages = [Message(role="system", content=draw(texts))] if draw(st.booleans()) else []
    count = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message(role="user", content=draw(texts), name=draw(st.sampled_from([None] * 9 + ["Li"]))))
        for _ in range(draw(st.integers(0, 2))):
            names = draw(
                st.lists(st.sampled_from(["search", "查询"]), min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 2])))
            )
            calls = []
            for name in names:
                values = draw(st.dictionaries(plain, st.one_of(plain, st.integers(), st.booleans()), max_size=2))
                arguments = json.dumps(values, ensure_ascii=False, indent=draw(st.sampled_from([None, 1])))
                calls.append(ToolCall(name=name, arguments=arguments, id=f"call{count:05}"))
                count += 1
            beside = draw(st.sampled_from(["content", "reasoning", "reasoning", "none"]))
            messages.append(
                Message(
                    role="assistant",
                    content=draw(texts) if beside == "content" else "",
                    reasoning=draw(texts) if beside == "reasoning" else "",
                    tool_calls=tuple(calls),
                    weight=draw(st.sampled_from([1.0] * 5 + [0.0])),
                )
            )
            messages += [Message(role="tool", content=draw(texts), tool_call_id=call.id) for call in calls]
        if draw(st.sampled_from([True] * 6 + [False])) or messages[-1].role == "user":
            answer = draw(texts.filter(str.strip))
            messages.append(Message(role="assistant", content=answer, reasoning=draw(texts)))
    tools = draw(
        st.one_of(
            st.just((ToolSpec(name="search", parameters=SIMPLE), ToolSpec(name="查询", parameters=SIMPLE))),
            tool_lists(),
        )
    )
    return Conversation(messages=tuple(messages), tools=tools, source=SOURCE, id=draw(st.none() | st.just("r")))


SIMPLE = {"type": "object", "properties": {"q": {"type": "string", "description": "what"}}, "required": ["q"]}


def attempt(action):
    """Return what `action` returns, or the DataError it raises; any other exception is a failure of the test."""
    try:
        return action()
    except DataError as caught:
        error = caught
    assert error.code in REFUSED
    assert error.fix
    assert error.field
    event(error.code)
    return error


def normal(conversation: Conversation) -> Conversation:
    """Return a chat as ReAct text says it: blanks around texts are layout, text beside a call is its thought."""
    messages = []
    for message in conversation.messages:
        if message.role == "system" and not message.content:
            continue
        if message.role == "assistant":
            calls = tuple(replace(call, arguments=call.arguments.strip()) for call in message.tool_calls)
            thought = message.reasoning or (message.content if calls else "")
            content = "" if calls else message.content.strip()
            message = replace(message, reasoning=thought.strip(), content=content, tool_calls=calls)
        messages.append(message)
    return replace(conversation, messages=tuple(messages))


@settings(max_examples=400, deadline=None)
@given(chat=chats(), style=st.sampled_from(["react", "react_zh"]))
def test_chat_to_react_and_back_is_the_same_chat(chat, style):
    react = attempt(lambda: to_react(chat, style))
    if isinstance(react, DataError):
        return
    event("held")
    assert react.style == style
    back = to_chat(react)
    assert back.messages == normal(chat).messages
    assert find_difference(back, normal(chat)) is None
    assert to_react(back, style) == convert_style(react, style) or any(m.source_text for m in react.messages)


@settings(max_examples=400, deadline=None)
@given(chat=chats(), style=st.sampled_from(["react", "react_zh"]))
def test_the_text_of_a_converted_chat_reads_back_as_it_in_every_format(chat, style):
    react = attempt(lambda: to_react(chat, style))
    if isinstance(react, DataError):
        return
    written = attempt(lambda: flatten(react))
    if isinstance(written, DataError):
        assert written.code == "react-weights"
        return
    for name in registry.names():
        form = registry.get(name)
        if form.write is None:
            continue
        row = attempt(lambda: form.write(react if form.calls_as_text else written))  # noqa: B023 - called at once
        if isinstance(row, DataError):
            assert row.code in {"format-cannot-hold", "react-speaker"}
            continue
        event(name)
        again = form.read(json.loads(json.dumps(row)), SOURCE)
        assert find_difference(react, again) is None


def steps() -> st.SearchStrategy[str]:
    call = st.builds(
        "{}Action: {}\nAction Input: {}\nObservation:{}\n".format,
        st.sampled_from(["", "Thought: hm\n", "  Thought: hm \n\n", "hm\n"]),
        st.sampled_from(["search", "查询", " search "]),
        st.sampled_from(["{}", "{'q': '杭'}", '{"q":\n 1}', '{"q": {"a": [1, null]}}', "free text", '{"q": "\\n"}']),
        plain,
    )
    last = st.builds("{}{}".format, st.sampled_from(["", "Final Answer: ", "Thought: done\nFinal Answer:"]), plain)
    return st.builds(lambda calls, end: "".join(calls) + end, st.lists(call, max_size=3), last.map(lambda t: t + "a"))


@settings(max_examples=400, deadline=None)
@given(
    values=st.lists(steps(), min_size=1, max_size=3),
    own=st.sampled_from(["", "Be brief."]),
    language=st.sampled_from(["en", "zh"]),
    tail=st.sampled_from(["", "\n"]),
)
def test_react_to_chat_and_back_says_the_same(values, own, language, tail):
    tools = (ToolSpec(name="search", parameters=SIMPLE), ToolSpec(name="查询", parameters=SIMPLE))
    turns = [{"from": "system", "value": write_system(own, tools, language) + tail}]
    for value in values:
        turns += [{"from": "user", "value": "q"}, {"from": "assistant", "value": value}]
    try:
        react = ms_agent.read({"conversations": turns}, SOURCE)
    except DataError:  # text after the last call that is no step
        return
    chat = attempt(lambda: to_chat(react))
    calls = [call for message in react.messages for call in message.tool_calls]
    if isinstance(chat, DataError):
        assert chat.code == "arguments-unreadable"
        assert any(call.arguments == "free text" for call in calls)
        return
    event("held")
    assert not any(call.arguments == "free text" for call in calls)
    ids = [call.id for message in chat.messages for call in message.tool_calls]
    results = [message.tool_call_id for message in chat.messages if message.role == "tool"]
    assert ids == [f"call{number:05}" for number in range(len(calls))]
    assert results == ids[: len(results)]
    back = to_react(chat, react.style)

    def said(value: Conversation) -> list[tuple[object, ...]]:
        return [
            (
                m.role,
                m.content.strip() if m.role == "assistant" else m.content,
                m.reasoning,
                [c.name for c in m.tool_calls],
            )
            for m in value.messages
        ]

    assert said(back) == said(react)
    assert (back.tools, back.style, back.id) == (react.tools, react.style, react.id)
    for one, other in zip(back.messages, react.messages, strict=True):
        for call, source in zip(one.tool_calls, other.tool_calls, strict=True):
            assert json.loads(call.arguments) == source.parse_arguments()
            assert call.arguments == source.arguments or "'" in source.arguments


@settings(max_examples=300, deadline=None)
@given(chat=chats(), results=st.randoms(use_true_random=False))
def test_native_rows_read_back_as_the_same_chat_or_are_refused(chat, results):
    for name in ("openai", "sharegpt", "swift", "anthropic"):
        form = registry.get(name)
        row = attempt(lambda: form.write(chat))  # noqa: B023 - called at once
        if isinstance(row, DataError):
            assert row.code == "format-cannot-hold"
            assert name != "openai"
            continue
        raw = json.loads(json.dumps(row))
        assert registry.detect_format([raw]) == name or name in ("swift", "anthropic")
        try:
            back = form.read(raw, SOURCE)
        except DataError as error:  # text that looks like a call without tools is refused by every reader
            assert error.code in ("tools-missing", "observation-as-answer", "observation-without-action")  # noqa: PT017 - either outcome is right
            continue
        if not chat.tools and len(back.messages) > len(chat.messages):  # observations in a text without tools
            assert not any("\nObservation:" in m.content for m in back.messages if m.role == "assistant")
            continue
        assert find_difference(chat, back) is None
