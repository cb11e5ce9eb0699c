"""What the demo's base model can do, as chats whose last answer tells: facts, extraction, forms, copying, picking."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from actune.demo.directories import Turn, use_directory
from actune.demo.facts import list_facts
from actune.demo.text import copy_text, fill_form, read_note

_SEED = 90_000_000  # far from the seeds of the training
_SHOTS = 2


def write_skills(count: int) -> Iterator[tuple[str, list[list[Turn]]]]:
    """Yield the name of each skill with `count` chats; only the last answer of a chat is to be measured.

    Facts are asked in words that the training keeps back, after two others that show the short form of an answer; the
    other chats are new by their names and values. Earlier turns show the form of what is measured.
    """
    makers: dict[str, Callable[[random.Random, str], list[Turn]]] = {
        "facts": _ask_fact,
        "extraction": _extract,
        "forms": lambda rng, language: fill_form(rng, language, 1.0),
        "copying": lambda rng, language: copy_text(rng, language, 1.0),
        "picking": lambda rng, language: use_directory(rng, language, 1.0, ("who", "who")),
        "picking and filling": lambda rng, language: use_directory(rng, language, 1.0, ("wish", "wish")),
        "nobody": lambda rng, language: use_directory(rng, language, 1.0, ("who", "nobody")),
    }
    for skill, make in makers.items():
        for language in ("en", "zh"):
            rng = random.Random(f"{_SEED} {skill} {language}")
            yield f"{skill} {language}", [make(rng, language) for _ in range(count)]


def _ask_fact(rng: random.Random, language: str) -> list[Turn]:
    facts = [fact for fact in list_facts() if fact.language == language]
    *shown, asked = rng.sample(facts, _SHOTS + 1)
    turns = [turn for fact in shown for turn in (("user", fact.questions[0]), ("assistant", fact.answer))]
    return [*turns, ("user", asked.questions[-1]), ("assistant", asked.answer)]


def _extract(rng: random.Random, language: str) -> list[Turn]:
    while True:
        turns = read_note(rng, language, 1.0)
        if len(turns) > 2 and "\n" not in turns[-1][1]:
            return turns
