"""sharegpt, swift, query-response, alpaca and text rows."""

from __future__ import annotations

import json
import re

import pytest

from actune.core.errors import DataError
from actune.core.types import Source
from actune.data.reading.sources import load_conversations
from actune.formats import alpaca, query_response, sharegpt, swift, text
from actune.formats.registry import read_row

SOURCE = Source(file="rows.jsonl", line=1)
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}


def talk(*turns: tuple[str, object], **extra: object) -> dict:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns], **extra}


def chat(*turns: tuple[str, object], **extra: object) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **extra}


CALL = '{"name": "f", "arguments": {"x": "杭"}}'


def test_sharegpt_calls_and_results():
    turns = [("human", "q"), ("function_call", CALL), ("observation", "r"), ("gpt", "a")]
    conversation = sharegpt.read(talk(*turns, tools=json.dumps([TOOL]), system="s"), SOURCE)
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].tool_calls[0].arguments == '{"x": "杭"}'
    assert conversation.tools[0].name == "f"


def test_sharegpt_parallel_calls_with_arguments_as_text():
    value = [{"name": "f", "arguments": '{"x":1}'}, {"name": "f", "arguments": {}}]
    conversation = sharegpt.read(talk(("human", "q"), ("function_call", value), ("observation", "r")), SOURCE)
    assert [call.arguments for call in conversation.messages[1].tool_calls] == ['{"x":1}', "{}"]


def test_swift_joins_a_text_and_the_calls_after_it():
    turns = [("user", "q"), ("assistant", "let me see"), ("tool_call", CALL), ("tool_call", CALL)]
    results = [("tool_response", "r1"), ("tool_response", "r2"), ("assistant", "a")]
    conversation = swift.read(chat(*turns, *results, tools=[TOOL]), SOURCE)
    asked = conversation.messages[1]
    assert (asked.content, len(asked.tool_calls)) == ("let me see", 2)
    assert [m.content for m in conversation.messages[2:]] == ["r1", "r2", "a"]


def test_swift_masks_a_call_on_its_own():
    raw = chat(("user", "q"), ("tool_call", CALL), ("tool_response", "r"), ("assistant", "a"))
    raw["messages"][1]["loss"] = False
    assert [m.train for m in swift.read(raw, SOURCE).messages] == [True, False, True, True]


def test_alpaca_joins_instruction_and_input_and_reads_the_history():
    raw = {"instruction": "i", "input": "n", "output": "o", "system": None, "history": [["q", "a"]]}
    assert [m.content for m in alpaca.read(raw, SOURCE).messages] == ["q", "a", "i\nn", "o"]
    assert alpaca.read({"instruction": "i", "input": "", "output": "o"}, SOURCE).messages[0].content == "i"


def test_query_response_ignores_other_keys():
    conversation = query_response.read({"query": "q", "response": "r", "tag": "zh", "system": "s"}, SOURCE)
    assert [m.content for m in conversation.messages] == ["s", "q", "r"]


def test_react_text_in_query_and_response_is_split_into_steps():
    system = (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        "1. f: Find. Parameters: []\n\nUse the following format:\n\nThought: x\nBegin!"
    )
    response = "Action: f\nAction Input: {}\nObservation: r\nThought: k\nFinal Answer: a"
    conversation = query_response.read({"query": "q", "response": response, "system": system}, SOURCE)
    assert conversation.style == "react"
    assert [m.role for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("form", "raw", "code", "field"),
    [
        (
            "sharegpt",
            talk(("human", "q"), ("function_call", "{nope"), ("observation", "r")),
            "call-unreadable",
            "conversations[1].value",
        ),
        (
            "sharegpt",
            talk(("human", "q"), ("gpt", "a"), ("observation", "r")),
            "result-without-call",
            "conversations[2]",
        ),
        (
            "sharegpt",
            talk(("human", "q"), ("function_call", CALL), ("observation", "r"), tools=[{**TOOL, "name": "g"}]),
            "unknown-tool",
            "conversations[1]",
        ),
        (
            "sharegpt",
            talk(("system", "a"), ("human", "q"), ("gpt", "a"), system="b"),
            "system-twice",
            "conversations[0]",
        ),
        ("swift", chat(("user", "q"), ("tool_call", "[]")), "call-unreadable", "messages[1].content"),
        (
            "swift",
            chat(("user", "q"), ("tool_call", CALL), ("tool_response", None)),
            "content-type",
            "messages[2].content",
        ),
        ("swift", chat(("bot", "q")), "role-unknown", "messages[0].role"),
        ("alpaca", {"instruction": "", "input": "", "output": "o"}, "question-empty", "instruction"),
        ("alpaca", {"instruction": "i", "output": ""}, "answer-empty", "output"),
        ("alpaca", {"instruction": "i", "output": None}, "content-type", "output"),
        ("alpaca", {"instruction": "i", "output": "o", "history": [["q"]]}, "history-unreadable", "history[0]"),
        (
            "alpaca",
            {"instruction": "i", "output": "Thought: x\nAction: search\nAction Input: y\nObservation: z"},
            "tools-missing",
            "output",
        ),
        (
            "alpaca",
            {"instruction": "i", "output": "Observation: z\nThought: x\nAction: search[y]"},
            "observation-as-answer",
            "output",
        ),
        (
            "alpaca",
            {
                "instruction": "i",
                "output": "Action: search[y]\nObservation: z\nThought: x\nFinal Answer: a\nObservation: b",
            },
            "observation-without-action",
            "output",
        ),
        ("query-response", {"query": "q"}, "content-type", "response"),
        ("query-response", {"query": ["q"], "response": "r"}, "content-type", "query"),
    ],
)
def test_a_wrong_row_names_code_and_field(form, raw, code, field):
    with pytest.raises(DataError) as caught:
        read_row(raw, SOURCE, form)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.fix


@pytest.mark.shared
@pytest.mark.parametrize(
    ("language", "refused"), [("en", {}), ("zh", {198: "result-without-call", 294: "result-without-call"})]
)
def test_real_sharegpt_rows(shared, language, refused):
    rows = json.loads((shared / f"data/agent/glaive_toolcall_{language}_demo.json").read_text(encoding="utf-8"))
    faults = {}
    for number, raw in enumerate(rows, 1):
        try:
            sharegpt.read(raw, SOURCE)
        except DataError as error:
            faults[number] = error.code
    assert faults == refused


def test_a_plain_text_is_one_message_that_is_never_trained():
    conversation = text.read({"id": 3, "text": " two\nlines "}, SOURCE)
    [message] = conversation.messages
    assert (message.role, message.content, message.train) == ("assistant", " two\nlines ", False)
    assert text.write(conversation) == {"id": "3", "text": " two\nlines "}
    chat_row = read_row(chat(("user", "q"), ("assistant", "a")) | {"x": 1}, SOURCE, "openai")
    with pytest.raises(DataError) as caught:
        text.write(chat_row)
    assert caught.value.code == "format-cannot-hold"


def test_observations_of_text_without_a_list_of_tools_are_turns_of_the_user():
    """As FireAct writes them: every action holds its input, and no observation is trained."""
    steps = [
        "Thought: x\nAction: search[y: z]",
        "Observation: one\ntwo\nObservation: three",
        "Action: finish[a]\n",
        "Observation: done",
    ]
    row = {"instruction": "q", "output": "\n".join(steps), "weight": 0.5}
    conversation = read_row(row, SOURCE, "alpaca")
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("user", "q"),
        ("assistant", steps[0]),
        ("user", steps[1]),
        ("assistant", steps[2]),
        ("user", steps[3]),
    ]
    assert {m.weight for m in conversation.messages if m.role == "assistant"} == {0.5}
    quoted = "Our protocol:\nObservation: it boils.\nThought: hm"
    assert len(read_row({"instruction": "q", "output": quoted}, SOURCE, "alpaca").messages) == 2
    one = "Thought: x\nAction: finish[a]"
    assert read_row({"instruction": "q", "output": one}, SOURCE, "alpaca").messages[1].content == one


@pytest.mark.shared
def test_real_rows_of_fireact(shared):
    for name, read in (("fireact_alpaca.json", 1344), ("fireact_openai.jsonl", 2058)):
        loaded = load_conversations(str(shared / "data/agent" / name))
        assert len(loaded.conversations) == read
        texts = [m.content for row in loaded.conversations for m in row.messages if m.role == "assistant"]
        assert not any(re.search(r"^Observation:", text, re.MULTILINE) for text in texts)
        assert {one.code for one in loaded.quarantined} <= {"observation-as-answer"}
