"""ms-agent rows: read into steps, written back byte for byte."""

from __future__ import annotations

import json
import time

import pytest

from actune.core.api_list import write_system
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.formats import ms_agent, registry

SOURCE = Source(file="rows.jsonl", line=7)
# The API list and the layout of an answer, as the reference gives them.
SYSTEM = (
    "Answer the following questions as best you can. You have access to the following APIs:\n"
    "1. hm_recipe_recommend: Call this tool to interact with the hmreciperecommend API. What is the hmreciperecommend "
    'API useful for? . Parameters: [{"name": "keywords_dict", "description": "盒马推荐菜谱关键词字典。", '
    '"required": "True"}]\n\n'
    "2. hm_product_recommend: Call this tool to interact with the hmproductrecommend API. What is the "
    'hmproductrecommend API useful for? . Parameters: [{"name": "keywords_dict", "description": '
    '"盒马推荐商品关键词字典。", "required": "True"}]\n\n'
    "Use the following format:\n\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[hm_recipe_recommend, hm_product_recommend]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n"
    "Begin!"
)
ANSWER = (
    "Action: hm_product_recommend\nAction Input: {'keywords_dict': {'商品类目': '手机', '适用场景': '拍照'}}\n"
    "Observation: [{'sku_code': '15956662254', 'product_name': '小米11 Ultra 5G手机 256GB'}]\n"
    "Thought: I now know the final answer\nFinal Answer: 为您推荐小米11 Ultra。"
)


def row(*turns: tuple[str, str], **extra: object) -> dict[str, object]:
    return {**extra, "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def reference() -> dict[str, object]:
    turns = [("system", SYSTEM), ("user", "你好，有哪些手机？"), ("assistant", ANSWER), ("user", "拍照好的？")]
    return row(*turns, ("assistant", ANSWER), id="MS_Agent_Bench_126374", tags=["x"])


def test_the_reference_row_becomes_tools_steps_and_results():
    conversation = ms_agent.read(reference(), SOURCE)
    assert conversation.style == "react"
    assert conversation.id == "MS_Agent_Bench_126374"
    assert conversation.source is SOURCE
    assert [tool.name for tool in conversation.tools] == ["hm_recipe_recommend", "hm_product_recommend"]
    assert conversation.tools[0].parameters["required"] == ["keywords_dict"]
    roles = [message.role for message in conversation.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant", "tool", "assistant"]
    call, result, answer = conversation.messages[1:4]
    assert call.tool_calls[0].arguments == "{'keywords_dict': {'商品类目': '手机', '适用场景': '拍照'}}"
    assert result.content.startswith("[{'sku_code'")
    assert (answer.reasoning, answer.content) == ("I now know the final answer", "为您推荐小米11 Ultra。")
    assert conversation.system_source is None
    assert conversation.repairs == ()


@pytest.mark.parametrize(
    "raw",
    [
        reference(),
        row(("system", SYSTEM), ("user", "q"), ("assistant", "Action: hm_recipe_recommend\nAction Input: {}")),
        row(("system", "Be brief.\n\n" + SYSTEM), ("user", "q"), ("assistant", "no marker at all")),
        row(("system", SYSTEM + "\nMore of mine."), ("user", "q"), ("assistant", "Thought: x \nFinal Answer:  y \n")),
        row(("system", ""), ("user", "hello"), ("assistant", "hi")),
        row(("user", "hello"), ("assistant", "hi"), ("user", "trailing")),
        row(("assistant", "first"), ("user", "hello"), ("assistant", " spaces kept \n")),
    ],
    ids=["reference", "open-call", "own-system", "odd-layout", "empty-system", "trailing-user", "assistant-first"],
)
def test_an_accepted_row_is_written_back_byte_for_byte(raw):
    written = ms_agent.write(ms_agent.read(raw, SOURCE))
    assert json.dumps(written["conversations"], ensure_ascii=False) == json.dumps(
        raw["conversations"], ensure_ascii=False
    )
    assert written.get("id") == raw.get("id")


def test_the_chinese_layout_comes_back_as_it_was():
    tool = ToolSpec(name="weather", description="天气。", parameters={"type": "object", "properties": {}})
    raw = row(("system", write_system("", [tool], "zh")), ("user", "q"), ("assistant", "Final Answer: 好"))
    conversation = ms_agent.read(raw, SOURCE)
    assert conversation.tools[0].name == "weather"
    assert (conversation.style, conversation.system_source) == ("react_zh", None)
    assert ms_agent.write(conversation)["conversations"] == raw["conversations"]


def test_the_users_own_system_text_is_the_system_message():
    raw = row(("system", "Be brief.\n\n" + SYSTEM), ("user", "q"), ("assistant", "Final Answer: y"))
    conversation = ms_agent.read(raw, SOURCE)
    assert conversation.messages[0] == Message(role="system", content="Be brief.")
    assert conversation.system_source is None


def test_a_repaired_parameter_list_is_named_and_the_source_text_kept():
    text = SYSTEM.replace("盒马推荐菜谱关键词字典。", '默认是""。')
    conversation = ms_agent.read(row(("system", text), ("user", "q"), ("assistant", ANSWER)), SOURCE)
    assert conversation.repairs == ("tool hm_recipe_recommend: parameter list with unescaped quotes",)
    assert conversation.system_source == text


def test_human_and_gpt_are_the_same_speakers():
    raw = row(("system", SYSTEM), ("human", "q"), ("gpt", ANSWER))
    assert ms_agent.detect(raw)
    assert [m.role for m in ms_agent.read(raw, SOURCE).messages] == ["user", "assistant", "tool", "assistant"]


def test_loss_false_covers_all_steps_of_the_turn_and_is_written_back():
    raw = row(("system", SYSTEM), ("user", "q"), ("assistant", ANSWER))
    raw["conversations"][2]["loss"] = False
    conversation = ms_agent.read(raw, SOURCE)
    assert [m.train for m in conversation.messages if m.role == "assistant"] == [False, False]
    assert ms_agent.write(conversation) == raw


@pytest.mark.parametrize(
    ("turns", "code", "part"),
    [
        ([("system", SYSTEM), ("user", "q"), ("assistant", "Action: a\nAction: b")], "action-without-input", "[2]"),
        ([("system", SYSTEM), ("user", "q"), ("assistant", "Thought: hm")], "thought-only", "[2]"),
        (
            [("system", SYSTEM), ("user", "q"), ("assistant", ANSWER.replace("product_", "produkt_"))],
            "unknown-tool",
            "did you mean 'hm_product_recommend'",
        ),
        ([("user", "q"), ("assistant", ANSWER)], "tools-missing", "[1]"),
        (
            [("system", SYSTEM.replace("Parameters: [", "Parameters: (")), ("user", "q"), ("assistant", "x")],
            "api-list-unreadable",
            "[0]",
        ),
        ([("system", "a"), ("system", "b"), ("assistant", "x")], "system-twice", "[1]"),
        ([("user", "q"), ("system", "b"), ("assistant", "x")], "system-late", "[1]"),
        ([("user", "q"), ("assistant", "x"), ("assistant", "y")], "assistant-twice", "[2]"),
        ([("user", "q")], "no-assistant", "nothing to train"),
        ([("user", "q"), ("assistant", "")], "answer-empty", "[1]"),
        ([("user", "q"), ("robot", "x")], "role-unknown", "'robot'"),
        (
            [
                ("system", SYSTEM),
                ("user", "q"),
                ("assistant", "Action: hm_recipe_recommend\nAction Input: {}"),
                ("user", "Observation: r"),
                ("assistant", "Final Answer: y"),
            ],
            "observation-in-user-turn",
            "[3]",
        ),
        (
            [
                ("system", SYSTEM),
                ("user", "q"),
                ("assistant", "Action: hm_recipe_recommend\nAction Input: {}"),
                ("user", "well?"),
                ("assistant", "Final Answer: y"),
            ],
            "call-without-result",
            "[3]",
        ),
    ],
)
def test_a_wrong_row_names_code_place_and_fix(turns, code, part):
    with pytest.raises(DataError) as caught:
        ms_agent.read(row(*turns), SOURCE)
    assert caught.value.code == code
    assert part in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({"conversations": []}, "messages-empty"),
        ({"conversations": "x"}, "messages-missing"),
        ({"messages": []}, "messages-missing"),
        ({"conversations": ["x"]}, "message-not-object"),
        ({"conversations": [{"from": "user", "value": 3}]}, "content-type"),
        ({"conversations": [{"from": "user"}]}, "content-type"),
        ({"conversations": [{"from": "user", "value": "q", "loss": True}]}, "train-on-input"),
        ({"conversations": [{"from": "assistant", "value": "q", "weight": -1}]}, "train-flag"),
        ({"conversations": [{"from": "assistant", "value": "q", "train": "no"}]}, "train-flag"),
    ],
)
def test_a_row_of_wrong_types(raw, code):
    with pytest.raises(DataError) as caught:
        ms_agent.read(raw, SOURCE)
    assert caught.value.code == code


def called(**extra: object) -> Conversation:
    tool = ToolSpec(name="f", parameters={"type": "object", "properties": {"x": {"type": "string"}}})
    values = {
        "tools": (tool,),
        "messages": (
            Message(role="user", content="q"),
            Message(role="assistant", reasoning="hm", tool_calls=(ToolCall(name="f", arguments='{"x": "1"}', id="a"),)),
            Message(role="tool", content="r", tool_call_id="a"),
            Message(role="assistant", content="done"),
        ),
        "source": SOURCE,
    }
    return Conversation(**(values | extra))


def test_a_conversation_of_another_format_is_written_in_the_normal_layout():
    written = ms_agent.write(called())
    assert written["conversations"][2]["value"] == (
        'Thought: hm\nAction: f\nAction Input: {"x": "1"}\nObservation: r\nFinal Answer: done'
    )
    again = ms_agent.read(written, SOURCE)
    assert again.system_source is None
    assert again.tools[0].parameters == {"type": "object", "properties": {"x": {"description": "", "type": "string"}}}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tools": ()}, "tools-missing"),
        (
            {"messages": (Message(role="user", content="q"), Message(role="assistant", content="a\nObservation: b"))},
            "react-marker-in-text",
        ),
        (
            {"messages": (Message(role="assistant", content="a"), Message(role="assistant", content="b"))},
            "react-two-answers",
        ),
        (
            {
                "tools": (),
                "messages": (Message(role="assistant", content="a"), Message(role="assistant", content="b")),
            },
            "react-two-answers",
        ),
        ({"tools": (), "messages": (Message(role="assistant", content="a\nAction: b"),)}, "react-marker-in-text"),
        (
            {"messages": (Message(role="user", content="q", name="Li"), Message(role="assistant", content="a"))},
            "react-speaker",
        ),
        (
            {"messages": (Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"),) * 2),)},
            "react-parallel-calls",
        ),
        ({"tools": (), "messages": (Message(role="assistant", content="a", reasoning="b"),)}, "react-reasoning"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(change, code):
    with pytest.raises(DataError) as caught:
        ms_agent.write(called(**change))
    assert caught.value.code == code


@pytest.mark.shared
def test_the_real_file_comes_back_byte_for_byte(shared):
    lines = (shared / "data/agent/doraemon_msagent.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    begin = time.perf_counter()
    faults, accepted = {}, []
    for number, raw in enumerate(rows, 1):
        try:
            accepted.append((raw, registry.read_row(raw, Source(file="d", line=number), "ms-agent")))
        except DataError as error:
            faults[number] = error.code
    seconds = time.perf_counter() - begin
    assert faults == {112: "action-without-input", 1144: "action-without-input"}
    assert len(accepted) == 3598
    for raw, conversation in accepted:
        assert ms_agent.write(conversation)["conversations"] == raw["conversations"]
        assert json.dumps(ms_agent.write(conversation)["conversations"], ensure_ascii=False) == json.dumps(
            raw["conversations"], ensure_ascii=False
        )
    assert seconds < 10  # 0.25 s on an idle core; wide, for busy ones
