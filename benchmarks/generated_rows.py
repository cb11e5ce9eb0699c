"""Rows of the reference recipe's kind and size, written by rules: ReAct agent rows in the ms-agent layout, general chats.

Half Chinese, half English. Words, and clauses of Chinese, follow a Zipf law over tens of thousands of made-up words, so
that no cache of words or texts helps more than on real text; tools are drawn from a pool of thousands, as many rows of
real sets share their tools.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

_SYLLABLES = [
    a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "on", "al", "ent")
]
_COMMON = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运"


class RowWriter:
    """Writes rows; the same seed gives the same rows."""

    def __init__(self, seed: int = 0) -> None:
        """Make the words and the tools."""
        self.random = random.Random(seed)
        self.words = [
            "".join(self.random.choices(_SYLLABLES, k=self.random.choice((1, 2, 2, 3)))) for _ in range(30_000)
        ]
        self.terms = [
            "".join(self.random.choices(_COMMON, k=self.random.choice((1, 2, 2, 2, 3, 4)))) for _ in range(30_000)
        ]
        weights = itertools.accumulate(1 / (rank + 3) for rank in range(30_000))
        self.weights = list(weights)
        self.tools = [self._tool(number) for number in range(3_000)]

    def agent_row(self) -> dict[str, Any]:
        """Return a row of the ms-agent layout: an API list, one to three calls, an answer."""
        zh = self.random.random() < 0.7
        tools = self.random.sample(self.tools, self.random.randint(1, 3))
        lines = [
            f"{place}. {tool['name']}: Call this tool to interact with the {tool['name']} API. "
            f"What is the {tool['name']} API useful for? {tool['description']} Parameters: {json.dumps(tool['parameters'])}\n"
            for place, tool in enumerate(tools, 1)
        ]
        system = _REACT.format(apis="\n".join(lines), names=", ".join(tool["name"] for tool in tools))
        steps = []
        for _ in range(self.random.choice((1, 1, 2))):
            tool = self.random.choice(tools)
            given = {one["name"]: self.text(zh, 4) for one in tool["parameters"]}
            result = json.dumps({"result": self.text(zh, self.random.randint(5, 25))}, ensure_ascii=False)
            steps.append(
                f"Thought: {self.text(zh, 12)}\nAction: {tool['name']}\n"
                f"Action Input: {json.dumps(given, ensure_ascii=False)}\nObservation: {result}\n"
            )
        steps.append(
            f"Thought: I now know the final answer\nFinal Answer: {self.text(zh, self.random.randint(10, 45))}"
        )
        speech = [("system", system), ("user", self.text(zh, 14)), ("assistant", "".join(steps))]
        return {"conversations": [{"from": role, "value": text} for role, text in speech]}

    def general_row(self) -> dict[str, Any]:
        """Return a chat of one or two rounds."""
        zh = self.random.random() < 0.5
        rounds = self.random.choice((1, 1, 1, 2))
        messages: list[dict[str, str]] = []
        for _ in range(rounds):
            messages.append({"role": "user", "content": self.text(zh, self.random.randint(5, 30))})
            messages.append({"role": "assistant", "content": self.text(zh, int(self.random.expovariate(1 / 69)) + 10)})
        return {"messages": messages}

    def text(self, zh: bool, words: int) -> str:
        """Return sentences of so many words."""
        chosen = self.random.choices(self.terms if zh else self.words, cum_weights=self.weights, k=words)
        parts = []
        while chosen:
            size = self.random.randint(4, 11)
            clause, chosen = chosen[:size], chosen[size:]
            parts.append(("" if zh else " ").join(clause))
        joined = ("，" if zh else ", ").join(parts)
        return joined + "。" if zh else joined.capitalize() + "."

    def _tool(self, number: int) -> dict[str, Any]:
        names = self.random.sample(self.words, self.random.randint(1, 3))
        parameters = [
            {"name": name, "description": self.text(False, 6), "required": "True", "type": "string"} for name in names
        ]
        return {
            "name": f"{self.random.choice(self.words)}_{number}",
            "description": self.text(False, 14),
            "parameters": parameters,
        }


_REACT = """Answer the following questions as best you can. You have access to the following APIs:
{apis}
Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""


def write_rows(rows: Iterator[dict[str, Any]], path: str) -> None:
    """Write rows as jsonl."""
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - a plain path
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
