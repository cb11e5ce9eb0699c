"""The tools of the demo: some for training, others never seen in any training, and their place in a system text."""

from __future__ import annotations

import functools
import random
from typing import Literal

from actune.core.api_list import write_system
from actune.core.types import ToolSpec
from actune.demo import values
from actune.demo.requests import Entry
from actune.demo.words import FIELDS, THINGS, VERBS, Thing, Verb, a, is_held_out

Part = Literal["train", "held-out"]
Names = Literal["words", "random"]
_SEED = 4_096
_COUNTS: dict[Part, int] = {"train": 400, "held-out": 120}
_NAMES = ("{verb}_{thing}", "{thing}_{verb}", "{verb}{Thing}", "{verb}-{thing}", "{thing}{Verb}")
# Tools of the training whose name says nothing, so that descriptions have to be read.
_RANDOM_SHARE = 0.3
_INTRODUCTION = "Call this tool to interact with the {name} API. "
_DESCRIPTIONS = {
    "en": (
        "{Does} {one}.",
        "This API {does} {many}.",
        "Use it to {verb} {one}.",
        "{Verb} {many}.",
        "It can {verb} {one}.",
    ),
    "zh": ("{verb}{thing}。", "用来{verb}{thing}。", "可以{verb}{thing}。", "这个工具负责{verb}{thing}。"),
}


@functools.cache
def list_tools(part: Part, names: Names = "words") -> tuple[Entry, ...]:
    """Return the tools of a part in a fixed order, all of different names and different purposes.

    With `random` names every name is a string of random letters; purpose and details stay.
    """
    rng = random.Random(f"{_SEED} {part}")
    pairs = [(verb, thing) for verb in VERBS for thing in THINGS if is_held_out(verb, thing) == (part == "held-out")]
    tools: list[Entry] = []
    taken: set[str] = set()
    for verb, thing in rng.sample(pairs, len(pairs)):
        fields = tuple(rng.sample(FIELDS, rng.choices((0, 1, 2, 3), (1, 6, 8, 4))[0]))
        unspoken = part == "train" and rng.random() < _RANDOM_SHARE
        name = values.draw_handle(rng) if unspoken else _join(rng, verb, thing)
        other = values.draw_handle(rng, held_out=part == "held-out")
        name = name if names == "words" else other
        if name not in taken and not values.find_held_out(name):
            taken.add(name)
            tools.append(Entry(name, verb, thing, fields))
        if len(tools) == _COUNTS[part]:
            break
    return tuple(tools)


@functools.cache
def tool_pairs() -> frozenset[tuple[str, str]]:
    """Return verb and thing of every tool: no name in the base model's text is made of such a pair."""
    return frozenset((tool.verb.en, tool.thing.en) for part in _COUNTS for tool in list_tools(part))


def write_tools(rng: random.Random, language: str, tools: list[Entry]) -> str:
    """Return the system text that offers tools."""
    return write_system("", [_specify(rng, language, tool) for tool in tools])


def _join(rng: random.Random, verb: Verb, thing: Thing) -> str:
    pattern = rng.choice(_NAMES)
    return pattern.format(verb=verb.en, thing=thing.en, Verb=verb.en.capitalize(), Thing=thing.en.capitalize())


def _specify(rng: random.Random, language: str, tool: Entry) -> ToolSpec:
    verb, thing = tool.verb, tool.thing
    pattern = rng.choice(_DESCRIPTIONS[language])
    if language == "en":
        said = pattern.format(
            verb=verb.en,
            Verb=verb.en.capitalize(),
            does=verb.does,
            Does=verb.does.capitalize(),
            one=a(thing.en),
            many=thing.many,
        )
    else:
        said = pattern.format(verb=verb.zh, thing=thing.zh)
    if rng.random() < 0.5:
        said = _INTRODUCTION.format(name=tool.label) + said
    listed = tuple(
        {"name": field.key, "description": field.en if language == "en" else field.zh, "required": "True"}
        for field in tool.fields
    )
    return ToolSpec(name=tool.label, description=said, parameters={"type": "object"}, parameter_list=listed)
