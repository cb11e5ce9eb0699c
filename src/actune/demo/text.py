"""The text of the demo's base model: short conversations, written by rules.

No conversation here knows what an API is: there are directories of shops, forms, notes, recipes, facts and small talk.
What an agent needs of a base model is trained by them all the same: to pick from a list by its description, to find
details in a sentence and to copy strings it has never seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from actune.demo import values
from actune.demo.chats import DICTIONARY, RECIPES, SMALL_TALK
from actune.demo.directories import Turn, use_directory
from actune.demo.facts import Fact, list_facts
from actune.demo.requests import Entry, draw_details, draw_label, draw_pair, fill, list_needs, say_wish
from actune.demo.varied import use_varied_directory
from actune.demo.words import FIELDS, THINGS, Field

_BRACKETS = (
    (("quotes", "引号"), '"', '"'),
    (("quotes", "引号"), "'", "'"),
    (("brackets", "括号"), "(", ")"),
    (("square brackets", "方括号"), "[", "]"),
    (("curly brackets", "花括号"), "{", "}"),
    (("stars", "星号"), "*", "*"),
    (("lines", "下划线"), "_", "_"),
)
# Of facts, small talk, recipes, words, copying, notes, forms, directories, sums and varied directories.
_WEIGHTS = (14, 5, 3, 4, 12, 12, 14, 32, 4, 0)
_VARIED_WEIGHTS = (16, 3, 2, 2, 4, 4, 6, 6, 2, 55)
GENERAL_WEIGHTS = (48, 24, 5, 6, 4, 5, 3, 3, 2, 0)
"""Mostly knowledge and talk, as general rows of a real mix are."""


def write_chats(seed: int, level: float) -> Iterator[list[Turn]]:
    """Yield chats without end, each of one to three conversations.

    `level` from 0 to 1 makes everything longer; above 1 most chats are about directories of ever other shapes.
    """
    rng = random.Random(seed)
    conversations = write_conversations(seed, level)
    while True:
        turns = next(conversations)
        for _ in range(rng.choices((0, 1, 2), (60, 30, 10))[0]):
            turns = insert(rng, turns, next(conversations))
        yield turns


def insert(rng: random.Random, turns: list[Turn], others: list[Turn]) -> list[Turn]:
    """Return a chat in which another conversation goes on between two exchanges, or at the end."""
    if others[0][0] == "system":
        (_, system), (_, first), *rest = others
        others = [("user", f"{system}\n\n{first}"), *rest]
    ends = [number + 1 for number, (role, _) in enumerate(turns) if role == "assistant"]
    at = ends[-1] if rng.random() < 0.5 else rng.choice(ends)
    return [*turns[:at], *others, *turns[at:]]


def write_conversations(
    seed: int, level: float, facts: Sequence[Fact] | None = None, weights: Sequence[int] | None = None
) -> Iterator[list[Turn]]:
    """Yield conversations without end, none of which holds a held-out name or value.

    `facts` are all unless given, `weights` of the kinds of conversations those of the base model's text at this level.
    """
    rng = random.Random(seed)
    facts = facts or list_facts()
    weights = weights or (_VARIED_WEIGHTS if level > 1 else _WEIGHTS)
    level = min(level, 1.0)
    by_language = {language: [fact for fact in facts if fact.language == language] for language in ("en", "zh")}
    makers: list[Callable[[random.Random, str, float], list[Turn]]] = [
        lambda rng, language, _: ask_facts(rng, by_language[language]),
        write_small_talk,
        write_recipe,
        explain_words,
        copy_text,
        read_note,
        fill_form,
        use_directory,
        reason,
        lambda rng, language, _: use_varied_directory(rng, language),
    ]
    while True:
        language = "en" if rng.random() < 0.55 else "zh"
        turns = rng.choices(makers, weights)[0](rng, language, level)
        if not any(values.find_held_out(text) for _, text in turns):
            yield turns


def ask_facts(rng: random.Random, facts: Sequence[Fact]) -> list[Turn]:
    """Return questions about facts, all answered shortly or all in a sentence."""
    turns: list[Turn] = []
    short = rng.random() < 0.5
    for fact in rng.sample(facts, rng.randint(2, 6)):
        # The last way to ask is kept for the evaluation.
        answer = fact.answer if short else fact.sentence
        turns += [("user", rng.choice(fact.questions[:-1])), ("assistant", answer)]
    return turns


def write_small_talk(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return one to three exchanges of small talk."""
    turns: list[Turn] = []
    for asked, answer in rng.sample(SMALL_TALK[language], rng.randint(1, 3)):
        turns += [("user", rng.choice(asked)), ("assistant", answer)]
    return turns


def write_recipe(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return questions about a dish."""
    dish, needs, steps = rng.choice(RECIPES[language])
    if language == "en":
        asked = [
            (rng.choice((f"How do I make {dish}?", f"Tell me how to cook {dish}.")), steps),
            (f"What do I need for {dish}?", ", ".join(needs) + "."),
        ]
    else:
        asked = [
            (rng.choice((f"{dish}怎么做？", f"怎么做{dish}？")), steps),
            (f"做{dish}需要什么？", "、".join(needs) + "。"),
        ]
    rng.shuffle(asked)
    return [turn for question, answer in asked for turn in (("user", question), ("assistant", answer))]


def explain_words(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return questions about the meaning of words."""
    turns: list[Turn] = []
    for word, meaning, zh in rng.sample(DICTIONARY, rng.randint(2, 5)):
        said = word.capitalize() if rng.random() < 0.4 else word
        if language == "zh":
            turns += [
                ("user", rng.choice((f"{said}是什么意思？", f"{said}用中文怎么说？"))),
                ("assistant", f"{said}的意思是{zh}。"),
            ]
        elif rng.random() < 0.3:
            turns += [("user", f"Which word means: {meaning}?"), ("assistant", said)]
        else:
            question = rng.choice((f"What does {said} mean?", f"Explain the word {said}.", f"{said}: what is this?"))
            turns += [("user", question), ("assistant", f"{said} means {meaning}.")]
    return turns


def copy_text(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return requests to repeat strings, or one of several."""
    count = rng.randint(1, 2 + round(4 * level))
    items = [
        draw_label(rng, language) if rng.random() < 0.5 else values.draw(rng, rng.choice(values.KINDS), language)
        for _ in range(count)
    ]
    joint = rng.choice((", ", " ", "; ", "\n", " / ")) if language == "en" else rng.choice(("、", "，", "\n", "; "))
    text = joint.join(items)
    mark, left, right = rng.choice(_BRACKETS)
    quoted = joint.join(f"{left}{item}{right}" for item in items)
    at = rng.randrange(count)
    place = (("first", "second", "third", "fourth", "fifth", "sixth")[at], "一二三四五六"[at])
    if language == "en":
        asked = [
            (rng.choice(("Repeat: ", "Say this again: ", "Copy this: ", "Write down: ")) + text, text),
            (f"Put each in {mark[0]}: {text}", quoted),
            (f"Take away the {mark[0]}: {quoted}", text),
            (f"Which is the {place[0]}? {text}", items[at]),
            (f"What is the last one? {text}", items[-1]),
            ("Copy from the end to the start: " + text, joint.join(reversed(items))),
        ]
    else:
        asked = [
            (rng.choice(("请重复：", "再说一遍：", "请抄写：", "请写下：")) + text, text),
            (f"给每一个加上{mark[1]}：{text}", quoted),
            (f"去掉{mark[1]}：{quoted}", text),
            (f"第{place[1]}个是什么？{text}", items[at]),
            (f"最后一个是什么？{text}", items[-1]),
            ("倒着抄写：" + text, joint.join(reversed(items))),
        ]
    question, answer = rng.choices(asked, (4, 2, 2, 2, 1, 1))[0]
    return [("user", question), ("assistant", answer)]


def ask_field(rng: random.Random, language: str, field: Field) -> str:
    """Return a question about one detail."""
    if language == "en":
        return rng.choice(
            (f"What is {field.en}?", f"{field.key}?", f"Tell me {field.en}.", f"What is the {field.key}?")
        )
    return rng.choice((f"{field.zh}是什么？", f"{field.zh}？", f"告诉我{field.zh}。", f"{field.key}是什么？"))


def read_note(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return a note or a record and questions about its details."""
    fields = tuple(rng.sample(FIELDS, rng.randint(1, 2 + round(2 * level))))
    details = draw_details(rng, language, fields)
    entry = Entry("", *draw_pair(rng), fields)
    text = say_wish(rng, language, entry, details) if rng.random() < 0.5 else fill(rng, language)(details)
    turns: list[Turn] = []
    short = rng.random() < 0.6
    for field in rng.sample(fields, min(len(fields), rng.randint(1, 4))):
        value, question = details[field.key], ask_field(rng, language, field)
        sentence = f"{field.en} is {value}." if language == "en" else f"{field.zh}是{value}。"
        answer = value if short else sentence[0].upper() + sentence[1:]
        turns += [("user", question), ("assistant", answer)]
    if rng.random() < 0.25:
        joint = (" and ", "，")[language == "zh"]
        said = joint.join(
            f"{field.en} is {details[field.key]}" if language == "en" else f"{field.zh}是{details[field.key]}"
            for field in fields
        )
        ask = ("Say it in a sentence.", "用一句话说。")[language == "zh"]
        turns += [("user", ask), ("assistant", said[0].upper() + said[1:] + (".", "。")[language == "zh"])]
    role, first = turns[0]
    turns[0] = (role, f"{text}\n{first}" if rng.random() < 0.7 else f"{first}\n{text}")
    return turns


def fill_form(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return requests from which the fields of a form are filled."""
    turns: list[Turn] = []
    writer = fill(rng, language)
    for _ in range(rng.randint(1, 2)):
        fields = tuple(rng.sample(FIELDS, rng.randint(1, 2 + round(2 * level))))
        details = draw_details(rng, language, fields)
        wish = say_wish(rng, language, Entry("", *draw_pair(rng), fields), details)
        keys = list_needs(rng, language, fields, rng.choice(("keys", "quoted", "described")))
        example = writer({"key": "value", "other": "value"})
        if language == "en":
            ask = rng.choice(
                (
                    f"Fill in {keys}, written like {example}.",
                    f"Form: {keys}. Write {example}.",
                    f"Find {keys} in the text, as {example}.",
                )
            )
        else:
            ask = rng.choice(
                (f"请填写{keys}，写成{example}。", f"表格：{keys}。写成{example}。", f"找出{keys}，写成{example}。")
            )
        turns += [
            ("user", f"{ask}\n{wish}" if rng.random() < 0.6 else f"{wish}\n{ask}"),
            ("assistant", writer(details)),
        ]
    return turns


def reason(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return a short sum or comparison."""
    one, other = rng.sample(range(1, 20), 2)
    first, second = (values.draw_word(rng, language) for _ in range(2))
    thing = rng.choice(THINGS)
    if language == "en":
        asked = (
            (f"How much is {one} + {other}?", f"{one} + {other} = {one + other}"),
            (
                f"{first} has {one} {thing.many} and gets {other} more. How many are there?",
                f"{one} + {other} = {one + other}, so there are {one + other}.",
            ),
            (f"Which is larger, {one} or {other}?", str(max(one, other))),
            (f"{first} is {one} years old and {second} is {other}. Who is older?", first if one > other else second),
            (f"{first} is taller than {second}. Who is smaller?", second),
        )
    else:
        asked = (
            (f"{one}加{other}等于多少？", f"{one} + {other} = {one + other}"),
            (
                f"{first}有{one}个{thing.zh}，又得到{other}个。一共有几个？",
                f"{one} + {other} = {one + other}，一共有{one + other}个。",
            ),
            (f"{one}和{other}哪个大？", str(max(one, other))),
            (f"{first}{one}岁，{second}{other}岁。谁年纪大？", first if one > other else second),
            (f"{first}比{second}高。谁矮？", second),
        )
    question, answer = rng.choice(asked)
    return [("user", question), ("assistant", answer)]
