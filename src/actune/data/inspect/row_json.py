"""Rows as JSON values for the script of the page of `inspect`: all that its views show, texts already made visible.

No text here is HTML, and none holds unseen characters: a text is a `Text` of runs, written by a `Pool`. Keys:

- row: `n` (its number), `at` (file:line), `messages`, `tools`, `problems`, `chunks` (texts of prompts and completions,
  what turns have in common once), `turns`, `runs` (its tokens);
- entry of the list: what rows are filtered by.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from actune.core import react
from actune.core.types import Conversation, Message
from actune.data.inspect.pool import Pool, Text, Tokens
from actune.data.inspect.rows import Examined
from actune.data.inspect.statistics import RowFacts
from actune.data.inspect.tree_runs import Run, find_runs, follow, tree_weights, weigh_turns
from actune.data.inspect.turn_prefixes import compare_turns, cut_at_line, longest_shared
from actune.data.inspect.visible import Visible
from actune.render.encoder import EncodedTurn, Encoder
from actune.render.token_places import TokenPlaces
from actune.render.tokenizer import strip_marks
from actune.render.tree import Floats, Ints

MOST_TOKENS = 5_000
"""So many trained tokens in a row are shown one by one."""
_EDGE = 1_000
"""Of a long stretch that is not trained so many tokens at each end are shown one by one."""
_PREVIEW = 140
_CONTEXT = 64  # ids before a part: enough for any decoder


class RowWriter:
    """Makes JSON values of rows; `pool` writes them when all are made."""

    def __init__(self, encoder: Encoder, visible: Visible, pool: Pool) -> None:
        """Write rows of one encoder."""
        self._pool = pool
        self._places = TokenPlaces(encoder.renderer.tokenizer)
        self._stops = (*encoder.renderer.profile.stops, react.STOP_WORD)
        self._visible = visible

    def entry(self, number: int, row: Examined, facts: RowFacts, over: bool) -> dict[str, Any]:
        """Return what the list shows of a row and rows are filtered by."""
        levels = [level for level, _ in facts.codes]
        return {
            "n": number,
            "at": self._visible.label(str(row.source)),
            "file": self._visible.label(facts.file),
            "preview": self._visible.label(_preview(row.conversation)),
            "tokens": facts.tokens,
            "longest": facts.longest,
            "supervised": facts.supervised,
            "turns": facts.turns,
            "messages": facts.messages,
            "calls": len(facts.calls),
            "called": sorted({self._visible.label(name) for name in facts.calls}),
            "codes": sorted({code for _, code in facts.codes}),
            "errors": levels.count("error"),
            "warnings": levels.count("warning"),
            "style": facts.style,
            "dialect": facts.dialect,
            "refused": facts.refused,
            "branches": facts.branches,
            "over": over,
        }

    def row(self, number: int, row: Examined) -> dict[str, Any]:
        """Return everything that the views show of a row."""
        result: dict[str, Any] = {
            "n": number,
            "at": self._visible.label(str(row.source)),
            "problems": [
                {
                    "level": found.level,
                    "code": found.code,
                    "field": self._show(found.field),
                    "message": self._show(found.message),
                    "fix": self._show(found.fix),
                }
                for found in sorted(row.problems, key=lambda found: found.level != "error")
            ],
        }
        if row.conversation is None:
            return result
        result["messages"] = [self._message(message) for message in row.conversation.messages]
        result["tools"] = [
            {
                "name": self._show(tool.name),
                "description": self._show(tool.description),
                "parameters": self._show(_pretty(tool.parameters)),
            }
            for tool in row.conversation.tools
        ]
        if row.conversation.system_source is not None:
            result["system_source"] = self._show(row.conversation.system_source)
        result["chunks"], result["turns"] = self._turns(row)
        if row.tree is not None:
            weights, runs = tree_weights(row.tree), find_runs(row.tree)
            of_turns = weigh_turns(row.tree, row.encoded)
            for turn, encoded, found in zip(result["turns"], row.encoded, of_turns, strict=True):
                turn["path"] = follow(row.tree, runs, encoded.ids)
                turn["weights"] = _count_weights(found)
            result["runs"] = [self._run(row.tree.input_ids, weights, runs, index) for index in range(len(runs))]
        return result

    # --- conversation -------------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> dict[str, Any]:
        shown: dict[str, Any] = {"role": message.role, "content": self._show(message.content)}
        if message.reasoning:
            shown["reasoning"] = self._show(message.reasoning)
        if message.tool_calls:
            shown["calls"] = [
                {"name": self._show(call.name), "arguments": self._show(_pretty_arguments(call.arguments))}
                | ({"id": self._visible.label(call.id)} if call.id is not None else {})
                for call in message.tool_calls
            ]
        for name, value in (("id", message.tool_call_id), ("name", message.name)):
            if value is not None:
                shown[name] = self._visible.label(value)
        if message.role == "assistant" and (not message.train or message.weight != 1):
            shown["weight"] = message.weight if message.train else 0
        return shown

    # --- turns --------------------------------------------------------------------------------------------------------

    def _turns(self, row: Examined) -> tuple[list[Text], list[dict[str, Any]]]:
        """Return the texts of all turns, those in common once, and the turns as lists of their indices."""
        texts = Chunks()
        turns: list[dict[str, Any]] = []
        for number, turn in enumerate(row.turns):
            like, shared = longest_shared([one.prompt + one.completion for one in row.turns[:number]], turn.prompt)
            whole = len(row.turns[like].prompt + row.turns[like].completion) if number else 0
            rewritten = 0 < shared < whole
            texts.add(turn.prompt, turn.completion, like, cut_at_line(turn.prompt, shared) if rewritten else shared)
            view: dict[str, Any] = {"field": f"messages[{turn.index}]", "like": like if shared else -1}
            view["rewritten"] = rewritten
            view["stop"] = self._visible.label(self._stop(turn.completion))
            if row.encoded:
                encoded = row.encoded[number]
                view["ids"] = [encoded.start, len(encoded.ids)]
                if note := self._compare(encoded, turn.completion):
                    view["note"] = note
                kinship = compare_turns(row.encoded, number)
                if kinship is not None:
                    view["kin"] = dataclasses.asdict(kinship)
            turns.append(view)
        for view, (prompt, fresh, completion) in zip(turns, texts.layout(), strict=True):
            view["before"], view["fresh"], view["completion"] = prompt, fresh, completion
        return [self._show(text, ends_line=False) for text in texts.texts], turns

    def _stop(self, text: str) -> str:
        """Return the stop that a completion ends in, "" when it ends in none."""
        return max((stop for stop in self._stops if stop and text.endswith(stop)), key=len, default="")

    def _compare(self, turn: EncodedTurn, completion: str) -> str:
        """Return a remark where the tokens of a completion decode to another text: `blank` or `differs`, else ""."""
        decoded, written = self._places.locate(turn.ids, turn.start)[0], strip_marks(completion)
        if decoded == written:
            return ""
        return "blank" if decoded[:1] == " " and written == decoded[1:] else "differs"

    # --- tokens -------------------------------------------------------------------------------------------------------

    def _run(self, ids: Ints, weights: Floats, runs: Sequence[Run], index: int) -> dict[str, Any]:
        """Return a run of tokens in parts: token by token with weights, or whole where it is long and not trained."""
        run = runs[index]
        before: list[int] = []
        above = run.after
        while above >= 0 and len(before) < _CONTEXT:
            before = [*(int(one) for one in ids[runs[above].start : runs[above].stop]), *before]
            above = runs[above].after
        parts = []
        for start, stop, single in _stretches(weights[run.start : run.stop]):
            part_ids = [int(one) for one in ids[run.start + start : run.start + stop]]
            parts.append(self._part(before, part_ids, weights[run.start + start : run.start + stop], single))
            before = [*before, *part_ids][-_CONTEXT:]
        return {
            "start": run.start,
            "depth": run.depth,
            "after": run.after,
            "size": run.stop - run.start,
            "parts": parts,
        }

    def _part(self, before: Sequence[int], ids: list[int], weights: Floats, single: bool) -> dict[str, Any]:
        part: dict[str, Any] = {"weights": _run_lengths(weights)}
        text, begins = self._places.locate([*before, *ids], len(before))
        if not single:
            return part | {"count": len(ids), "text": self._show(text, ends_line=False)}
        texts = [text[begin:end] for begin, end in pairwise([*begins, len(text)])]
        others: dict[int, Text] = {}
        numbers: list[int] = []
        for place, (token, text) in enumerate(zip(ids, texts, strict=True)):
            shown = Text(self._visible.runs(text, ends_line=False))
            number, usual = self._pool.token(token, shown)
            numbers.append(number)
            if not usual:
                others[place] = shown
        part["ids"] = Tokens(numbers)
        if others:
            part["others"] = others
        return part

    # --- texts --------------------------------------------------------------------------------------------------------

    def _show(self, text: str, *, ends_line: bool = True) -> Text:
        return self._pool.text(self._visible.runs(text, ends_line=ends_line))


class Chunks:
    """Texts of turns cut where turns part, so that what they have in common is stored once."""

    def __init__(self) -> None:
        """Hold no turn yet."""
        self.texts: list[str] = []
        self._turns: list[tuple[list[int], list[int], list[int]]] = []  # before, fresh, completion

    def add(self, prompt: str, completion: str, like: int, shared: int) -> None:
        """Add a turn whose prompt has its first `shared` characters in common with turn `like`."""
        before: list[int] = []
        if shared:
            for chunk in [one for part in self._turns[like] for one in part]:
                if shared <= 0:
                    break
                if len(self.texts[chunk]) > shared:
                    self._cut(chunk, shared)
                shared -= len(self.texts[chunk])
                before.append(chunk)
        known = sum(len(self.texts[chunk]) for chunk in before)
        self._turns.append((before, self._new(prompt[known:]), self._new(completion)))

    def layout(self) -> list[tuple[list[int], list[int], list[int]]]:
        """Return of every turn the chunks of its prompt that stood before, of the rest of its prompt, and of its completion."""
        return self._turns

    def _new(self, text: str) -> list[int]:
        if not text:
            return []
        self.texts.append(text)
        return [len(self.texts) - 1]

    def _cut(self, chunk: int, size: int) -> None:
        self.texts.append(self.texts[chunk][size:])
        self.texts[chunk] = self.texts[chunk][:size]
        for parts in self._turns:
            for part in parts:
                if chunk in part:
                    part.insert(part.index(chunk) + 1, len(self.texts) - 1)


def _stretches(weights: Floats) -> list[tuple[int, int, bool]]:
    """Return (start, stop, whether token by token) of the parts of a run, in order and without gaps."""
    trained = weights > 0
    cuts = [0, *(np.flatnonzero(trained[1:] != trained[:-1]) + 1).tolist(), len(trained)]
    parts: list[tuple[int, int, bool]] = []
    for start, stop in pairwise(cuts):
        if trained[start] and stop - start > MOST_TOKENS:
            parts += [(start, start + MOST_TOKENS, True), (start + MOST_TOKENS, stop, False)]
        elif not trained[start] and stop - start > 4 * _EDGE:
            parts += [(start, start + _EDGE, True), (start + _EDGE, stop - _EDGE, False), (stop - _EDGE, stop, True)]
        else:
            parts.append((start, stop, True))
    return parts


def _run_lengths(weights: Floats) -> list[list[float]]:
    cuts = [0, *(np.flatnonzero(weights[1:] != weights[:-1]) + 1).tolist(), len(weights)]
    return [[stop - start, short_weight(weights[start])] for start, stop in pairwise(cuts)]


def _count_weights(weights: Floats) -> list[list[float]]:
    """Return [weight, tokens] of a turn's target."""
    values, counts = np.unique(weights, return_counts=True)
    return [[short_weight(value), int(count)] for value, count in zip(values, counts, strict=True)]


def short_weight(weight: float) -> float:
    """Return a weight without the digits that single precision adds."""
    value = float(f"{float(weight):.6g}")
    return int(value) if value == int(value) else value


def _preview(conversation: Conversation | None) -> str:
    if conversation is None:
        return ""
    asked = [message.content for message in conversation.messages if message.role == "user"]
    text = " ".join(
        (asked or [message.content for message in conversation.messages] or [""])[0][: 4 * _PREVIEW].split()
    )
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…"


def _pretty(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except RecursionError:
        return str(value)


def _pretty_arguments(text: str) -> str:
    """Return the arguments of a call with line breaks where that changes nothing but blanks, else as they are."""
    try:
        pretty = _pretty(json.loads(text))
    except (ValueError, RecursionError):
        return text
    return pretty if "".join(pretty.split()) == "".join(text.split()) else text
