"""ReAct text to native calls and back: what is kept, what becomes what, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actune.core.api_list import read_system, write_system
from actune.core.conversion import convert_style, flatten, to_chat, to_react
from actune.core.differences import find_difference, list_changes
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec

SOURCE = Source(file="rows.jsonl", line=7)
SEARCH = ToolSpec(
    name="search",
    description="Find.",
    parameters={
        "type": "object",
        "properties": {"q": {"type": "string", "description": "what"}},
        "required": ["q"],
    },
)


def react_row(arguments: str = '{"q": "x"}', **extra) -> Conversation:
    values = {
        "messages": (
            Message(role="system", content="Be brief."),
            Message(role="user", content="q"),
            Message(role="assistant", reasoning="I look", tool_calls=(ToolCall(name="search", arguments=arguments),)),
            Message(role="tool", content="found", source_text="found\n"),
            Message(role="assistant", reasoning="done", content="It is x."),
        ),
        "tools": (SEARCH,),
        "style": "react",
        "source": SOURCE,
    }
    return Conversation(**(values | extra))


def chat_row(*messages: Message, **extra) -> Conversation:
    values = {"messages": messages, "tools": (SEARCH,), "source": SOURCE}
    return Conversation(**(values | extra))


def call(arguments: str = '{"q": "x"}', **extra) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="search", arguments=arguments, id="a"),), **extra)


USER = Message(role="user", content="q")
RESULT = Message(role="tool", content="r", tool_call_id="a")
ANSWER = Message(role="assistant", content="done")


def test_react_steps_become_calls_with_ids_that_their_results_name():
    chat = to_chat(react_row())
    assert chat.style == "chat"
    step, result = chat.messages[2:4]
    assert step.tool_calls == (ToolCall(name="search", arguments='{"q": "x"}', id="call00000"),)
    assert step.reasoning == "I look"
    assert (result.tool_call_id, result.content, result.source_text) == ("call00000", "found", None)
    assert chat.messages[0].content == "Be brief."
    assert chat.tools == (SEARCH,)


@pytest.mark.parametrize(
    ("given", "kept"),
    [('{ "q":1 }', '{ "q":1 }'), ("{'q': '杭'}", '{"q": "杭"}'), ("{'q': None, 'b': True}", '{"q": null, "b": true}')],
)
def test_json_arguments_stay_and_python_literals_become_json(given, kept):
    assert to_chat(react_row(given)).messages[2].tool_calls[0].arguments == kept


@pytest.mark.parametrize(
    "given", ["Hangzhou", "", "[1]", '"q"', "12", '{"q": NaN}', '{"q": 1, "q": 2}', "{'q': set()}", '{"q": 1'],
)  # fmt: skip
def test_arguments_that_are_no_object_are_never_guessed(given):
    with pytest.raises(DataError) as caught:
        to_chat(react_row(given))
    assert caught.value.code == "arguments-unreadable"
    assert caught.value.field == "messages[2].tool_calls[0].arguments"
    assert caught.value.fix


def test_text_beside_a_call_becomes_its_thought_and_is_counted():
    row = chat_row(Message(role="system"), USER, call(content="Let me look."), RESULT, ANSWER)
    react = to_react(row, "react")
    assert [(m.role, m.reasoning, m.content) for m in react.messages] == [
        ("user", "", "q"),
        ("assistant", "Let me look.", ""),
        ("tool", "", "r"),
        ("assistant", "", "done"),
    ]
    assert list_changes(row, react) == {"text-to-thought", "empty-system"}


@pytest.mark.parametrize(
    ("messages", "code", "field"),
    [
        ((USER, replace(call(), tool_calls=call().tool_calls * 2), ANSWER), "react-parallel-calls", "[1].tool_calls"),
        ((USER, call(content="a", reasoning="b"), RESULT, ANSWER), "react-two-thoughts", "[1].content"),
        ((USER, ANSWER, ANSWER), "react-two-answers", "[2]"),
        ((USER, call(), replace(RESULT, content="r\nThought: x"), ANSWER), "react-marker-in-text", "[2]"),
        ((USER, replace(ANSWER, content="a\nObservation: b")), "react-marker-in-text", "[1]"),
        ((USER, replace(ANSWER, reasoning="a\nFinal Answer: b")), "react-marker-in-text", "[1]"),
        ((USER, call('{"q":\n"x"}\nThought: y'), RESULT, ANSWER), "react-marker-in-text", "[1]"),
        ((replace(USER, name="Li"), ANSWER), "react-speaker", "[0].name"),
        ((USER, call(), replace(RESULT, name="other"), ANSWER), "react-speaker", "[2].name"),
    ],
)
def test_what_react_text_cannot_hold_is_refused_by_name(messages, code, field):
    with pytest.raises(DataError) as caught:
        to_react(chat_row(*messages), "react")
    assert (caught.value.code, caught.value.field) == (code, f"messages{field}")
    assert caught.value.fix


def test_a_result_named_as_its_tool_loses_nothing():
    row = chat_row(USER, call(), replace(RESULT, name="search"), ANSWER)
    assert find_difference(to_chat(to_react(row, "react")), row) is None


@pytest.mark.parametrize(
    ("tools", "code"),
    [
        ((replace(SEARCH, name="a: b"),), "react-api-list"),
        ((replace(SEARCH, name=" search"),), "react-api-list"),
        ((replace(SEARCH, description="x Parameters: []\n\n2. y: z"),), "react-api-list"),
        ((replace(SEARCH, parameters={"type": "object", "properties": {}, "$defs": {"a": {}}}),), "react-tool-schema"),
        ((replace(SEARCH, parameters={"type": "object", "q": {"type": "string"}}),), "react-tool-schema"),
        ((replace(SEARCH, parameters={"type": "object", "required": ["q"]}),), "react-tool-schema"),
    ],
)
def test_tools_that_the_list_cannot_hold_are_refused(tools, code):
    with pytest.raises(DataError) as caught:
        to_react(chat_row(USER, ANSWER, tools=tools), "react")
    assert caught.value.code == code


def test_a_system_text_with_an_api_list_of_its_own_is_refused():
    own = write_system("", (replace(SEARCH, name="other"),))
    with pytest.raises(DataError) as caught:
        to_react(chat_row(Message(role="system", content=own), USER, ANSWER), "react")
    assert (caught.value.code, caught.value.field) == ("react-api-list", "messages[0].content")


def test_a_nested_object_keeps_its_own_required_keys():
    where = {
        "type": "object",
        "description": "place",
        "properties": {"name": {"type": "string"}, "zip": {"type": "string"}},
        "required": ["name"],
    }
    schema = {"type": "object", "properties": {"where": where, "n": {"type": "integer"}}, "required": ["where"]}
    tool = replace(SEARCH, parameters=schema)
    react = to_react(chat_row(USER, ANSWER, tools=(tool,)), "react")
    read = read_system(write_system("", react.tools))
    assert read.tools[0].parameters["required"] == ["where"]
    assert read.tools[0].parameters["properties"]["where"] == where


def test_notes_of_a_schema_are_left_out_and_counted():
    tool = replace(SEARCH, parameters={**SEARCH.parameters, "additionalProperties": False})
    row = chat_row(USER, ANSWER, tools=(tool,))
    assert list_changes(row, to_react(row, "react")) == {"schema-notes"}


def test_another_language_keeps_the_steps_and_writes_its_own_instructions():
    row = react_row(system_source="the whole system text")
    chinese = convert_style(row, "react_zh")
    assert chinese.messages == row.messages
    text = flatten(chinese).messages[0].content
    assert text == write_system("Be brief.", (SEARCH,), "zh")
    assert list_changes(row, chinese) == {"layout"}


def test_rows_without_tools_are_plain_chat_in_every_style():
    row = chat_row(USER, ANSWER, tools=())
    assert all(convert_style(row, style) is row for style in ("react", "react_zh", "chat"))
    with pytest.raises(DataError) as caught:
        convert_style(chat_row(USER, call(), RESULT, ANSWER, tools=()), "react")
    assert caught.value.code == "tools-missing"


def test_flatten_refuses_what_a_turn_cannot_hold():
    row = react_row()
    weighted = (*row.messages[:4], replace(row.messages[4], weight=0.5))
    with pytest.raises(DataError) as caught:
        flatten(replace(row, messages=weighted))
    assert (caught.value.code, caught.value.field) == ("react-weights", "messages[2]")
    # A row of messages can hold an Observation that the text of a turn cannot.
    split = replace(row.messages[3], content="a\nFinal Answer: b", source_text=None)
    with pytest.raises(DataError) as caught:
        flatten(replace(row, messages=(*row.messages[:3], split, row.messages[4])))
    assert caught.value.code == "react-marker-in-text"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"content": "other"}, "messages[3].content"),
        ({"weight": 0.5}, "messages[3].weight"),
        ({"train": False}, "messages[3].train"),
        ({"reasoning": "hm"}, "messages[3].reasoning"),
    ],
)
def test_differences_are_named(change, place):
    row = chat_row(USER, call(), RESULT, ANSWER)
    assert find_difference(row, replace(row, messages=(*row.messages[:3], replace(ANSWER, **change)))) == place


def test_a_difference_in_values_pairing_or_tools_is_seen():
    row = chat_row(USER, call('{"q": 1}'), RESULT, ANSWER)
    for arguments in ('{"q": 1.0}', '{"q": true}', '{"q": "1"}', '{"q": 1, "r": 2}'):
        other = chat_row(USER, call(arguments), RESULT, ANSWER)
        assert find_difference(row, other) == "messages[1].tool_calls"
    assert find_difference(row, chat_row(USER, call("{'q': 1}"), RESULT, ANSWER)) is None
    calls = (ToolCall(name="search", arguments='{"q": 1}', id="a"), ToolCall(name="search", arguments="{}", id="b"))
    both = Message(role="assistant", tool_calls=calls)
    other = replace(RESULT, tool_call_id="b")
    straight, crossed = chat_row(USER, both, RESULT, other, ANSWER), chat_row(USER, both, other, RESULT, ANSWER)
    assert find_difference(straight, crossed) == "messages[2].tool_call_id"
    assert find_difference(row, replace(row, tools=(replace(SEARCH, description="Else."),))) == "tools[0]"
    assert find_difference(row, replace(row, tools=())) == "tools"
    assert find_difference(row, replace(row, messages=row.messages[:3])) == "messages"
