"""Directories in the text of the demo's base model: lists of who does what, and questions about them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from actune.demo import values
from actune.demo.chats import SMALL_TALK
from actune.demo.requests import Entry, draw_details, draw_entry, draw_pair, fill, list_needs, say_wish
from actune.demo.words import FIELDS, a, is_held_out

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
    "zh": (
        "这里有一份商店清单：",
        "你认识这些帮手：",
        "我们镇上的名录：",
        "这些人可以帮忙：",
        "请看清单，回答问题。",
        "有以下这些服务：",
        "请尽量回答。你可以去下面这些地方：",
    ),
}
_LINES = {
    "en": (
        "{label}: {what}",
        "{label} - {what}",
        "{label} ({what})",
        "{label}: this is the house of {label}. People like {label}. Here is the reason: {what}",
        "{label}: one of the good places. Everybody in the town knows that {label} {what}",
        "{label} = {what}",
        "{what}: {label}",
    ),
    "zh": (
        "{label}：{what}",
        "{label}: {what}",
        "{label}（{what}）",
        "{label}：大家都认识{label}。我们喜欢{label}，因为它{what}",
        "{what}：{label}",
    ),
}
_WHATS = {
    "en": ("{does} {many}", "{does} {a_one}", "helps to {verb} {a_one}", "can {verb} {many}", "{Verb} {a_one}"),
    "zh": ("{verb}{one}", "可以{verb}{one}", "帮人{verb}{one}", "负责{verb}{one}"),
}
_NEEDS = {
    "en": (
        ". Needs: {keys}.",
        ". Details: {quoted}.",
        ". Ask for {keys}.",
        ". Please tell: {described}.",
        ". Fields: {described}.",
        ", needs {keys}.",
    ),
    "zh": (
        "。需要：{keys}。",
        "。信息：{quoted}。",
        "，需要{keys}。",
        "。请告知：{described}。",
        "。填写：{described}。",
    ),
}
_MARKS = ("{n}. ", "- ", "* ", "{n}) ", "")


def use_directory(rng: random.Random, language: str, level: float, kinds: Sequence[str] = ()) -> list[Turn]:
    """Return a directory and questions about it: who does this, what does that one need, please do it for me.

    `kinds` says which kinds of questions, in order; without it they are drawn.
    """
    entries: list[Entry] = []
    for _ in range(rng.randint(2, 2 + round(3.4 * level))):
        entries.append(draw_entry(rng, language, entries, level))
    turns: list[Turn] = []
    shape = rng.randrange(6)
    writer, joint = fill(rng, language), rng.choice(("\n", ": ", " - ", "\n\n"))
    weights = (34, 34 if level > 0.2 else 8, 10, 12, 10)
    for number, kind in enumerate(kinds or rng.choices(tuple(_ASKERS), weights, k=rng.randint(2, 4))):
        entry = rng.choice(entries)
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
                does=entry.verb.does,
                many=entry.thing.many,
                a_one=a(entry.thing.en),
                verb=entry.verb.en,
                Verb=entry.verb.en.capitalize(),
            )
        else:
            said = what.format(verb=entry.verb.zh, one=entry.thing.zh)
        text = mark.format(n=number) + line.format(label=entry.label, what=said)
        if entry.fields:
            text += needs.format(
                **{style: list_needs(rng, language, entry.fields, style) for style in ("keys", "quoted", "described")}
            )
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
            (
                f"Who can {verb.en} {a(thing.en)}?",
                f"Where can I {verb.en} {thing.many}?",
                f"I have to {verb.en} {a(thing.en)}. Who helps me?",
                f"Who {verb.does} {thing.many}?",
            )
        )
    else:
        question = rng.choice(
            (f"谁能{verb.zh}{thing.zh}？", f"哪里可以{verb.zh}{thing.zh}？", f"我要{verb.zh}{thing.zh}，找谁？")
        )
    return question, _say_label(language, entry, shape)


def _ask_wish(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del rng, entries
    return "", _say_label(language, entry, shape)


def _say_label(language: str, entry: Entry, shape: int) -> str:
    """Return who does it, in the one way of a conversation: alone, or in a sentence that names what is wanted first."""
    if language == "en":
        sentences = (
            "{label}",
            "{label}",
            "{label}",
            "To {verb} {thing}, go to {label}",
            "You want to {verb} {thing}: {label}",
            "{label} can {verb} {thing}",
        )
        return sentences[shape].format(label=entry.label, verb=entry.verb.en, thing=a(entry.thing.en))
    sentences = (
        "{label}",
        "{label}",
        "{label}",
        "要{verb}{thing}，请找{label}",
        "你想{verb}{thing}：{label}",
        "{label}可以{verb}{thing}",
    )
    return sentences[shape].format(label=entry.label, verb=entry.verb.zh, thing=entry.thing.zh)


def _ask_what(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entries, shape
    if language == "en":
        return rng.choice(
            (f"What does {entry.label} do?", f"What is {entry.label} good for?")
        ), f"{entry.verb.does} {entry.thing.many}"
    return rng.choice((f"{entry.label}做什么？", f"{entry.label}有什么用？")), f"{entry.verb.zh}{entry.thing.zh}"


def _ask_needs(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entries, shape
    keys = ", ".join(field.key for field in entry.fields)
    if language == "en":
        return rng.choice(
            (f"What does {entry.label} need?", f"Which details does {entry.label} want?")
        ), keys or "nothing"
    return rng.choice((f"{entry.label}需要什么？", f"{entry.label}要哪些信息？")), keys or "什么都不要"


def _ask_nobody(rng: random.Random, language: str, entries: list[Entry], entry: Entry, shape: int) -> tuple[str, str]:
    del entry
    while True:
        verb, thing = draw_pair(rng)
        if rng.random() < 0.5:
            verb, thing = (rng.choice(entries).verb, thing) if rng.random() < 0.5 else (verb, rng.choice(entries).thing)
        if not is_held_out(verb, thing) and all((entry.verb, entry.thing) != (verb, thing) for entry in entries):
            break
    question, _ = _ask_who(rng, language, entries, Entry("", verb, thing, ()), shape)
    return question, "Nobody here can do that." if language == "en" else "这里没有人能做这个。"


_ASKERS = {"who": _ask_who, "wish": _ask_wish, "what": _ask_what, "needs": _ask_needs, "nobody": _ask_nobody}
