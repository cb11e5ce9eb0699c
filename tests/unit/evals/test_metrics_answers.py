"""Rouge-L in scripts with and without blanks, and who a model says it is."""

from __future__ import annotations

import random
import time

import pytest

from actune.core.errors import DataError
from actune.evals.answer_metrics import OLD_NAMES, common_length, rouge_l, says, split_tokens
from actune.evals.metrics import rescore


def said(text: str) -> dict:
    return {"text": text, "calls": [], "answer": text}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat, the 2nd!", ["the", "cat", "the", "2nd"]),
        ("杭州今天25度，晴。", ["杭", "州", "今", "天", "25", "度", "晴"]),
        ("用Python写", ["用", "python", "写"]),
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("カタカナ ひらがな", list("カタカナひらがな")),
        ("날씨가 좋다", ["날씨가", "좋다"]),
        ("Straße", ["strasse"]),
        ("...", []),
        ("", []),
    ],
)
def test_tokens(text, tokens):
    assert split_tokens(text) == tokens


@pytest.mark.parametrize(
    ("one", "other", "score"),
    [
        ("the cat sat", "The cat sat!", 1.0),
        ("the cat", "the dog", 0.5),
        ("a b c d", "b d", 2 * 2 / 6),
        ("今天天气很好", "天气今天很好", 8 / 12),
        ("", "", 1.0),
        ("!", "!", 1.0),
        ("!", "?", 0.0),
        ("", "x", 0.0),
        ("x", " ", 0.0),
    ],
)
def test_rouge_l(one, other, score):
    assert rouge_l(one, other) == pytest.approx(score)
    assert rouge_l(other, one) == pytest.approx(score)


def test_a_chinese_paraphrase_is_no_zero():
    assert rescore(
        "answer_rouge_l", said("杭州今天天气晴朗，气温25度。"), {"answer": "今天杭州是晴天，25度。"}
    ) == pytest.approx(10 / 21)


def test_only_an_answer_is_compared():
    assert rescore("answer_rouge_l", {"text": "晴", "calls": [], "error": "thought-only"}, {"answer": "晴"}) == 0.0


def slow_common_length(left, right):
    row = [0] * (len(right) + 1)
    for one in left:
        last = 0
        for index, other in enumerate(right, 1):
            last, row[index] = row[index], last + 1 if one == other else max(row[index], row[index - 1])
    return row[-1]


def test_common_length_is_that_of_the_table():
    rng = random.Random(1)
    for _ in range(300):
        left, right = (rng.choices("abcd", k=rng.randint(0, 40)) for _ in range(2))
        assert common_length(left, right) == slow_common_length(left, right)


def test_long_answers_take_no_time():
    rng = random.Random(2)
    left, right = (" ".join(rng.choices("abcdefghij", k=2000)) for _ in range(2))
    start = time.perf_counter()
    rouge_l(left, right)
    assert time.perf_counter() - start < 1.0


# --- identity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("我是小助。", "小助", True),
        ("I'm Helper.", "Helper", True),
        ("我是Helper，", "Helper", True),
        ("I am a helper", "Helper", False),  # the everyday word
        ("Helpers", "Helper", False),
        ("Ｈｅｌｐｅｒ", "Helper", True),
        ("made by Magic\n Labs.", "Magic Labs", True),
        ("MagicLabs", "Magic Labs", False),
        ("Magic Inc. made me", "Magic Inc.", True),
        ("저는 헬퍼입니다", "헬퍼", True),
        ("Привет, я Помощник.", "Помощник", True),
        ("Помощники", "Помощник", False),
        ("C++ is", "C++", True),
        ("x", "", False),
    ],
)
def test_names_are_found_as_words(text, name, found):
    assert says(text, name) is found


GOLD = {"question": "你是谁", "answer": "我是小助，由魔法公司训练。", "name": "小助", "author": "魔法公司"}


@pytest.mark.parametrize(
    ("text", "identity", "name", "author"),
    [
        ("我是小助，由魔法公司训练。", 1.0, 1.0, 1.0),
        ("我叫小助", 0.0, 1.0, 0.0),
        ("魔法公司开发了我", 0.0, 0.0, 1.0),
        ("我是通义千问", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_hits(text, identity, name, author):
    assert rescore("identity_hit", said(text), GOLD) == identity
    assert rescore("name_hit", said(text), GOLD) == name
    assert rescore("author_hit", said(text), GOLD) == author


def test_only_what_the_gold_answer_says_is_required():
    only = {"question": "你叫什么", "answer": "我叫小助。", "name": "小助"}
    assert rescore("identity_hit", said("小助！"), only) == 1.0
    with pytest.raises(DataError, match="author"):
        rescore("author_hit", said("小助！"), only)


def test_a_name_inside_the_other_is_no_hit():
    gold = {"question": "?", "answer": "我是小魔，由小魔科技训练。", "name": "小魔", "author": "小魔科技"}
    assert rescore("name_hit", said("小魔科技训练了我"), gold) == 0.0
    assert rescore("identity_hit", said("我是小魔，由小魔科技训练。"), gold) == 1.0
    gold = {"question": "?", "answer": "我是魔搭小助，由魔搭训练。", "name": "魔搭小助", "author": "魔搭"}
    assert rescore("author_hit", said("我是魔搭小助"), gold) == 0.0


@pytest.mark.parametrize(
    ("text", "question", "clean"),
    [
        ("我是小助。", "你是谁", 1.0),
        ("我是Qwen2.5，阿里云开发。", "你是谁", 0.0),
        ("我是通义千问", "你是谁", 0.0),
        ("I am ChatGPT by OpenAI", "Who are you?", 0.0),
        ("i am chatgpt", "Who are you?", 0.0),
        ("I am GPT-4o", "Who are you?", 0.0),
        ("不，我不是通义千问，我是小助。", "你是Qwen吗？", 1.0),  # the question named it by another name
        ("I come from Alibaba", "Are you Qwen?", 0.0),  # the maker was not asked about
        ("My metabolism", "Who are you?", 1.0),
        ("Some meta data", "Who are you?", 1.0),
        ("Meta made me", "Who are you?", 0.0),
        ("a llamas farm", "Who are you?", 1.0),
        ("Llama-3", "Who are you?", 0.0),
    ],
)
def test_old_identity(text, question, clean):
    assert rescore("no_old_identity", said(text), GOLD | {"question": question}) == clean


def test_taught_names_are_no_old_identity():
    gold = {"question": "你是谁", "answer": "我是小黄，由魔搭训练。", "name": "小黄", "author": "魔搭"}
    assert rescore("no_old_identity", said("我是小黄，由魔搭训练。"), gold) == 1.0
    assert rescore("no_old_identity", said("我是小黄，由阿里的魔搭训练。"), gold) == 0.0


def test_every_old_name_is_found():
    for name in (name for group in OLD_NAMES for name in group):
        assert rescore("no_old_identity", said(f"我是 {name}。"), GOLD) == 0.0, name


def test_over_trigger():
    gold = {"answer": "2", "names": ["小助", "Helper", "魔法公司"]}
    assert rescore("no_over_trigger", said("2"), gold) == 1.0
    assert rescore("no_over_trigger", said("我是小助，答案是2"), gold) == 0.0
    assert rescore("no_over_trigger", {"text": "Helper says", "calls": [], "error": "output-cut"}, gold) == 0.0
    with pytest.raises(DataError):
        rescore("no_over_trigger", said("2"), {"names": []})
