"""Texts of models in the report: folded and cut visibly, transcripts side by side, items that changed."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from actune.evals.items import PRIMARY, Score
from actune.evals.report import TRANSCRIPTS_FILE, Side, TrainedExample, Transcript
from actune.evals.report_numbers import fixed
from actune.evals.report_texts import Words, named, reveal, same, words

LONGEST = 20_000
"""Of a text, so many characters stand in the page; the rest is cut, and the page says so and where the whole stands."""

_HEADS = {"output": 800, "observation": 600, "prompt": 300}
"""So many characters of each kind are open; the others are folded."""
_PROMPT_END = 600
_OPEN_TRANSCRIPTS = 12
_EXAMPLES = 3
_SPLITS = ("held-out", "held-in", "no-tool", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A text: what is open, what is folded after it (or before it, with `before`), and what is cut."""

    shown: Markup
    rest: Markup
    rest_words: Words
    before: bool
    cut: Words | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPart:
    """One text of a side with its heading."""

    kind: str
    title: Words
    text: Folded


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSide:
    """One model's column."""

    title: Words
    note: Words | None
    parts: tuple[ShownPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Two sides of one question or item."""

    title: Words
    chips: tuple[Words, ...]
    question: Folded | None
    sides: tuple[ShownSide, ...]
    gold: Folded | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Items of an axis that changed in one direction."""

    title: Words
    note: Words | None
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One trained row."""

    note: Words
    prompt: Folded
    completion: Folded


def fold(text: str, *, head: int, place: Words, end: bool = False) -> Folded:
    """Return a text with `head` characters open, of its beginning or its end, at most `LONGEST` in all."""
    kept = text[-LONGEST:] if end else text[:LONGEST]
    cut = None
    if len(kept) < len(text):
        cut = words("cut", cut=f"{len(text) - len(kept):,}", total=f"{len(text):,}", place=place)
    # A fold for a few characters is more work for the reader than the characters.
    if len(kept) <= head * 1.2:
        shown, rest = kept, ""
    elif end:
        at = _line_near(kept, len(kept) - head)
        shown, rest = kept[at:], kept[:at]
    else:
        at = _line_near(kept, head)
        shown, rest = kept[:at], kept[at:]
    key = "fold_before" if end else "fold_rest"
    return Folded(
        shown=reveal(shown),
        rest=reveal(rest),
        rest_words=words(key, n=f"{len(rest):,}"),
        before=end,
        cut=cut,
    )


def _line_near(text: str, at: int) -> int:
    """Return the start of a line up to 200 characters before or after `at`, else `at`."""
    after, before = text.find("\n", at, at + 200), text.rfind("\n", max(1, at - 200), at)
    place = after if after >= 0 else before
    return place + 1 if place >= 0 else at


def show_transcripts(transcripts: Sequence[Transcript]) -> tuple[tuple[Card, ...], tuple[Card, ...]]:
    """Return the cards that stand open and those that are folded away."""
    cards = tuple(_card(transcript) for transcript in transcripts)
    return cards[:_OPEN_TRANSCRIPTS], cards[_OPEN_TRANSCRIPTS:]


def show_trained(example: TrainedExample) -> Trained:
    """Return a trained row: of its prompt the end is open, as it is what the completion follows."""
    place = same(example.source)
    return Trained(
        note=words("trained_note", source=example.source),
        prompt=fold(example.prompt, head=_PROMPT_END, place=place, end=True),
        completion=fold(example.completion, head=_HEADS["output"], place=place),
    )


def show_items(
    base: Iterable[Score], tuned: Iterable[Score], primary: Iterable[tuple[str, str]], files: tuple[str, str]
) -> tuple[Group, ...]:
    """Return a few items of each axis that became right and that became wrong.

    `primary` are the (axis, metric) pairs of the comparison; `files` name where all items stand.
    """
    before = {(score.task, score.metric, score.id): score for score in base}
    wanted = set(primary)
    pairs: dict[tuple[str, str], list[tuple[Score, Score]]] = defaultdict(list)
    for score in tuned:
        earlier = before.get((score.task, score.metric, score.id))
        if earlier is not None and (score.axis, score.metric) in wanted:
            pairs[score.axis, score.metric].append((earlier, score))
    groups: list[Group] = []
    for axis, metric in sorted(pairs, key=lambda key: (list(PRIMARY).index(key[0]) if key[0] in PRIMARY else 9, key)):
        groups += _groups(axis, pairs[axis, metric], files)
    return tuple(groups)


def _groups(axis: str, pairs: Sequence[tuple[Score, Score]], files: tuple[str, str]) -> list[Group]:
    binary = all(score.score in (0.0, 1.0) for pair in pairs for score in pair)
    groups = []
    for key, sign in (("fixed", 1), ("broken", -1)) if binary else (("better", 1), ("worse", -1)):
        changed = [pair for pair in pairs if sign * (pair[1].score - pair[0].score) > 0]
        if not changed:
            continue
        chosen = _choose(changed) if binary else sorted(changed, key=lambda pair: (-_change(pair), _hash(pair[1])))
        shown = tuple(_item_card(*pair, files) for pair in chosen[:_EXAMPLES])
        title = words(f"items_{key}", axis=named("axis", axis), shown=len(shown), n=f"{len(changed):,}")
        groups.append(Group(title=title, note=None if binary else words("items_graded"), cards=shown))
    return groups


def _choose(pairs: Sequence[tuple[Score, Score]]) -> list[tuple[Score, Score]]:
    """Order pairs by a hash of their ids, one of each split in turn, so that the choice is nobody's."""
    by_split: dict[str, list[tuple[Score, Score]]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: _hash(pair[1])):
        by_split[pair[1].split].append(pair)
    ranked = [
        (rank, _SPLITS.index(split), pair) for split, found in by_split.items() for rank, pair in enumerate(found)
    ]
    return [pair for _, _, pair in sorted(ranked, key=lambda entry: entry[:2])]


def _hash(score: Score) -> str:
    name = "\x00".join((score.task, score.metric, score.id))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _change(pair: tuple[Score, Score]) -> float:
    return abs(pair[1].score - pair[0].score)


def _item_card(base: Score, tuned: Score, files: tuple[str, str]) -> Card:
    sides = []
    for name, score, file in (("base", base, files[0]), ("tuned", tuned, files[1])):
        place = same(file)
        part = ShownPart(
            kind="output",
            title=words("part_output"),
            text=fold(_read_output(score.output), head=_HEADS["output"], place=place),
        )
        note = score.output.get("error") if isinstance(score.output, Mapping) else None
        sides.append(ShownSide(title=words(f"side_{name}"), note=same(note) if note else None, parts=(part,)))
    digits = 0 if base.score in (0.0, 1.0) and tuned.score in (0.0, 1.0) else 3
    gold = None
    if tuned.gold is not None:
        gold = fold(_read_gold(tuned.gold), head=_HEADS["observation"], place=same(files[1]))
    return Card(
        title=same(tuned.id),
        chips=(
            named("split", tuned.split),
            same(tuned.task),
            words("item_score", base=fixed(base.score, digits), tuned=fixed(tuned.score, digits)),
        ),
        question=None,
        sides=tuple(sides),
        gold=gold,
    )


def _card(transcript: Transcript) -> Card:
    place = same(f"{TRANSCRIPTS_FILE}, {transcript.id}")
    gold = None
    if transcript.gold is not None:
        gold = fold(transcript.gold, head=_HEADS["observation"], place=place)
    name = transcript.title or transcript.id
    chips = [named("axis", transcript.axis)] + ([same(transcript.id)] if name != transcript.id else [])
    return Card(
        title=same(name),
        chips=tuple(chips),
        question=fold(transcript.question, head=_HEADS["observation"], place=place),
        sides=(_side("base", transcript.base, place), _side("tuned", transcript.tuned, place)),
        gold=gold,
    )


def _side(name: str, side: Side, place: Words) -> ShownSide:
    parts = tuple(
        ShownPart(
            kind=part.kind, title=words(f"part_{part.kind}"), text=fold(part.text, head=_HEADS[part.kind], place=place)
        )
        for part in side.parts
    )
    return ShownSide(title=words(f"side_{name}"), note=same(side.note) if side.note else None, parts=parts)


def _read_output(stored: object) -> str:
    """Return what a model wrote: the raw text where it is stored (see `outputs.read_output`), else all there is."""
    text = stored.get("text") if isinstance(stored, Mapping) else None
    return text if isinstance(text, str) else _as_text(stored)


def _read_gold(gold: object) -> str:
    """Return a gold without the schemas of the tools that were offered: these are no part of the answer."""
    if not isinstance(gold, Mapping):
        return _as_text(gold)
    return _as_text({key: value for key, value in gold.items() if key != "tools"})


def _as_text(value: object) -> str:
    """Return a stored output as it is: text untouched, anything else as the JSON it was stored as."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def primary_metrics(rows: Iterable[Mapping[str, Any]], scores: Iterable[Score]) -> set[tuple[str, str]]:
    """Return the (axis, metric) pairs that the comparison calls primary, else those that are so by default."""
    named_so = {
        (str(row.get("axis")), str(row.get("metric")))
        for row in rows
        if isinstance(row, Mapping) and row.get("primary") is True
    }
    if named_so:
        return named_so
    present = {(score.axis, score.metric) for score in scores}
    first = ((axis, [metric for metric in metrics if (axis, metric) in present]) for axis, metrics in PRIMARY.items())
    return {(axis, metrics[0]) for axis, metrics in first if metrics}
