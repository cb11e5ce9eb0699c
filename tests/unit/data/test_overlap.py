from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from actune.core.types import Conversation, Message, Source
from actune.data.checks import overlap
from actune.data.checks.overlap import (
    Prompts,
    collect_prompts,
    find_leaks,
    find_overlap,
    join_prompts,
    prompt_grams,
    prompt_keys,
)
from actune.data.reading.sources import load_conversations

LONG = "Please look up which trains leave from Hamburg to Vienna tomorrow morning before nine and what they cost"


def row(*texts: str) -> Conversation:
    messages = [part for text in texts for part in (Message(role="user", content=text), ANSWER)]
    return Conversation(messages=tuple(messages), source=Source(file="x", line=1))


ANSWER = Message(role="assistant", content="A long answer that both rows share and that nobody compares with anything")


def found(train: list[Conversation], held: list[Conversation]) -> list[tuple[int, int, bool]]:
    return [
        (one.held_row, one.train_row, one.exact) for one in find_overlap(collect_prompts(train), collect_prompts(held))
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who are you?", "who are  you"),
        ("你是谁？", "你 是谁"),
        ("Ｗｈｏ are you", "who are you"),
        ("Are you {{NAME}}?", "are you {{ name }}"),
        ("**Hello**, world.", "hello world"),
        ("3 * 4 = ?", "3*4="),
    ],
)
def test_what_does_not_count(one: str, other: str):
    assert prompt_keys(row(one)) == prompt_keys(row(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("3*4", "34"), ("1.5 km", "15 km"), ("a/b", "ab"), ("???", "!!!"), ("1+1", "1-1"), ("C++", "C"), ("ab", "abc")],
)
def test_what_counts(one: str, other: str):
    assert prompt_keys(row(one)) != prompt_keys(row(other))


def test_keys_stay_the_same_in_every_process_and_version():
    """Stored keys are compared with new ones: a change of the normalisation needs a new version of what is stored."""
    assert prompt_keys(row("Who are you?")) == (11326028025730378308,)
    assert prompt_grams(row(LONG)).tolist()[:1] == [251538153184532306]


def test_a_prompt_is_found_among_the_turns_of_a_training_row():
    assert found([row("Hello"), row("Thanks", "Who are you?")], [row("who are you")]) == [(0, 1, True)]
    # The other way round it is no leak: the held-out row asks more.
    assert found([row("Hello")], [row("Hello", "Which trains leave?")]) == []


def test_every_training_row_with_a_held_out_prompt_is_found():
    train = collect_prompts(
        [row("Hello"), row("Who are you?"), row(LONG + " now"), row("Thanks", "who are you"), row(LONG)]
    )
    held = collect_prompts([row("who are you"), row(LONG)])
    found = [(one.train_row, one.held_row, one.exact) for one in find_leaks(train, held)]
    assert found == [(1, 0, True), (2, 1, False), (3, 0, True), (4, 1, True)]
    assert find_leaks(train, collect_prompts([])) == find_leaks(collect_prompts([]), held) == []


def test_a_prompt_with_a_few_words_changed_is_found():
    changed = LONG.replace("Hamburg", "Berlin").replace("Please look", "Could you look")
    held = [row("Something else of more than eight words, which no row of the training data says"), row(LONG)]
    assert found([row("hi"), row(changed)], held) == []
    close = LONG + ", with seats by the window"
    (one,) = find_overlap(collect_prompts([row("hi"), row(close)]), collect_prompts(held))
    assert (one.held_row, one.train_row, one.share, one.exact) == (1, 1, 1.0, False)


def test_the_row_with_the_largest_share_is_named():
    near, nearer = LONG + " " + LONG[:20], LONG
    train = [row(LONG.replace("cost", "are")), row(near), row(nearer + "!")]
    assert found(train, [row(LONG)]) == [(0, 2, True)]
    assert found(train[:2], [row(LONG)]) == [(0, 1, False)]


def test_phrases_of_a_template_do_not_count():
    rows = [
        row(f"Please write me a short and friendly poem about the following animal in winter: {n}") for n in range(150)
    ]
    assert found(rows[:149], rows[149:]) == []
    assert found(rows[:60], rows[149:]) != []


def test_long_prompts_are_sampled_alike():
    rng = random.Random(0)
    words = [f"{rng.getrandbits(40):x}" for _ in range(3000)]
    book = row(" ".join(words))
    assert 300 < len(prompt_grams(book)) < 450
    assert found([row("hi"), book], [row(" ".join(words[1000:1100]))]) == [(0, 1, False)]
    assert found([row("hi"), row(" ".join(words[1000:1100]))], [book]) == []
    assert found([row("hi"), book], [row(" ".join(words[:2800]))]) == [(0, 1, False)]


def test_rows_without_user_text_are_never_found():
    silent = Conversation(messages=(ANSWER,), source=Source(file="x", line=1))
    prompts = collect_prompts([silent, row("hi")])
    assert len(prompts) == 2
    assert prompts.key_offsets.tolist() == [0, 0, 1]
    assert find_overlap(prompts, collect_prompts([silent])) == []
    nothing = collect_prompts([])
    assert find_overlap(nothing, prompts) == find_overlap(prompts, nothing) == []


def test_equals_a_plain_search(monkeypatch: pytest.MonkeyPatch):
    """Random sets of small n-grams, each pair compared one by one."""
    monkeypatch.setattr(overlap, "_COMMON", 1000)
    rng = np.random.default_rng(0)
    for _ in range(50):
        sides = [
            [
                np.unique(rng.integers(0, 60, rng.integers(0, 12)).astype(np.uint64) * 7)
                for _ in range(rng.integers(1, 9))
            ]
            for _ in range(2)
        ]
        train, held = (join_prompts([((), grams) for grams in side]) for side in sides)
        expected = {}
        for number, grams in enumerate(sides[1]):
            shares = [_share(other, grams) for other in sides[0]]
            if len(grams) and max(shares) >= 0.5:
                expected[number] = (shares.index(max(shares)), max(shares))
        result = {one.held_row: (one.train_row, one.share) for one in find_overlap(train, held, share=0.5)}
        assert result == expected


def _share(train: np.ndarray, held: np.ndarray) -> float:
    low = held[held & np.uint64(7) == 0]
    if (train & np.uint64(7) == 0).all():
        held = low
    return len(np.intersect1d(train, held)) / max(len(held), 1)


@pytest.mark.shared
def test_identity_prompts_inside_real_agent_rows(shared: Path):
    """The numbers of distinct prompts were counted with sets of texts without blanks and punctuation, case folded."""

    def load(name: str) -> tuple[Prompts, tuple[Conversation, ...]]:
        rows = load_conversations(str(shared / "data" / name)).conversations
        return collect_prompts(rows), rows

    agent, _ = load("agent/doraemon_msagent.jsonl")
    for name, inside, distinct in (("llamafactory_identity.json", 62, 88), ("swift_self_cognition.jsonl", 8, 112)):
        held, rows = load(f"identity/{name}")
        hits = find_overlap(agent, held)
        assert all(one.exact for one in hits)
        assert len({prompt_keys(rows[one.held_row]) for one in hits}) == inside
        assert len({prompt_keys(one) for one in rows}) == distinct
