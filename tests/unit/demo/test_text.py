"""The text of the demo's base model: what it must not hold, and that it is the same for the same seed."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest

from actune.demo import rows, values
from actune.demo.directories import use_directory
from actune.demo.facts import list_facts, wrong_answers
from actune.demo.skills import write_skills
from actune.demo.text import write_chats
from actune.demo.tools import list_tools
from actune.demo.words import THINGS, VERBS, is_held_out

CHATS = 6_000


@pytest.fixture(scope="module")
def text():
    """Text of many seeds and of every level, as training draws it."""
    chats = [chat for seed in range(30) for chat in itertools.islice(write_chats(seed, seed / 29), CHATS // 30)]
    return "\n".join(f"{role}\n{said}" for chat in chats for role, said in chat)


@pytest.fixture(scope="module")
def items():
    parts = [rows.write_tool_items(part, 200, names) for part in ("train", "held-out") for names in ("words", "random")]
    return [*itertools.chain(*parts), *rows.write_no_tool_items(40)]


def called(row):
    """Names of the tools, and arguments, of the calls of a row."""
    turns = "".join(turn["value"] for turn in row["conversations"] if turn["from"] == "assistant")
    names = re.findall(r"^Action: (.+)$", turns, re.MULTILINE)
    arguments = [json.loads(line) for line in re.findall(r"^Action Input: (.+)$", turns, re.MULTILINE)]
    return names, [value for one in arguments for value in one.values()]


@pytest.mark.parametrize(
    "word", ["API", "Action", "Parameters: [", "Final Answer", "Thought: I", '{"', "tool_call", '"required"']
)
def test_the_base_model_never_sees_what_agents_write(text, word):
    assert word not in text


def test_no_name_and_no_value_of_a_measured_call_is_in_the_base_text(text, items):
    names = {tool.label for tool in list_tools("held-out")} | {tool.label for tool in list_tools("held-out", "random")}
    measured = {value for row in items for value in called(row)[1]}
    assert len(names) == 240
    assert len(measured) > 500
    assert sorted(one for one in names | measured if one in text) == []


def test_a_pair_kept_for_held_out_tools_is_in_no_directory():
    rng = random.Random(5)
    pairs = {f"{verb.does} {thing.many}" for verb in VERBS for thing in THINGS if is_held_out(verb, thing)}
    assert len(pairs) > 300
    for _ in range(500):
        chat = use_directory(rng, "en", 1.0)
        said = " ".join(text for _, text in chat)
        assert not [pair for pair in pairs if pair in said and re.search(rf"\b{pair}\b", said)]


def test_the_same_seed_writes_the_same_chats_and_another_one_others():
    first, again, other = (list(itertools.islice(write_chats(seed, 0.5), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_chats_alternate_and_end_with_an_answer():
    for chat in itertools.islice(write_chats(3, 1.0), 500):
        roles = [role for role, _ in chat if role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(said for _, said in chat)
        assert "system" not in [role for role, _ in chat][1:]


def test_held_out_values_are_found_in_text_and_training_values_are_not():
    rng = random.Random(7)
    for kind, language in itertools.product(values.KINDS, ("en", "zh")):
        for _ in range(100):
            kept, free = (values.draw(rng, kind, language, held_out=held_out) for held_out in (True, False))
            assert values.find_held_out(f"in {kept}, please"), kept
            assert not values.find_held_out(f"in {free}, please"), free


def test_wrong_answers_are_wrong():
    facts = list_facts()
    rng = random.Random(1)
    right = {}
    for fact in facts:
        right.setdefault((fact.relation, fact.language, fact.subject), set()).add(fact.answer)
    for fact in facts:
        wrong = wrong_answers(fact, facts, rng)
        assert wrong
        assert not right[fact.relation, fact.language, fact.subject] & set(wrong)


def test_facts_are_measured_in_words_that_no_text_holds(text):
    assert not [fact.questions[-1] for fact in list_facts() if fact.questions[-1] in text]


def test_skills_are_measured_on_the_last_answer_in_both_languages():
    skills = dict(write_skills(5))
    assert {name.rsplit(" ", 1)[1] for name in skills} == {"en", "zh"}
    assert len(skills) == 14
    assert all(chat[-1][0] == "assistant" and len(chats) == 5 for chats in skills.values() for chat in chats)
