"""Directories in ever other shapes: for the last part of the base model's training.

One shape of list teaches to read that shape. Here marks, separators, words between, lists of details and the form of the
answer are drawn anew for every directory, many of them invented, so that what stays is the matching itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from actune.demo import values
from actune.demo.chats import SMALL_TALK
from actune.demo.directories import Turn
from actune.demo.requests import Entry, draw_details, draw_label, draw_pair, say_wish
from actune.demo.tools import tool_pairs
from actune.demo.words import FIELDS, Field, a, is_held_out

_MARKS = ("{n}. ", "{n}. ", "{n}) ", "({n}) ", "[{n}] ", "{n}: ", "- ", "* ", "+ ", "", "No. {n} ", "<{n}> ")
_GAPS = ("\n", "\n", "\n\n", "\n\n", " ", "\n- ", " | ")
_AFTER_LABEL = (": ", ": ", ": ", " - ", " = ", " / ", ", ", " (", "\n")
_WHATS = {
    "en": (
        "{does} {many}",
        "{does} {one}",
        "{verb} {one}",
        "{verb} {many}",
        "can {verb} {many}",
        "can {verb} {one}",
        "helps to {verb} {one}",
        "is there to {verb} {many}",
        "is good when you {verb} {one}",
        "will {verb} {many} for you",
    ),
    "zh": (
        "{verb}{thing}",
        "可以{verb}{thing}",
        "帮人{verb}{thing}",
        "负责{verb}{thing}",
        "会{verb}{thing}",
        "专门{verb}{thing}",
        "用来{verb}{thing}",
        "能够{verb}{thing}",
    ),
}
_BEFORE = {
    "en": (
        "Here you talk with {label}. ",
        "This is the house of {label}. ",
        "Ask for {label} at the door. ",
        "Everybody knows {label}. ",
        "We like to meet {label} here. What is so good about {label}? ",
    ),
    "zh": (
        "这里是{label}。",
        "请找{label}。",
        "大家都认识{label}。",
        "Here you talk with {label}. ",
        "我们常来{label}。{label}好在哪里？",
    ),
}
_WORDS = {
    "en": (
        "Needs",
        "Details",
        "Fields",
        "Form",
        "Values",
        "Options",
        "Please tell",
        "Ask for",
        "Questions",
        "What to say",
        "Bring",
    ),
    "zh": ("需要", "信息", "填写", "请告知", "表格", "Fields", "内容", "要说的", "Details"),
}
_ATTRIBUTES = ("name", "key", "word", "says", "what", "meaning", "text", "needed", "must", "always", "type", "note")
_YES = ("yes", "always", "needed", "1", "true", "must")
_PARTS = (
    "Place",
    "Form",
    "Plan",
    "Note",
    "Wish",
    "Line",
    "Part",
    "Choice",
    "Who",
    "What",
    "How",
    "Step",
    "Idea",
    "Way",
)
_LEADS = {
    "en": (
        "Here is a list of shops:",
        "You know these helpers:",
        "The directory of our town:",
        "Look at this list.",
        "These are there:",
        "Answer as well as you can. You can go to the following places:",
        "Help the people as best you can. You know these:",
    ),
    "zh": (
        "这里有一份清单：",
        "你认识这些帮手：",
        "我们镇上的名录：",
        "请看清单。",
        "Answer as well as you can. You can go to the following places:",
        "请尽量回答。有这些地方：",
    ),
}
_NOBODY = {"en": "Nobody here can do that.", "zh": "这里没有人能做这个。"}
_INTENTS = {
    "en": ("I want to {verb} {one}.", "This is about: {verb} {one}", "Somebody has to {verb} {one}.", "{verb} {one}"),
    "zh": ("要{verb}{thing}。", "有人想{verb}{thing}。", "这是{verb}{thing}的事。", "{verb}{thing}"),
}
_VALUES = (
    "{key}={value}",
    '{key}="{value}"',
    "{key}: {value}",
    '{key}: "{value}"',
    "({key}: {value})",
    "<{key}> {value}",
    "{key} -> {value}",
    "'{key}' is '{value}'",
)
_WRAPS = ("{}", "{}", "({})", "[{}]", "<{}>")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a directory and the answers about it are written, the same throughout a chat."""

    line: Callable[[int, Entry], str]
    answer: Callable[[Entry, dict[str, str] | None], str]
    layout: str


def use_varied_directory(rng: random.Random, language: str) -> list[Turn]:
    """Return a directory of two to five entries in a new shape, with one to three requests or questions about it."""
    entries = _draw_entries(rng, language)
    shape = _draw_shape(rng, language)
    listing = _write_listing(rng, language, entries, shape)
    turns: list[Turn] = []
    for number in range(rng.choices((1, 2, 3), (3, 4, 3))[0]):
        wanted, entry = _draw_wanted(rng, language, entries)
        with_details = rng.random() < 0.8
        details = draw_details(rng, language, wanted.fields) if with_details else None
        wish = say_wish(rng, language, wanted, details) if details is not None else _ask_who(rng, language, wanted)
        answer = shape.answer(wanted, details) if entry is not None else _say_nobody(language, shape, wanted)
        if number == 0:
            turns.append(("system", listing))
        turns += [("user", wish), ("assistant", answer)]
    return turns


def _draw_entries(rng: random.Random, language: str) -> list[Entry]:
    entries: list[Entry] = []
    speaking = rng.random() < 0.6  # labels that say, or seem to say, what is done
    for _ in range(rng.randint(2, 5)):
        while True:
            verb, thing = draw_pair(rng)
            if entries and rng.random() < 0.3:
                other = rng.choice(entries)
                verb, thing = (other.verb, thing) if rng.random() < 0.5 else (verb, other.thing)
            label = draw_label(rng, language)
            if speaking and rng.random() < 0.8:
                label = _speak(rng, verb.en, thing.en) or label
            fields = tuple(rng.sample(FIELDS, rng.choices((0, 1, 2, 3), (2, 5, 6, 4))[0]))
            new = all(other.label != label and (other.verb, other.thing) != (verb, thing) for other in entries)
            if new and not is_held_out(verb, thing) and not values.holds_held_out_word(label):
                entries.append(Entry(label, verb, thing, fields))
                break
    return entries


def _speak(rng: random.Random, verb: str, thing: str) -> str | None:
    """Return a label made of a verb and a thing, never one that a tool of the demo could have."""
    if rng.random() < 0.3:
        verb, thing = _draw_words(rng)
    if (verb, thing) in tool_pairs():
        return None
    pattern = rng.choice(("{0}_{1}", "{1}_{0}", "{0}-{1}", "{0}{2}", "{1}{3}", "{0}.{1}"))
    return pattern.format(verb, thing, thing.capitalize(), verb.capitalize())


def _draw_words(rng: random.Random) -> tuple[str, str]:
    """Return an English verb and thing that need not belong together."""
    verb, _ = draw_pair(rng)
    _, thing = draw_pair(rng)
    return verb.en, thing.en


def _draw_shape(rng: random.Random, language: str) -> _Shape:
    mark, after = rng.choice(_MARKS), rng.choice(_AFTER_LABEL)
    what = [rng.choice(_WHATS[language]) for _ in range(3)]
    before = rng.choice(_BEFORE[language]) if rng.random() < 0.5 else ""
    before_all = rng.random() < 0.5
    word = rng.choice(_WORDS[language]) if rng.random() < 0.5 else values.draw_word(rng, "en")
    end = rng.choice((".", ". ", "", ";", " -")) if language == "en" else rng.choice(("。", "。 ", "", "；"))
    capital = rng.random() < 0.5
    list_fields = _draw_list(rng, language)
    empty = rng.choice(("", f" {word}: []", f" {word}: -"))

    def line(number: int, entry: Entry) -> str:
        said = _say_what(rng.choice(what), language, entry)
        said = said[0].upper() + said[1:] if capital else said
        lead = before.format(label=entry.label) if before_all or number % 2 else ""
        tail = f" {word}: {list_fields(entry.fields)}" if entry.fields else empty
        text = mark.format(n=number) + entry.label + after + lead + said + end + tail
        return text + (")" if after == " (" else "")

    answer, layout = _draw_answer(rng, language)
    return _Shape(line, answer, layout)


def _say_what(pattern: str, language: str, entry: Entry) -> str:
    if language == "en":
        verb, thing = entry.verb, entry.thing
        return pattern.format(verb=verb.en, does=verb.does, one=a(thing.en), many=thing.many)
    return pattern.format(verb=entry.verb.zh, thing=entry.thing.zh)


def _draw_list(rng: random.Random, language: str) -> Callable[[tuple[Field, ...]], str]:
    """Return a function that lists fields: keys alone, keys with what they are, or with named attributes."""
    joint, wrap = rng.choice((", ", "; ", " ", " and ")), rng.choice(_WRAPS)
    quote = rng.choice(("", '"', '"', "'"))
    style = rng.randrange(3)
    first, second, third = rng.sample(_ATTRIBUTES, 3)
    yes = rng.choice(_YES)
    between = rng.choice((": ", " - ", " = ", ", "))

    def write(fields: tuple[Field, ...]) -> str:
        said = []
        for field in fields:
            what = field.en if language == "en" else field.zh
            key, what = f"{quote}{field.key}{quote}", f"{quote}{what}{quote}"
            if style == 0:
                said.append(key)
            elif style == 1:
                said.append(f"{key}{between}{what}")
            else:
                pairs = ((first, key), (second, what), (third, f"{quote}{yes}{quote}"))
                said.append("(" + ", ".join(f"{quote}{name}{quote}{between}{value}" for name, value in pairs) + ")")
        return wrap.format(joint.join(said))

    return write


def _draw_answer(rng: random.Random, language: str) -> tuple[Callable[[Entry, dict[str, str] | None], str], str]:
    """Return a function that writes an answer, and a text that explains its form, empty where nothing explains it."""
    style, joint, wrap = rng.choice(_VALUES), rng.choice((", ", "; ", "\n", " ")), rng.choice(_WRAPS)
    names = [rng.choice(_PARTS) if rng.random() < 0.6 else values.draw_word(rng, "en") for _ in range(3)]
    intent = rng.choice(_INTENTS[language])
    with_intent, labelled = rng.random() < 0.6, rng.random() < 0.7

    def write(entry: Entry, details: dict[str, str] | None) -> str:
        parts = []
        if with_intent:
            parts.append((names[0], _say_intent(intent, language, entry)))
        parts.append((names[1], entry.label))
        if details is not None:
            filled = wrap.format(joint.join(style.format(key=key, value=value) for key, value in details.items()))
            parts.append((names[2], filled if details else wrap.format("")))
        return "\n".join(f"{name}: {text}" if labelled else text for name, text in parts if labelled or text)

    if not labelled or rng.random() < 0.3:
        return write, ""
    explained = [names[1:], names][with_intent]
    meant = {
        "en": ("what is wanted", "one of the above", "the details"),
        "zh": ("想要什么", "上面的一个", "信息"),
    }[language][3 - len(explained) :]
    return write, "\n".join(f"{name}: {text}" for name, text in zip(explained, meant, strict=True))


def _say_intent(pattern: str, language: str, entry: Entry) -> str:
    if language == "en":
        return pattern.format(verb=entry.verb.en, one=a(entry.thing.en))
    return pattern.format(verb=entry.verb.zh, thing=entry.thing.zh)


def _write_listing(rng: random.Random, language: str, entries: list[Entry], shape: _Shape) -> str:
    lines = [shape.line(number, entry) for number, entry in enumerate(entries, 1)]
    text = rng.choice(_LEADS[language]) + rng.choice(("\n", "\n", " ", "\n\n")) + rng.choice(_GAPS).join(lines)
    if rng.random() < 0.4:
        text += "\n\n" + " ".join(rng.choice(SMALL_TALK[language])[1] for _ in range(rng.randint(1, 4)))
    if shape.layout:
        lead = rng.choice(("Answer like this:", "Write it in this way:", "The form of an answer:", "请这样回答："))
        text += f"\n\n{lead}\n{shape.layout}"
    if rng.random() < 0.4:
        labels = ", ".join(entry.label for entry in entries)
        text += rng.choice((f" [{labels}]", f"\nOne of: {labels}", f"\n\n({labels})"))
    return text


def _draw_wanted(rng: random.Random, language: str, entries: list[Entry]) -> tuple[Entry, Entry | None]:
    """Return what is asked for and the entry that offers it, None where none does."""
    entry = rng.choice(entries)
    if rng.random() < 0.85:
        return entry, entry
    while True:
        verb, thing = draw_pair(rng)
        if rng.random() < 0.5:
            verb, thing = (entry.verb, thing) if rng.random() < 0.5 else (verb, entry.thing)
        if not is_held_out(verb, thing) and all((one.verb, one.thing) != (verb, thing) for one in entries):
            return Entry("", verb, thing, entry.fields), None


def _say_nobody(language: str, shape: _Shape, wanted: Entry) -> str:
    """Return the refusal, after the intent where the form has one."""
    whole = shape.answer(Entry("\0", wanted.verb, wanted.thing, ()), None)
    head = whole[: whole.index("\0")]
    first = head[: head.rindex("\n") + 1] if "\n" in head else ""
    return first + _NOBODY[language]


def _ask_who(rng: random.Random, language: str, entry: Entry) -> str:
    if language == "en":
        verb, thing = entry.verb, entry.thing
        asked = (
            "Who can {verb} {one}?",
            "Where can I {verb} {many}?",
            "Who {does} {many}?",
            "I have to {verb} {one}. Who helps me?",
            "I need somebody who {does} {many}.",
        )
        return rng.choice(asked).format(verb=verb.en, does=verb.does, one=a(thing.en), many=thing.many)
    asked = ("谁能{verb}{thing}？", "哪里可以{verb}{thing}？", "我要{verb}{thing}，找谁？", "请问谁{verb}{thing}？")
    return rng.choice(asked).format(verb=entry.verb.zh, thing=entry.thing.zh)
