"""ToolBench rows in their three layouts; what is not whole there is refused."""

from __future__ import annotations

import json

import pytest

from actune.core.errors import DataError
from actune.core.types import Conversation, Source
from actune.data.reading.sources import load_conversations
from actune.formats import openai, registry, toolbench

SOURCE = Source(file="rows.json", line=1)


def function(name: str, **properties: object) -> dict:
    parameters = {"type": "object", "properties": properties, "required": [], "optional": list(properties)}
    return {"name": name, "description": f'The "{name}".', "parameters": parameters}


WEATHER = function("weather_for_api", city={"type": "string", "example_value": "Rome"})
FINISH = function("Finish", return_type={"type": "string", "enum": ["give_answer", "give_up_and_restart"]})
TOOLS = [WEATHER, FINISH]
END = '{\n  "return_type": "give_answer",\n  "final_answer": "It\'s sunny."\n}'
SYSTEM = "You are AutoGPT.\nYou have access of the following tools:\n1.api: An API.\n"


def trained(*turns: tuple[str, str]) -> dict:
    listed = f"{SYSTEM}\nSpecifically, you have access to the following APIs: {TOOLS}"
    talk = [("system", listed), ("user", "\nq\nBegin!\n"), *turns]
    return {"id": "Step 4: q", "conversations": [{"from": speaker, "value": value} for speaker, value in talk]}


CALL = ("assistant", '\nThought: \nAction: weather_for_api\nAction Input: {\n  "city": "Rome"\n}')
RESULT = ("function", '{"error": "", "response": "{\'w\': \'sunny\'}"}')
LAST = ("assistant", f"\nThought: I know.\nThought: Really.\nAction: Finish\nAction Input: {END}")


def said(conversation: Conversation) -> list[tuple[str, str, str, list[tuple[str, str]]]]:
    return [
        (m.role, m.content, m.reasoning, [(c.name, c.arguments) for c in m.tool_calls]) for m in conversation.messages
    ]


def test_rows_of_toolllama_are_react_text_with_the_list_as_tools():
    row = trained(CALL, RESULT, LAST)
    assert registry.detect_format([trained(CALL), row]) == "toolbench"
    assert registry.detect_format([trained(CALL)]) == "toolbench"
    conversation = toolbench.read(row, SOURCE)
    assert conversation.style == "react"
    assert said(conversation) == [
        ("system", SYSTEM.rstrip(), "", []),
        ("user", "\nq\nBegin!\n", "", []),
        ("assistant", "", "", [("weather_for_api", '{\n  "city": "Rome"\n}')]),
        ("tool", RESULT[1], "", []),
        ("assistant", "", "I know.\nReally.", [("Finish", END)]),
    ]
    assert [tool.name for tool in conversation.tools] == ["weather_for_api", "Finish"]
    assert conversation.tools[0].parameters == {
        "type": "object",
        "properties": {"city": {"type": "string", "example_value": "Rome"}},
        "required": [],
    }


def raw(*chains: list[dict], **extra: object) -> dict:
    answer = {"valid_data": True, "function": TOOLS, "query": "q", "train_messages": list(chains), **extra}
    return {"win": True, "tree": {"tree": {}}, "answer_generation": answer}


def message(role: str, content: str | None, call: tuple[str, str] | None = None, **extra: object) -> dict:
    named = {} if call is None else {"function_call": {"name": call[0], "arguments": call[1]}}
    return {"role": role, "content": content, **named, **extra}


OPENING = [message("system", SYSTEM), message("user", "\nq\nBegin!\n")]
CHAIN = [
    *OPENING,
    message("assistant", "Let me"),
    message("assistant", "look."),
    message("assistant", None, ("weather_for_api", "{}")),
    message("function", "sunny", name="weather_for_api"),
    message("user", "This is not the first time you try this task.", valid=False),
    message("assistant", "I know.", ("Finish", END)),
]


def test_a_raw_answer_is_its_last_chain():
    row = raw(CHAIN[:5], CHAIN)
    assert registry.detect_format([row]) == "toolbench"
    conversation = toolbench.read(row, SOURCE)
    assert (conversation.style, len(conversation.repairs)) == ("chat", 1)
    assert said(conversation) == [
        ("system", SYSTEM, "", []),
        ("user", "\nq\nBegin!\n", "", []),
        ("assistant", "Let me\nlook.", "", [("weather_for_api", "{}")]),
        ("tool", "sunny", "", []),
        ("assistant", "I know.", "", [("Finish", END)]),
    ]
    assert said(openai.read(openai.write(conversation), SOURCE)) == said(conversation)


def node(role: str, text: object, *after: dict) -> dict:
    return {"role": role, "message": text, "next": list(after)}


def called(name: str, arguments: str, response: str) -> dict:
    return {"name": name, "arguments": arguments, "response": response}


def converted(*after: dict) -> dict:
    user = node("user", "q"[:100], *after)
    return {"query": "q", "available_tools": TOOLS, "answer": {"answer_details": [node("system", "", user)]}}


def test_a_converted_answer_whose_messages_are_whole():
    end = node("tool", called("Finish", END, ""))
    weather = node("tool", str(called("weather_for_api", '{"city": "Rome"}', "sunny")), end)
    row = converted(node("assistant", "I look.", weather))
    assert registry.detect_format([row]) == "toolbench"
    assert said(toolbench.read(row, SOURCE)) == [
        ("user", "q", "", []),
        ("assistant", "I look.", "", [("weather_for_api", '{"city": "Rome"}')]),
        ("tool", "sunny", "", []),
        ("assistant", "", "", [("Finish", END)]),
    ]


CUT = str(called("weather_for_api", '{"city": "Rome"}', "sunny " * 30))[:100]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (converted(node("tool", CUT)), "toolbench-cut"),
        (converted(node("assistant", "x" * 100)), "toolbench-cut"),
        (converted(node("tool", "eval('1')")), "toolbench-cut"),
        (converted(node("assistant", "a"), node("assistant", "b")), "toolbench-branches"),
        (converted(node("tool", called("wether", "{}", ""))), "unknown-tool"),
        (converted(node("Thought", "a")), "role-unknown"),
        ({"available_tools": TOOLS, "answer": {}}, "toolbench-no-answer"),
        (raw(), "toolbench-no-answer"),
        (raw(CHAIN, valid_data=False), "toolbench-no-answer"),
        ({"answer_generation": None}, "toolbench-no-answer"),
        (raw([*OPENING, message("assistant", None, ("invalid_hallucination_function_name", "{}"))]), "unknown-tool"),
        (trained(CALL, ("assistant", "\nThought: hm")), "thought-only"),
        (trained(("assistant", CALL[1] + "\nObservation: sunny")), "observation-invented"),
        ({"conversations": trained(CALL, RESULT)["conversations"][1:]}, "tools-missing"),
        ({"conversations": [{"from": "system", "value": toolbench._MARK + " [{"}, *trained(CALL)["conversations"][1:]]}, "api-list-unreadable"),
    ],
)  # fmt: skip
def test_what_is_not_whole_or_clear_is_refused(row, code):
    with pytest.raises(DataError) as caught:
        registry.read_row(row, SOURCE, "toolbench")
    assert caught.value.code == code
    assert caught.value.fix


def test_answers_by_their_ids_are_the_rows_of_a_file(tmp_path):
    path = tmp_path / "G1.json"
    rows = {"7": converted(node("assistant", "a")), "8": converted(node("tool", CUT))}
    path.write_text(json.dumps(rows))
    loaded = load_conversations(str(path))
    assert [conversation.id for conversation in loaded.conversations] == ["7"]
    assert [one.code for one in loaded.quarantined] == ["toolbench-cut"]


@pytest.mark.shared
def test_real_converted_answers_are_cut_and_each_is_counted(shared):
    loaded = load_conversations(str(shared / "data/agent/toolbench_tooleval_G1.json"))
    assert (len(loaded.conversations), len(loaded.quarantined)) == (0, 100)
    assert {one.code for one in loaded.quarantined} == {"toolbench-cut"}
