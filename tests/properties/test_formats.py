"""Properties of the formats: nothing but DataError for any row, and rows come back as they were."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from actune.core.api_list import write_system
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.formats import ms_agent, openai, registry

SOURCE = Source(file="rows.jsonl", line=1)
TOOLS = (
    ToolSpec(name="search", description="Find. Really.", parameters={"type": "object", "properties": {"q": {}}}),
    ToolSpec(name="查询", parameters={"type": "object", "properties": {}}),
)
SYSTEM = write_system("", TOOLS)

REACT = re.compile(r"^Action:.*^Observation:", re.MULTILINE | re.DOTALL)  # refused in rows of plain text

text = st.text(alphabet=st.sampled_from("ab:{}'\" \n\t杭.😀"), max_size=12)
# Text with the grammar's own words in it, at line starts and elsewhere.
marker = st.sampled_from(
    ["Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:", " search", " 查询", "\n", " ", "{}", "x"]
)
react_text = st.lists(st.one_of(marker, text), max_size=14).map("".join)

scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), text)
keys = st.sampled_from(
    [
        "messages", "conversations", "from", "value", "role", "content", "tools", "tool_calls", "function_call", "name",
        "function", "arguments", "parameters", "type", "text", "reasoning", "query", "response", "instruction",
        "output", "history", "system", "weight", "loss", "id", "tool_call_id", "required", "properties",
    ]
)  # fmt: skip
words = st.sampled_from(
    ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation", "tool_call", "text", "object",
     "thinking", "dict", '{"name": "f", "arguments": {}}', '[{"name": "f"}]', SYSTEM]
)  # fmt: skip
anything = st.recursive(
    st.one_of(scalars, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=25,
)
messages = st.lists(st.dictionaries(keys, anything, max_size=5), max_size=4)
rows = st.one_of(
    st.dictionaries(keys, anything, max_size=6),
    st.fixed_dictionaries({"messages": messages}, optional={"tools": anything}),
    st.fixed_dictionaries({"conversations": messages}, optional={"tools": anything, "system": anything}),
)


def attempt(action):
    """Return what `action` returns, or the DataError it raises; any other exception is a failure of the test."""
    try:
        return action()
    except DataError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(row=rows)
def test_any_row_is_a_conversation_or_a_data_error_with_a_fix(row):
    for name in registry.names():
        form = registry.get(name)
        assert isinstance(form.detect(row), bool)
        outcome = attempt(lambda: form.read(row, SOURCE))  # noqa: B023 - called at once
        if isinstance(outcome, DataError):
            assert outcome.code == outcome.code.lower().replace(" ", "-")
            assert outcome.fix
        else:
            assert any(message.role == "assistant" for message in outcome.messages)


@settings(max_examples=300, deadline=None)
@given(
    own=st.sampled_from(["", "Be brief.", "a\n\n", "\n"]),
    tail=st.sampled_from(["", "\n", "\nmore", " "]),
    language=st.sampled_from(["en", "zh"]),
    values=st.lists(st.tuples(react_text, react_text), min_size=1, max_size=3),
)
def test_an_accepted_ms_agent_row_comes_back_byte_for_byte(own, tail, language, values):
    turns = [{"from": "system", "value": write_system(own, TOOLS, language) + tail}]
    for question, answer in values:
        turns += [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    try:
        conversation = ms_agent.read({"conversations": turns}, SOURCE)
    except DataError:
        return
    assert conversation.style == {"en": "react", "zh": "react_zh"}[language]
    written = ms_agent.write(conversation)["conversations"]
    assert json.dumps(written, ensure_ascii=False) == json.dumps(turns, ensure_ascii=False)


def steps() -> st.SearchStrategy[str]:
    call = st.builds(
        "{}Action: {}\nAction Input: {}\nObservation: {}\n".format,
        st.sampled_from(["", "Thought: hm\n", "  Thought: hm \n\n"]),
        st.sampled_from(["search", "查询", " search "]),
        st.sampled_from(["{}", "{'q': '杭'}", '{"q":\n 1}', "free text"]),
        text,
    )
    last = st.builds(
        "{}Final Answer: {}".format,
        st.sampled_from(["", "Thought: done\n"]),
        st.text("ab 杭\n").map(lambda end: f"a{end}"),
    )
    return st.builds(lambda calls, end: "".join(calls) + end, st.lists(call, max_size=3), last)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(steps(), min_size=1, max_size=3))
def test_grammatical_turns_are_accepted_and_come_back(values):
    turns = [{"from": "system", "value": SYSTEM}]
    for value in values:
        turns += [{"from": "user", "value": "q"}, {"from": "assistant", "value": value}]
    conversation = ms_agent.read({"conversations": turns}, SOURCE)
    calls = sum(len(message.tool_calls) for message in conversation.messages)
    assert calls == sum(value.count("Action Input:") for value in values)
    assert ms_agent.write(conversation)["conversations"] == turns


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    drawn = [Message(role="system", content=draw(text))] if draw(st.booleans()) else []
    count = 0
    for _ in range(draw(st.integers(1, 3))):
        drawn.append(Message(role="user", content=draw(text)))
        for _ in range(draw(st.integers(0, 2))):
            names = draw(st.lists(st.sampled_from(["search", "查询"]), min_size=1, max_size=2))
            arguments = st.dictionaries(text, st.one_of(text, st.integers()), max_size=2)
            calls = [
                ToolCall(name=name, arguments=json.dumps(draw(arguments), ensure_ascii=False), id=f"id{count + place}")
                for place, name in enumerate(names)
            ]
            count += len(calls)
            content, reasoning = draw(text), draw(text)
            drawn.append(Message(role="assistant", content=content, reasoning=reasoning, tool_calls=tuple(calls)))
            drawn += [Message(role="tool", content=draw(react_text), tool_call_id=call.id) for call in calls]
        weight = draw(st.sampled_from([1.0, 0.0, 0.5]))
        answer = draw(react_text.filter(lambda end: end.strip() and not REACT.search(end)))
        drawn.append(Message(role="assistant", content=answer, train=draw(st.booleans()), weight=weight))
    return Conversation(messages=tuple(drawn), tools=TOOLS, source=SOURCE, id=draw(st.none() | st.just("r1")))


@settings(max_examples=200, deadline=None)
@given(conversation=conversations())
def test_openai_rows_written_read_back_the_same(conversation):
    written = json.loads(json.dumps(openai.write(conversation)))
    assert openai.read(written, SOURCE) == conversation


@settings(max_examples=300, deadline=None)
@given(conversation=conversations())
def test_react_text_of_another_format_is_refused_or_reads_back_with_the_same_meaning(conversation):
    written = attempt(lambda: ms_agent.write(conversation))
    if isinstance(written, DataError):
        assert written.fix
        return
    again = ms_agent.read(written, SOURCE)
    assert [tool.name for tool in again.tools] == [tool.name for tool in conversation.tools]

    def facts(value: Conversation) -> list[tuple[object, ...]]:
        return [
            (m.role, m.content.strip() if not m.tool_calls else "", m.train, m.weight, [c.name for c in m.tool_calls])
            for m in value.messages
            if m.role != "system"
        ]

    assert facts(again) == facts(conversation)
    assert ms_agent.write(again) == written
