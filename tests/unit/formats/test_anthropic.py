"""Anthropic rows: blocks, results of parallel calls, tools, and what no block list can hold."""

from __future__ import annotations

import json

import pytest

from actune.core.errors import DataError
from actune.core.types import Source
from actune.formats import anthropic, openai, registry

SOURCE = Source(file="rows.jsonl", line=1)
TOOL = {
    "name": "weather",
    "description": "Weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USER = {"role": "user", "content": "Is it raining?"}


def use(city: str, call_id: str = "a") -> dict:
    return {"type": "tool_use", "id": call_id, "name": "weather", "input": {"city": city}}


def result(call_id: str, content: object = "sunny", **extra: object) -> dict:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **extra}


def text(value: str) -> dict:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def row(*messages: dict, **extra: object) -> dict:
    return {"messages": list(messages), "tools": [TOOL], **extra}


def assistant(*blocks: dict, **extra: object) -> dict:
    return {"role": "assistant", "content": list(blocks), **extra}


def user(*blocks: dict) -> dict:
    return {"role": "user", "content": list(blocks)}


WHOLE = row(
    USER,
    assistant(
        {"type": "thinking", "thinking": "Two.", "signature": "x"}, text("I "), text("look."), use("a"), use("b", "b")
    ),
    user(result("b", [text("su"), text("nny")]), result("a", "rain"), text("And?")),
    assistant(text("Both."), weight=0.5),
    system=[text("Be "), text("brief.")],
    id="r",
)


def test_blocks_are_messages_in_their_order():
    conversation = anthropic.read(WHOLE, SOURCE)
    assert [m.role for m in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
    ]
    system, _, calls, first, second, asked, last = conversation.messages
    assert (system.content, calls.reasoning, calls.content) == ("Be brief.", "Two.", "I look.")
    assert [(c.id, c.name, c.arguments) for c in calls.tool_calls] == [
        ("a", "weather", '{"city": "a"}'),
        ("b", "weather", '{"city": "b"}'),
    ]
    assert [(m.tool_call_id, m.content) for m in (first, second)] == [("b", "sunny"), ("a", "rain")]
    assert (asked.content, last.weight, conversation.id) == ("And?", 0.5, "r")
    assert conversation.tools[0].describe() == {
        "type": "function",
        "function": {"name": "weather", "description": "Weather of a city.", "parameters": TOOL["input_schema"]},
    }
    assert conversation.repairs == ()
    assert openai.read(openai.write(conversation), SOURCE) == conversation


def test_written_rows_read_back_the_same():
    conversation = anthropic.read(WHOLE, SOURCE)
    written = anthropic.write(conversation)
    assert anthropic.read(json.loads(json.dumps(written)), SOURCE) == conversation
    assert written["system"] == "Be brief."
    assert written["messages"][2]["content"] == [result("b"), result("a", "rain")]
    assert written["tools"] == [TOOL]
    without_ids = openai.read(
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{}"}]},
                {"role": "tool", "content": "r"},
            ]
        },
        SOURCE,
    )
    blocks = [message["content"][0] for message in anthropic.write(without_ids)["messages"][1:]]
    assert (blocks[0]["id"], blocks[1]["tool_use_id"]) == ("call00000", "call00000")


def test_plain_rows_beside_rows_of_blocks_are_one_format():
    plain = {"messages": [USER, {"role": "assistant", "content": "No."}], "system": "Be brief."}
    blocks = row(USER, assistant(use("a")))
    assert registry.detect_format([plain]) == "openai"
    assert registry.detect_format([plain, blocks]) == "anthropic"
    assert registry.detect_format([row(USER, assistant(text("No.")))]) == "anthropic"  # its tools
    messages = [registry.read_row(plain, SOURCE, name).messages for name in ("openai", "anthropic", "swift")]
    assert messages[0] == messages[1] == messages[2]
    assert messages[0][0].content == "Be brief."


def test_what_is_not_kept_is_a_repair():
    failed = anthropic.read(row(USER, assistant(use("a")), user(result("a", "no", is_error=True))), SOURCE)
    assert failed.messages[2].content == "no"
    assert failed.repairs == ("messages[2].content[0]: is_error is not kept; only the text of the result is",)
    empty = anthropic.read(row(USER, assistant(use("a")), user({"type": "tool_result", "tool_use_id": "a"})), SOURCE)
    assert empty.messages[2].content == ""


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (row(USER, assistant({"type": "redacted_thinking", "data": "x"})), "content-block", "messages[1].content[0]"),
        (row(user({"type": "image", "source": {}}), assistant(text("a"))), "content-block", "messages[0].content[0]"),
        (
            row(USER, assistant(use("a")), user(result("a", [{"type": "image"}]))),
            "content-block",
            "messages[2].content[0].content[0]",
        ),
        (row(USER, assistant(use("a"), text("after"))), "block-order", "messages[1].content[1]"),
        (
            row(USER, assistant(text("a"), {"type": "thinking", "thinking": "b"})),
            "block-order",
            "messages[1].content[1]",
        ),
        (row(USER, assistant(use("a")), user(text("wait"), result("a"))), "call-without-result", "messages[2]"),
        (row(USER, assistant(use("a")), user(result("b"))), "tool-call-id", "messages[2].content[0].tool_call_id"),
        (row(USER, assistant({**use("a"), "input": [1]})), "arguments-unreadable", "messages[1].content[0].input"),
        (row(USER, assistant({**use("a"), "name": "wether"})), "unknown-tool", "messages[1]"),
        (row(USER, {"role": "assistant", "content": None}), "content-missing", "messages[1].content"),
        (row({"role": "user", "content": []}, assistant(text("a"))), "content-missing", "messages[0].content"),
        (row(user(use("a")), assistant(text("a"))), "content-block", "messages[0].content[0]"),
        (
            row(USER, assistant(text("a")), tools=[{"type": "web_search_20250305", "name": "web_search"}]),
            "tool-parameters",
            "tools[0]",
        ),
        (row(USER, assistant(text("a")), system=[{"type": "image"}]), "content-block", "system[0]"),
    ],
)
def test_a_wrong_row_names_code_field_and_fix(raw, code, field):
    with pytest.raises(DataError) as caught:
        anthropic.read(raw, SOURCE)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("message", "code"),
    [({"role": "system", "content": ""}, "format-cannot-hold"), ({**USER, "name": "Li"}, "format-cannot-hold")],
)
def test_what_it_cannot_hold_is_refused(message, code):
    conversation = openai.read(
        {
            "messages": [
                message,
                *([USER] if message["role"] == "system" else []),
                {"role": "assistant", "content": "a"},
            ]
        },
        SOURCE,
    )
    with pytest.raises(DataError) as caught:
        anthropic.write(conversation)
    assert caught.value.code == code


def test_arguments_come_back_with_their_numbers():
    blocks = row(USER, assistant({**use("a"), "input": {"big": 12345678901234567890, "none": None, "one": 1.0}}))
    assert anthropic.read(blocks, SOURCE).messages[1].tool_calls[0].arguments == (
        '{"big": 12345678901234567890, "none": null, "one": 1.0}'
    )
    assert anthropic.write(anthropic.read(blocks, SOURCE))["messages"][1]["content"] == [
        {**use("a"), "input": {"big": 12345678901234567890, "none": None, "one": 1.0}}
    ]
