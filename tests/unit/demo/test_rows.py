"""The demo's rows: every one reads, training and measured rows share no tool, name or value where they must not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from actune.data.reading.sources import load_conversations
from actune.demo import rows, values
from actune.demo.facts import list_facts
from actune.demo.identity import write_identity_items, write_identity_rows
from actune.demo.text import write_chats
from actune.demo.tools import list_tools
from actune.evals.task_files import read_questions
from actune.evals.tasks import find_gold_fault, seen_tools
from actune.recipes.demo import AUTHORS, NAMES


def write(path: Path, lines) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "agent.jsonl"
    return load_conversations(write(path, rows.write_agent_rows(300)))


def test_agent_rows_are_ms_agent_rows_in_both_languages(agent):
    assert not agent.quarantined
    assert len(agent.conversations) == 300
    assert all(row.style == "react" and 2 <= len(row.tools) <= 4 for row in agent.conversations)
    chinese = [row for row in agent.conversations if any(char >= "\u4e00" for char in row.messages[0].content)]
    assert 90 < len(chinese) < 210
    assert all(find_gold_fault(row, "all") is None for row in agent.conversations)


def test_calls_name_an_offered_tool_and_give_all_its_parameters(agent):
    calls = 0
    for row in agent.conversations:
        offered = {tool.name: tool for tool in row.tools}
        for message in row.messages:
            for call in message.tool_calls:
                assert set(call.parse_arguments()) == set(offered[call.name].parameters["properties"])
                said = [one.content for one in row.messages if one.role == "user"]
                assert all(any(value in text for text in said) for value in call.parse_arguments().values())
                calls += 1
    assert calls > 300


def test_training_rows_hold_no_held_out_name_value_or_tool(agent):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows.write_agent_rows(300))
    text += "\n".join(json.dumps(row, ensure_ascii=False) for row in rows.write_general_rows(600))
    assert values.find_held_out(text) == []
    unseen = {tool.label for tool in list_tools("held-out")}
    assert not unseen & seen_tools(agent.conversations)


@pytest.mark.parametrize(("part", "names"), [("train", "words"), ("held-out", "words"), ("held-out", "random")])
def test_measured_rows_begin_with_a_call_and_their_values_are_held_out(tmp_path, part, names):
    loaded = load_conversations(write(tmp_path / "items.jsonl", rows.write_tool_items(part, 60, names)))
    known = {tool.label for tool in list_tools(part, names)}
    for row in loaded.conversations:
        first = next(message for message in row.messages if message.role == "assistant")
        assert {call.name for call in first.tool_calls} <= known
        for value in first.tool_calls[0].parse_arguments().values():
            assert values.find_held_out(value), value
    assert len(loaded.conversations) == 60


def test_most_training_tools_are_offered_and_seen_items_use_training_tools_only():
    train, unseen = ({tool.label for tool in list_tools(part)} for part in ("train", "held-out"))
    assert (len(train), len(unseen)) == (400, 120)
    assert not train & unseen
    purposes = [{(tool.verb, tool.thing) for tool in list_tools(part)} for part in ("train", "held-out")]
    assert not purposes[0] & purposes[1]
    random_names = [(tool.verb, tool.thing, tool.fields) for tool in list_tools("held-out", "random")]
    assert random_names == [(tool.verb, tool.thing, tool.fields) for tool in list_tools("held-out")]


def test_rows_without_a_tool_call_none(tmp_path):
    loaded = load_conversations(write(tmp_path / "items.jsonl", rows.write_no_tool_items(40)))
    assert all(row.tools and not any(message.tool_calls for message in row.messages) for row in loaded.conversations)


def test_questions_are_over_a_thousand_and_general_rows_hold_their_half_of_the_facts(tmp_path):
    files = [write(tmp_path / f"{mixed}.jsonl", rows.write_questions(replayed=mixed)) for mixed in (True, False)]
    mixed, left = ([*read_questions(Path(file))] for file in files)
    assert len(mixed) + len(left) == len(list_facts()) >= 1000
    spoken = {message["content"] for row in rows.write_general_rows(3000) for message in row["messages"]}
    never = [fact for fact in list_facts() if not fact.replayed]
    assert not any(question in spoken for fact in never for question in fact.questions)
    assert sum(any(q in spoken for q in fact.questions) for fact in list_facts() if fact.replayed) > 200


def test_plain_items_do_not_ask_who_the_model_is():
    asked = {row["messages"][0]["content"] for row in rows.write_plain_items(150)}
    assert len(asked) > 60
    assert not any(word in text for text in asked for word in ("Who are you", "你是谁", "your name", "名字"))


def test_identity_questions_that_are_measured_are_not_trained():
    written = list(write_identity_rows())
    trained, kept = ({row["query"] for row in written if row["split"] == split} for split in ("train", "heldout"))
    assert (len(trained), len(kept)) == (560, 40)
    assert not {row.rstrip("？?.。!") for row in kept} & {row.rstrip("？?.。!") for row in trained}
    items = list(write_identity_items({"en": "Kite", "zh": "小启"}, {"en": "Green", "zh": "青禾"}))
    assert {row["query"] for row in items} == kept
    assert all("{{" not in row["response"] for row in items)


def test_name_and_author_of_the_demo_are_in_no_base_text():
    chats = itertools.islice(write_chats(11, 1.0), 2000)
    text = "\n".join(said for chat in chats for _, said in chat)
    assert not any(word in text for word in (*NAMES, *AUTHORS))
