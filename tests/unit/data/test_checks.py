from __future__ import annotations

import pytest

from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.data.checks import find_problems

TOOL = ToolSpec(
    name="weather",
    parameters={"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
)


def row(*messages: Message, repairs: tuple[str, ...] = ()) -> Conversation:
    start = Message(role="user", content="hi")
    return Conversation(messages=(start, *messages), tools=(TOOL,), source=Source(file="x", line=1), repairs=repairs)


def call(arguments: str = '{"days": 1}', name: str = "weather") -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments),))


RESULT = Message(role="tool", content="sunny")
ANSWER = Message(role="assistant", content="Sunny.")


def codes(conversation: Conversation) -> list[tuple[str, str]]:
    return [(finding.level, finding.code) for finding in find_problems(conversation)]


def test_sound_row_has_no_findings():
    assert codes(row(call(), RESULT, ANSWER)) == []


@pytest.mark.parametrize(
    ("messages", "finding"),
    [
        ((call(name="wether"), RESULT, ANSWER), ("error", "unknown-tool")),
        ((call(), ANSWER), ("error", "observation-missing")),
        ((call("{'days': 1}"), RESULT, ANSWER), ("warning", "arguments-python-literal")),
        ((call("days=1"), RESULT, ANSWER), ("warning", "arguments-unreadable")),
        ((call('{"days": "one"}'), RESULT, ANSWER), ("warning", "arguments-schema")),
        ((call("{}"), RESULT, ANSWER), ("warning", "arguments-schema")),
        ((Message(role="assistant", content=" "),), ("warning", "empty-answer")),
    ],
)
def test_each_finding_is_named(messages: tuple[Message, ...], finding: tuple[str, str]):
    assert codes(row(*messages)) == [finding]


def test_repairs_of_the_reader_are_reported():
    assert codes(row(ANSWER, repairs=("tool weather: mended",))) == [("warning", "source-repaired")]


def test_call_at_the_end_of_a_row_needs_no_result():
    assert codes(row(call())) == []


def test_schema_never_fetches_a_reference():
    remote = ToolSpec(name="weather", parameters={"$ref": "http://127.0.0.1:9/schema.json"})
    conversation = Conversation(messages=(call(), RESULT, ANSWER), tools=(remote,), source=Source(file="x", line=1))
    findings = find_problems(conversation)
    assert [finding.code for finding in findings] == ["arguments-schema"]
    assert "cannot be resolved" in findings[0].message


def test_a_row_without_weight_is_an_error():
    silent = Message(role="assistant", content="A", weight=0)
    assert codes(row(silent)) == [("error", "nothing-trained")]
    assert codes(row(silent, Message(role="user", content="hi"), ANSWER)) == []
