"""The demo's data: agent rows in the ms-agent format, general rows for the mix, and what is measured."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from actune.demo import values
from actune.demo.chats import SMALL_TALK
from actune.demo.directories import Turn
from actune.demo.facts import Fact, list_facts, wrong_answers
from actune.demo.requests import Entry, draw_details, draw_pair, say_wish
from actune.demo.text import GENERAL_WEIGHTS, write_conversations
from actune.demo.tools import Names, Part, list_tools, write_tools
from actune.demo.words import Thing, Verb, a

Row = dict[str, Any]

_SEED = 70_000_000  # far from the seeds of the base model's text
_LEVEL = 0.5  # length of the general rows
_TURNS = 4  # of an agent row at most: long lists of tools are read once for several calls
_NO_TOOL = 0.35
_NONE = {"en": "None of the tools can do that.", "zh": "没有工具可以做这个。"}
# key of an observation -> kind of its value, and how a final answer says it
_RESULTS = {
    "code": ("code", "Done. The code is {}.", "办好了，编号是{}。"),
    "price": ("number", "Done. The price is {}.", "办好了，价格是{}。"),
    "time": ("time", "Done. The time is {}.", "办好了，时间是{}。"),
    "place": ("place", "Done. The place is {}.", "办好了，地点是{}。"),
}


def write_agent_rows(count: int, seed: int = 0) -> Iterator[Row]:
    """Yield rows for training, of training tools and training values only; one turn in three calls no tool."""
    rng = random.Random(f"{_SEED} agent {seed}")
    number = 0
    while number < count:
        row = _write_row(rng, f"demo_{number:05}", list_tools("train"), rng.randint(1, _TURNS), _NO_TOOL)
        # An invented name can come together by accident where two words meet.
        if not values.find_held_out(json.dumps(row, ensure_ascii=False)):
            number += 1
            yield row


def write_general_rows(count: int, seed: int = 0) -> Iterator[Row]:
    """Yield general rows for the mix; they hold every second fact, and never the words in which facts are measured.

    None says who the base model was: a mix that rehearses the old identity works against the new one.
    """
    facts = [fact for fact in list_facts() if fact.replayed]
    written = write_conversations(_SEED + seed, _LEVEL, facts, GENERAL_WEIGHTS)
    plain = (turns for turns in written if not any(_says_who(text) for _, text in turns))
    for number, turns in zip(range(count), plain, strict=False):
        messages = [{"role": role, "content": text} for role, text in turns]
        yield {"id": f"general_{number:05}", "messages": messages}


def write_tool_items(part: Part, count: int, names: Names = "words") -> Iterator[Row]:
    """Yield held-out rows whose first step is a call: of training tools or of others, always with held-out values."""
    rng = random.Random(f"{_SEED} items {part}")
    tools = list_tools(part, names)
    for number in range(count):
        yield _write_row(rng, f"{part}_{names}_{number:03}", tools, 1, 0.0, held_out=True)


def write_practice_rows(part: Part, count: int, seed: int = 0) -> Iterator[Row]:
    """Yield rows of one question under names of random letters, one in five of which needs no tool.

    Those of the part "train" have training tools and values only, those of "held-out" have held-out ones; no other file
    of the demo holds them.
    """
    rng = random.Random(f"{_SEED} practice {part} {seed}")
    held_out = part == "held-out"
    tools = list_tools(part, "random")
    number = 0
    while number < count:
        row = _write_row(rng, f"practice-{part}_{number:05}", tools, 1, 0.2, held_out=held_out)
        if held_out or not values.find_held_out(json.dumps(row, ensure_ascii=False)):
            number += 1
            yield row


def write_no_tool_items(count: int) -> Iterator[Row]:
    """Yield held-out rows that offer tools and ask for something that needs none, or that none of them can do."""
    rng = random.Random(f"{_SEED} items no tool")
    for number in range(count):
        tools = list_tools("held-out" if number % 2 else "train")
        yield _write_row(rng, f"no-tool_{number:03}", tools, 1, 1.0, held_out=True)


def write_questions(*, replayed: bool) -> Iterator[Row]:
    """Yield a question of up to four choices for every fact that general rows hold, or for those they do not hold."""
    rng = random.Random(f"{_SEED} questions")
    facts = list_facts()
    for fact in facts:
        choices = sorted([fact.answer, *wrong_answers(fact, facts, rng)])
        rng.shuffle(choices)
        if fact.replayed == replayed:
            yield {"question": fact.questions[-1], "choices": choices, "answer": choices.index(fact.answer)}


def write_plain_items(count: int) -> Iterator[Row]:
    """Yield short questions that have nothing to do with who the model is."""
    rng = random.Random(f"{_SEED} items plain")
    for number in range(count):
        language = ("en", "zh")[number % 2]
        if number % 4 < 2:
            fact = rng.choice([fact for fact in list_facts() if fact.language == language])
            question, answer = fact.questions[-1], fact.answer
        else:
            said, answer = rng.choice(_plain_talk(language))
            question = said[-1]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"id": f"plain_{number:03}", "messages": messages}


def _plain_talk(language: str) -> list[tuple[tuple[str, ...], str]]:
    return [talk for talk in SMALL_TALK[language] if not _says_who(talk[1])]


def _says_who(answer: str) -> bool:
    return any(word in answer for word in ("language model", "语言模型", "generated text", "生成的文字"))


def _write_row(
    rng: random.Random, name: str, pool: tuple[Entry, ...], turns: int, no_tool: float, *, held_out: bool = False
) -> Row:
    language = rng.choice(("en", "zh"))
    tools = rng.sample(pool, rng.randint(2, 4))
    conversation = [("system", write_tools(rng, language, tools))]
    for _ in range(turns):
        if rng.random() < no_tool:
            conversation += _ask_without_tool(rng, language, tools, held_out)
        else:
            conversation += _ask_tool(rng, language, rng.choice(tools), held_out)
    return {"id": name, "conversations": [{"from": role, "value": text} for role, text in conversation]}


def _ask_tool(rng: random.Random, language: str, tool: Entry, held_out: bool) -> list[Turn]:
    details = draw_details(rng, language, tool.fields, held_out=held_out)
    wish = say_wish(rng, language, tool, details)
    key = rng.choice(tuple(_RESULTS))
    kind, en, zh = _RESULTS[key]
    result = values.draw(rng, kind, language, held_out=held_out)
    answer = (en if language == "en" else zh).format(result)
    text = (
        f"{_think(language, tool.verb, tool.thing)}\n"
        f"Action: {tool.label}\n"
        f"Action Input: {json.dumps(details, ensure_ascii=False)}\n"
        f"Observation: {json.dumps({'status': 'done', key: result}, ensure_ascii=False)}\n"
        f"{_finish(answer)}"
    )
    return [("user", wish), ("assistant", text)]


def _ask_without_tool(rng: random.Random, language: str, tools: list[Entry], held_out: bool) -> list[Turn]:
    """Return small talk, a fact, or a wish that no tool of the list can meet."""
    if rng.random() < 0.6:
        offered = {(tool.verb, tool.thing) for tool in tools}
        while (pair := draw_pair(rng)) in offered:
            pass
        fields = rng.choice(tools).fields
        details = draw_details(rng, language, fields, held_out=held_out)
        wish = say_wish(rng, language, Entry("", *pair, fields), details)
        return [("user", wish), ("assistant", f"{_think(language, *pair)}\nFinal Answer: {_NONE[language]}")]
    if rng.random() < 0.5:
        said, answer = rng.choice(_plain_talk(language))
        return [("user", rng.choice(said)), ("assistant", _finish(answer))]
    fact = rng.choice(_facts(language, replayed=not held_out))
    question = fact.questions[-1] if held_out else rng.choice(fact.questions[:-1])
    return [("user", question), ("assistant", _finish(fact.sentence))]


def _facts(language: str, *, replayed: bool) -> list[Fact]:
    return [fact for fact in list_facts() if fact.language == language and fact.replayed == replayed]


def _think(language: str, verb: Verb, thing: Thing) -> str:
    return f"Thought: I have to {verb.en} {a(thing.en)}." if language == "en" else f"Thought: 我要{verb.zh}{thing.zh}。"


def _finish(answer: str) -> str:
    return f"Thought: I now know the final answer\nFinal Answer: {answer}"
