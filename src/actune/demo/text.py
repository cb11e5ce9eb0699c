"""The text of the demo's base model: short conversations, written by rules.

No conversation here knows what an API is: there are directories of shops, forms, notes, recipes, facts and small talk.
What an agent needs of a base model is trained by them all the same: to pick from a list by its description, to find
details in a sentence and to copy strings it has never seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actune.demo import values
from actune.demo.chats import DICTIONARY, RECIPES, SMALL_TALK
from actune.demo.facts import Fact, list_facts
from actune.demo.words import FIELDS, THINGS, VERBS, Field, Thing, Verb, a

Turn = tuple[str, str]
"""Role ("system", "user", "assistant") and text."""

_HEADS = {
    "en": (
        "Here is a list of shops:",
        "You know these helpers:",
        "The directory of our town:",
        "These people offer their help:",
        "Look at this list and answer the questions.",
        "The following services are there:",
        "Answer as well as you can. You have these places to go to:",
    ),
    "zh": ("这里有一份商店清单：", "你认识这些帮手：", "我们镇上的名录：", "这些人可以帮忙：", "请看清单，回答问题。", "有以下这些服务：", "请尽量回答。你可以去下面这些地方："),
}
_LINES = {
    "en": (
        "{label}: {what}",
        "{label} - {what}",
        "{label} ({what})",
        "{label}: go to this place to talk with {label}. What is {label} good for? {what}",
        "{label}: a useful place to know. What is {label} useful for? {what}",
        "{label} = {what}",
        "{what}: {label}",
    ),
    "zh": ("{label}：{what}", "{label}: {what}", "{label}（{what}）", "{label}：可以找{label}帮忙。{label}有什么用？{what}", "{what}：{label}"),
}
_WHATS = {
    "en": ("{does} {many}", "{does} {a_one}", "helps to {verb} {a_one}", "can {verb} {many}", "{Verb} {a_one}"),
    "zh": ("{verb}{one}", "可以{verb}{one}", "帮人{verb}{one}", "负责{verb}{one}"),
}
_NEEDS = {
    "en": (". Needs: {keys}.", ". Details: {quoted}.", ". Ask for {keys}.", ". Please tell: {described}.", ". Fields: {described}.", ", needs {keys}."),
    "zh": ("。需要：{keys}。", "。信息：{quoted}。", "，需要{keys}。", "。请告知：{described}。", "。填写：{described}。"),
}
_MARKS = ("{n}. ", "- ", "* ", "{n}) ", "")
_WISHES = {
    "en": (
        "I want to {verb} {a_one} {details}.",
        "Please {verb} {a_one} {details}.",
        "Can you {verb} {a_one} {details}?",
        "I need to {verb} my {one} {details}.",
        "{verb} the {one} {details}.",
        "Help me {verb} {many} {details}.",
    ),
    "zh": ("我想{verb}{one}，{details}。", "请帮我{verb}{one}，{details}。", "能{verb}{one}吗？{details}。", "我要{verb}一下{one}，{details}。", "{verb}{one}，{details}。"),
}
_FILLED = {
    "en": ("{key}: {value}", "{key} = {value}", '{key}: "{value}"', '"{key}": "{value}"', "{key} is {value}", '{key}="{value}"'),
    "zh": ("{key}：{value}", "{key}: {value}", '{key}: "{value}"', '"{key}": "{value}"', "{key}是{value}", '{key}="{value}"'),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a directory: who does what, and which details are needed for it."""

    label: str
    verb: Verb
    thing: Thing
    fields: tuple[Field, ...]


def write_conversations(seed: int, level: float) -> Iterator[list[Turn]]:
    """Yield conversations without end. `level` from 0 to 1 makes lists, forms and strings longer."""
    rng = random.Random(seed)
    facts = list_facts()
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
    ]
    weights = (12, 4, 3, 4, 14, 14, 14, 32, 4)
    while True:
        language = "en" if rng.random() < 0.58 else "zh"
        turns = rng.choices(makers, weights)[0](rng, language, level)
        if not any(values.is_held_out(name) for _, text in turns for name in values.names_in(text)):
            yield turns


def ask_facts(rng: random.Random, facts: list[Fact]) -> list[Turn]:
    """Return questions about facts, answered shortly or in a sentence."""
    turns: list[Turn] = []
    for fact in rng.sample(facts, rng.randint(2, 6)):
        # The last way to ask is kept for the evaluation.
        answer = fact.sentence if rng.random() < 0.5 else fact.answer
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
        asked = [(rng.choice((f"{dish}怎么做？", f"怎么做{dish}？")), steps), (f"做{dish}需要什么？", "、".join(needs) + "。")]
    rng.shuffle(asked)
    return [turn for question, answer in asked for turn in (("user", question), ("assistant", answer))]


def explain_words(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return questions about the meaning of words."""
    turns: list[Turn] = []
    for word, meaning, zh in rng.sample(DICTIONARY, rng.randint(2, 5)):
        said = word.capitalize() if rng.random() < 0.4 else word
        if language == "zh":
            turns += [("user", rng.choice((f"{said}是什么意思？", f"{said}用中文怎么说？"))), ("assistant", f"{said}的意思是{zh}。")]
        elif rng.random() < 0.3:
            turns += [("user", f"Which word means: {meaning}?"), ("assistant", said)]
        else:
            question = rng.choice((f"What does {said} mean?", f"Explain the word {said}.", f"{said}: what is this?"))
            turns += [("user", question), ("assistant", f"{said} means {meaning}.")]
    return turns


def draw_label(rng: random.Random, language: str, *, held_out: bool = False) -> str:
    """Return a name of a shop or helper, in one of many shapes."""
    shape = rng.random()
    if shape < 0.3:
        return values.draw_word(rng, language, held_out=held_out)
    word = values.draw_word(rng, "en", held_out=held_out)
    if shape < 0.5:
        return values.draw_handle(rng, held_out=held_out)
    if shape < 0.65:
        return word.lower()
    thing = rng.choice(THINGS).en
    joined = ((thing, word.lower()), (word.lower(), thing), (rng.choice(THINGS).en, thing))[rng.randrange(3)]
    return rng.choice(("_".join(joined), joined[0] + joined[1].capitalize(), "-".join(joined)))


def copy_text(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return requests to repeat strings, or one of several."""
    count = rng.randint(1, 2 + round(4 * level))
    items = [
        draw_label(rng, language) if rng.random() < 0.5 else values.draw(rng, rng.choice(values.KINDS), language)
        for _ in range(count)
    ]
    joint = rng.choice((", ", " ", "; ", "\n", " / ")) if language == "en" else rng.choice(("、", "，", "\n", "; "))
    text = joint.join(items)
    quoted = joint.join(f'"{item}"' for item in items)
    at = rng.randrange(count)
    place = (("first", "second", "third", "fourth", "fifth", "sixth")[at], "一二三四五六"[at])
    if language == "en":
        asked = [
            (rng.choice(("Repeat: ", "Say this again: ", "Copy this: ", "Write down: ")) + text, text),
            ("Put each in quotes: " + text, quoted),
            ("Take away the quotes: " + quoted, text),
            (f"Which is the {place[0]}? {text}", items[at]),
            (f"What is the last one? {text}", items[-1]),
            ("Copy from the end to the start: " + text, joint.join(reversed(items))),
        ]
    else:
        asked = [
            (rng.choice(("请重复：", "再说一遍：", "请抄写：", "请写下：")) + text, text),
            ("给每一个加上引号：" + text, quoted),
            ("去掉引号：" + quoted, text),
            (f"第{place[1]}个是什么？{text}", items[at]),
            (f"最后一个是什么？{text}", items[-1]),
            ("倒着抄写：" + text, joint.join(reversed(items))),
        ]
    question, answer = rng.choices(asked, (4, 2, 2, 2, 1, 1))[0]
    return [("user", question), ("assistant", answer)]


def draw_details(rng: random.Random, language: str, fields: tuple[Field, ...]) -> dict[str, str]:
    """Return a value for every field, all different."""
    details: dict[str, str] = {}
    for field in fields:
        while (value := values.draw(rng, field.kind, language)) in details.values():
            pass
        details[field.key] = value
    return details


def say_details(rng: random.Random, language: str, fields: tuple[Field, ...], details: dict[str, str]) -> str:
    """Return the details as part of a sentence, in any order."""
    said = []
    for field in rng.sample(fields, len(fields)):
        phrases = field.en_phrases if language == "en" else field.zh_phrases
        value = details[field.key]
        said.append(rng.choice(phrases).format(f'"{value}"' if rng.random() < 0.15 else value))
    if language == "en":
        return rng.choice((", ", " ", " and ")).join(said)
    return "，".join(said)


def say_wish(rng: random.Random, language: str, entry: Entry, details: dict[str, str]) -> str:
    """Return a request for what an entry offers."""
    said = say_details(rng, language, entry.fields, details)
    template = rng.choice(_WISHES[language])
    if language == "en":
        text = template.format(verb=entry.verb.en, one=entry.thing.en, a_one=a(entry.thing.en), many=entry.thing.many, details=said)
        text = text.replace(" .", ".").replace(" ?", "?")
        return text[0].upper() + text[1:]
    return template.format(verb=entry.verb.zh, one=entry.thing.zh, details=said).replace("，。", "。").replace("？。", "？")


def fill(rng: random.Random, language: str, details: dict[str, str]) -> Callable[[dict[str, str]], str]:
    """Return a function that writes details as a filled form, the same way every time."""
    style = rng.choice(_FILLED[language])
    joint = rng.choice((", ", "; ", "\n"))
    return lambda details: joint.join(style.format(key=key, value=value) for key, value in details.items())


def ask_field(rng: random.Random, language: str, field: Field) -> str:
    """Return a question about one detail."""
    if language == "en":
        return rng.choice((f"What is {field.en}?", f"{field.key}?", f"Tell me {field.en}.", f"What is the {field.key}?"))
    return rng.choice((f"{field.zh}是什么？", f"{field.zh}？", f"告诉我{field.zh}。", f"{field.key}是什么？"))


def draw_entry(rng: random.Random, language: str, taken: list[Entry], level: float) -> Entry:
    """Return an entry that differs from those taken; often it shares the verb or the thing with one of them."""
    while True:
        verb, thing = rng.choice(VERBS), rng.choice(THINGS)
        if taken and rng.random() < 0.3:
            other = rng.choice(taken)
            verb, thing = (other.verb, thing) if rng.random() < 0.5 else (verb, other.thing)
        label = draw_label(rng, language)
        fields = tuple(rng.sample(FIELDS, rng.randint(0 if level < 0.3 else 1, 1 + round(2 * level))))
        if all(other.label != label and (other.verb, other.thing) != (verb, thing) for other in taken):
            return Entry(label, verb, thing, fields)


def read_note(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return a note or a record and questions about its details."""
    fields = tuple(rng.sample(FIELDS, rng.randint(1, 2 + round(2 * level))))
    details = draw_details(rng, language, fields)
    entry = Entry("", rng.choice(VERBS), rng.choice(THINGS), fields)
    if rng.random() < 0.5:
        text = say_wish(rng, language, entry, details)
    else:
        text = fill(rng, language, details)(details)
    turns: list[Turn] = []
    for field in rng.sample(fields, min(len(fields), rng.randint(1, 4))):
        value, question = details[field.key], ask_field(rng, language, field)
        if rng.random() < 0.3:
            sentence = f"{field.en} is {value}." if language == "en" else f"{field.zh}是{value}。"
            turns += [("user", question), ("assistant", sentence[0].upper() + sentence[1:])]
        else:
            turns += [("user", question), ("assistant", value)]
    if rng.random() < 0.25:
        joint = (" and ", "，")[language == "zh"]
        said = joint.join(
            f"{field.en} is {details[field.key]}" if language == "en" else f"{field.zh}是{details[field.key]}" for field in fields
        )
        ask = ("Say it in a sentence.", "用一句话说。")[language == "zh"]
        turns += [("user", ask), ("assistant", said[0].upper() + said[1:] + (".", "。")[language == "zh"])]
    role, first = turns[0]
    turns[0] = (role, f"{text}\n{first}" if rng.random() < 0.7 else f"{first}\n{text}")
    return turns


def fill_form(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return requests from which the fields of a form are filled."""
    turns: list[Turn] = []
    writer = fill(rng, language, {})
    for _ in range(rng.randint(1, 2)):
        fields = tuple(rng.sample(FIELDS, rng.randint(1, 2 + round(2 * level))))
        details = draw_details(rng, language, fields)
        wish = say_wish(rng, language, Entry("", rng.choice(VERBS), rng.choice(THINGS), fields), details)
        keys = list_needs(rng, language, fields, rng.choice(("keys", "quoted", "described")))
        example = writer({"key": "value"})
        if language == "en":
            ask = rng.choice((f"Fill in {keys}, written like {example}.", f"Form: {keys}. Write {example}.", f"Find {keys} in the text, as {example}."))
        else:
            ask = rng.choice((f"请填写{keys}，写成{example}。", f"表格：{keys}。写成{example}。", f"找出{keys}，写成{example}。"))
        turns += [("user", f"{ask}\n{wish}" if rng.random() < 0.6 else f"{wish}\n{ask}"), ("assistant", writer(details))]
    return turns


def list_needs(rng: random.Random, language: str, fields: tuple[Field, ...], style: str) -> str:
    """Return fields as keys, as quoted keys or with descriptions."""
    if style == "keys":
        return ", ".join(field.key for field in fields)
    if style == "quoted":
        return "[" + ", ".join(f'"{field.key}"' for field in fields) + "]"
    pattern = rng.choice(("{key} ({what})", '"{key}" - {what}', '"{key}", "{what}"', "{key}: {what}"))
    return rng.choice((", ", "; ")).join(
        pattern.format(key=field.key, what=field.en if language == "en" else field.zh) for field in fields
    )


def use_directory(rng: random.Random, language: str, level: float) -> list[Turn]:
    """Return a directory and questions about it: who does this, what does that one need, please do it for me."""
    entries: list[Entry] = []
    for _ in range(rng.randint(2, 2 + round(3.4 * level))):
        entries.append(draw_entry(rng, language, entries, level))
    turns: list[Turn] = []
    shape = rng.randrange(6)
    writer, joint = fill(rng, language, {}), rng.choice(("\n", ": ", " - ", "\n\n"))
    for number in range(rng.randint(2, 4)):
        entry = rng.choice(entries)
        kind = rng.choices(("who", "wish", "what", "needs", "nobody"), (34, 34 if level > 0.2 else 8, 10, 12, 10))[0]
        question, answer = _ASKERS[kind](rng, language, entries, entry, shape)
        if kind == "wish":
            details = draw_details(rng, language, entry.fields)
            question = say_wish(rng, language, entry, details)
            answer = answer + joint + writer(details) if details else answer
        if number == 0:
            listing = write_directory(rng, language, entries, level)
            if rng.random() < 0.55:
                turns.append(("system", listing))
            else:
                question = f"{listing}\n\n{question}"
        turns += [("user", question), ("assistant", answer)]
    return turns


def write_directory(rng: random.Random, language: str, entries: list[Entry], level: float) -> str:
    """Return a directory as text, all lines in one style, with more around and between them as the level rises."""
    line, what, needs = rng.choice(_LINES[language]), rng.choice(_WHATS[language]), rng.choice(_NEEDS[language])
    mark, gap = rng.choice(_MARKS), rng.choice(("\n", "\n", "\n\n", " "))
    wordy = rng.random() < 0.4 * level
    lines = []
    for number, entry in enumerate(entries, 1):
        if language == "en":
            said = what.format(
                does=entry.verb.does, many=entry.thing.many, a_one=a(entry.thing.en), verb=entry.verb.en, Verb=entry.verb.en.capitalize()
            )
        else:
            said = what.format(verb=entry.verb.zh, one=entry.thing.zh)
        text = mark.format(n=number) + line.format(label=entry.label, what=said)
        if entry.fields:
            text += needs.format(**{style: list_needs(rng, language, entry.fields, style) for style in ("keys", "quoted", "described")})
        if wordy:
            text += " " + say_aside(rng, language, rng.randint(1, 2))
        lines.append(text)
    text = f"{rng.choice(_HEADS[language])}\n{gap.join(lines)}"
    if rng.random() < 0.3 * level:
        text += "\n\n" + say_aside(rng, language, rng.randint(2, 5))
    if rng.random() < 0.3:
        labels = ", ".join(entry.label for entry in entries)
        text += f"\n\nThe answer should be one of [{labels}]" if language == "en" else f"\n\n答案是其中一个：[{labels}]"
    return text


def say_aside(rng: random.Random, language: str, count: int) -> str:
    """Return sentences that have nothing to do with any question: details of places, small talk."""
    sentences = []
    for _ in range(count):
        field = rng.choice(FIELDS)
        value = values.draw(rng, field.kind, language)
        if rng.random() < 0.5:
            sentences.append(rng.choice(SMALL_TALK[language])[1])
        elif language == "en":
            sentences.append(f"{field.en[0].upper()}{field.en[1:]} was {value}.")
        else:
            sentences.append(f"以前{field.zh}是{value}。")
    return (" " if language == "en" else "").join(sentences)


def _ask_who(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entries
    verb, thing = entry.verb, entry.thing
    if language == "en":
        question = rng.choice(
            (f"Who can {verb.en} {a(thing.en)}?", f"Where can I {verb.en} {thing.many}?", f"I have to {verb.en} {a(thing.en)}. Who helps me?", f"Who {verb.does} {thing.many}?")
        )
    else:
        question = rng.choice((f"谁能{verb.zh}{thing.zh}？", f"哪里可以{verb.zh}{thing.zh}？", f"我要{verb.zh}{thing.zh}，找谁？"))
    return question, _say_label(language, entry, shape)


def _ask_wish(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del rng, entries
    return "", _say_label(language, entry, shape)


def _say_label(language: str, entry: Entry, shape: int) -> str:
    """Return who does it, in the one way of a conversation: alone, or in a sentence that names what is wanted first."""
    if language == "en":
        sentences = ("{label}", "{label}", "{label}", "To {verb} {thing}, go to {label}", "You want to {verb} {thing}: {label}", "{label} can {verb} {thing}")
        return sentences[shape].format(label=entry.label, verb=entry.verb.en, thing=a(entry.thing.en))
    sentences = ("{label}", "{label}", "{label}", "要{verb}{thing}，请找{label}", "你想{verb}{thing}：{label}", "{label}可以{verb}{thing}")
    return sentences[shape].format(label=entry.label, verb=entry.verb.zh, thing=entry.thing.zh)


def _ask_what(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entries, shape
    if language == "en":
        return rng.choice((f"What does {entry.label} do?", f"What is {entry.label} good for?")), f"{entry.verb.does} {entry.thing.many}"
    return rng.choice((f"{entry.label}做什么？", f"{entry.label}有什么用？")), f"{entry.verb.zh}{entry.thing.zh}"


def _ask_needs(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entries, shape
    keys = ", ".join(field.key for field in entry.fields)
    if language == "en":
        return rng.choice((f"What does {entry.label} need?", f"Which details does {entry.label} want?")), keys or "nothing"
    return rng.choice((f"{entry.label}需要什么？", f"{entry.label}要哪些信息？")), keys or "什么都不要"


def _ask_nobody(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entry
    while True:
        verb, thing = rng.choice(VERBS), rng.choice(THINGS)
        if rng.random() < 0.5:
            verb, thing = (rng.choice(entries).verb, thing) if rng.random() < 0.5 else (verb, rng.choice(entries).thing)
        if all((entry.verb, entry.thing) != (verb, thing) for entry in entries):
            break
    question, _ = _ask_who(rng, language, entries, Entry("", verb, thing, ()), shape)
    return question, "Nobody here can do that." if language == "en" else "这里没有人能做这个。"


_ASKERS = {"who": _ask_who, "wish": _ask_wish, "what": _ask_what, "needs": _ask_needs, "nobody": _ask_nobody}


def reason(rng: random.Random, language: str, _: float) -> list[Turn]:
    """Return a short sum or comparison."""
    one, other = rng.sample(range(1, 20), 2)
    first, second = (values.draw_word(rng, language) for _ in range(2))
    thing = rng.choice(THINGS)
    if language == "en":
        asked = (
            (f"How much is {one} + {other}?", f"{one} + {other} = {one + other}"),
            (f"{first} has {one} {thing.many} and gets {other} more. How many are there?", f"{one} + {other} = {one + other}, so there are {one + other}."),
            (f"Which is larger, {one} or {other}?", str(max(one, other))),
            (f"{first} is {one} years old and {second} is {other}. Who is older?", first if one > other else second),
            (f"{first} is taller than {second}. Who is smaller?", second),
        )
    else:
        asked = (
            (f"{one}加{other}等于多少？", f"{one} + {other} = {one + other}"),
            (f"{first}有{one}个{thing.zh}，又得到{other}个。一共有几个？", f"{one} + {other} = {one + other}，一共有{one + other}个。"),
            (f"{one}和{other}哪个大？", str(max(one, other))),
            (f"{first}{one}岁，{second}{other}岁。谁年纪大？", first if one > other else second),
            (f"{first}比{second}高。谁矮？", second),
        )
    question, answer = rng.choice(asked)
    return [("user", question), ("assistant", answer)]
