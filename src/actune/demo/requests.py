"""What people ask for in the demo's world: who offers what, which details that takes, and how a wish is said.

The text of the base model and the rows of the fine-tuning are written with the same sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from actune.demo import values
from actune.demo.words import FIELDS, THINGS, VERBS, Field, Thing, Verb, a, is_held_out

_WISHES = {
    "en": (
        "I want to {verb} {a_one} {details}.",
        "Please {verb} {a_one} {details}.",
        "Can you {verb} {a_one} {details}?",
        "I need to {verb} my {one} {details}.",
        "{verb} the {one} {details}.",
        "Help me {verb} {many} {details}.",
    ),
    "zh": (
        "我想{verb}{one}，{details}。",
        "请帮我{verb}{one}，{details}。",
        "能{verb}{one}吗？{details}。",
        "我要{verb}一下{one}，{details}。",
        "{verb}{one}，{details}。",
    ),
}
_FILLED = {
    "en": (
        "{key}: {value}",
        "{key} = {value}",
        '{key}: "{value}"',
        "<{key}> {value}",
        "{key} is {value}",
        '{key}="{value}"',
    ),
    "zh": (
        "{key}：{value}",
        "{key}: {value}",
        '{key}: "{value}"',
        "<{key}> {value}",
        "{key}是{value}",
        '{key}="{value}"',
    ),
}

# Words that are no verb as well, so that two of them joined are never the name of a tool.
_PLAIN = tuple(thing for thing in THINGS if thing.en not in {verb.en for verb in VERBS})


@dataclass(frozen=True, slots=True)
class Entry:
    """Who, or which tool, does what, and which details are needed for it."""

    label: str
    verb: Verb
    thing: Thing
    fields: tuple[Field, ...]


def draw_pair(rng: random.Random) -> tuple[Verb, Thing]:
    """Return a verb and a thing for training; the thing is at times an invented word, so that words are compared."""
    while True:
        verb, thing = rng.choice(VERBS), rng.choice(THINGS)
        if not is_held_out(verb, thing):
            break
    if rng.random() < 0.15:
        word = values.draw_word(rng, "en").lower()
        thing = Thing(word, word + "s", values.draw_word(rng, "zh"))
    return verb, thing


def draw_label(rng: random.Random, language: str) -> str:
    """Return a name of a shop or helper, in one of many shapes; none is made of a verb and a thing, as tools are."""
    shape = rng.random()
    if shape < 0.3:
        return values.draw_word(rng, language)
    if shape < 0.5:
        return values.draw_handle(rng)
    while True:
        word = values.draw_word(rng, "en")
        if shape < 0.65:
            return word.lower()
        thing = rng.choice(_PLAIN).en
        joined = ((thing, word.lower()), (word.lower(), thing), (rng.choice(_PLAIN).en, thing))[rng.randrange(3)]
        label = rng.choice(("_".join(joined), joined[0] + joined[1].capitalize(), "-".join(joined)))
        if not values.holds_held_out_word(label):
            return label


def draw_entry(rng: random.Random, language: str, taken: list[Entry], level: float) -> Entry:
    """Return an entry that differs from those taken; often it shares the verb or the thing with one of them."""
    while True:
        verb, thing = draw_pair(rng)
        if taken and rng.random() < 0.3:
            other = rng.choice(taken)
            verb, thing = (other.verb, thing) if rng.random() < 0.5 else (verb, other.thing)
        label = draw_label(rng, language)
        fields = tuple(rng.sample(FIELDS, rng.randint(0 if level < 0.3 else 1, 1 + round(2 * level))))
        new = all(other.label != label and (other.verb, other.thing) != (verb, thing) for other in taken)
        if new and not is_held_out(verb, thing):
            return Entry(label, verb, thing, fields)


def draw_details(
    rng: random.Random, language: str, fields: tuple[Field, ...], *, held_out: bool = False
) -> dict[str, str]:
    """Return a value for every field, all different."""
    details: dict[str, str] = {}
    for field in fields:
        while (value := values.draw(rng, field.kind, language, held_out=held_out)) in details.values():
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
        text = template.format(
            verb=entry.verb.en, one=entry.thing.en, a_one=a(entry.thing.en), many=entry.thing.many, details=said
        )
        text = text.replace(" .", ".").replace(" ?", "?")
        return text[0].upper() + text[1:]
    return (
        template.format(verb=entry.verb.zh, one=entry.thing.zh, details=said)
        .replace("，。", "。")
        .replace("？。", "？")
    )


def fill(rng: random.Random, language: str) -> Callable[[dict[str, str]], str]:
    """Return a function that writes details as a filled form, the same way every time."""
    style = rng.choice(_FILLED[language])
    joint = rng.choice((", ", "; ", "\n"))
    return lambda details: joint.join(style.format(key=key, value=value) for key, value in details.items())


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
