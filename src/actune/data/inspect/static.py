"""Rows of the page of `inspect` as plain HTML, for readers without JavaScript: prompt and target of every turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actune.core import react
from actune.data.checks.rules import Finding
from actune.data.inspect.rows import Examined
from actune.data.inspect.tree_runs import weigh_turns
from actune.data.inspect.turn_prefixes import Kinship, compare_turns, longest_shared
from actune.data.inspect.visible import Visible
from actune.data.inspect.words import Words, words
from actune.render.dialects import Turn
from actune.render.encoder import EncodedTurn, Encoder
from actune.render.tokenizer import strip_marks

MOST_TOKENS = 5_000
"""So many tokens of a target are shown one by one; the text after them is shown whole, without boundaries."""
LONG = 20_000
"""Longer texts (characters) scroll in a box of their own; of one that stands above already only the ends are shown."""
_ENDS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token of a target: its text, CSS classes and what is said about it on hovering."""

    html: Markup
    classes: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """One assistant message: its prompt in two parts, its target, and what is counted; `parts` where the tree branches."""

    anchor: str
    number: int
    field: str
    weights: tuple[Words, ...]
    shade: str
    counts: tuple[Words, ...]
    kinship: Words | None
    parts: bool
    shared: Markup | None
    shared_title: Words | None
    fresh: Markup
    fresh_title: Words
    fresh_long: bool
    pieces: tuple[Piece, ...]
    rest: Markup | None
    target_long: bool
    note: Words | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemView:
    """The findings of one code in a row: (field, message) of each, and what to do."""

    level: str
    code: str
    places: tuple[tuple[Markup, Markup], ...]
    fix: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row: where it stands, what is wrong with it, and its turns."""

    anchor: str
    title: Markup
    refused: bool
    facts: tuple[Words, ...]
    problems: tuple[ProblemView, ...]
    turns: tuple[TurnView, ...]


def show_static(encoder: Encoder, visible: Visible, row: Examined, number: int) -> RowView:
    """Return a row for the template; `number` is its number in the data."""
    facts = []
    if row.conversation is not None:
        facts += [
            words("dialect", name=row.dialect),
            words("style", name=row.conversation.style),
            words("messages", n=f"{len(row.conversation.messages):,}"),
            words("tools_offered", n=f"{len(row.conversation.tools):,}"),
        ]
    if row.tree is not None:
        supervised = len(row.tree.target_ids)
        facts += [
            words("laid_out", n=f"{len(row.tree):,}"),
            words("supervised", n=f"{supervised:,}", share=f"{supervised / max(len(row.tree), 1):.0%}"),
            words("branches" if row.tree.has_branches else "one_line"),
        ]
    weights = [] if row.tree is None else [found.tolist() for found in weigh_turns(row.tree, row.encoded)]
    anchor = f"row-{number}"
    return RowView(
        anchor=anchor,
        title=visible.show(str(row.source)),
        refused=row.refused,
        facts=tuple(facts),
        problems=tuple(_show_problems(row.problems, visible)),
        turns=tuple(
            _show_turn(encoder, visible, row, index, weights[index] if weights else None)
            for index in range(len(row.turns))
        ),
    )


def _show_problems(problems: Sequence[Finding], visible: Visible) -> Iterator[ProblemView]:
    """Yield the findings of a row, errors first; those that differ in their place only stand together."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for found in problems:
        groups[found.level, found.code, found.fix].append(found)
    for (level, code, fix), members in sorted(groups.items(), key=lambda group: group[0][0] != "error"):
        places = tuple((visible.show(found.field), visible.show(found.message)) for found in members)
        yield ProblemView(level=level, code=code, places=places, fix=visible.show(fix))


def _show_turn(
    encoder: Encoder, visible: Visible, row: Examined, index: int, weights: Sequence[float] | None
) -> TurnView:
    turn, ids = row.turns[index], row.encoded[index] if row.encoded else None
    before, shared = longest_shared([one.prompt + one.completion for one in row.turns[:index]], turn.prompt)
    pieces, rest, note = _show_target(encoder, visible, turn, ids, weights)
    kinship = compare_turns(row.encoded, index) if row.encoded else None
    shades = {_shade(weight) for weight in weights or ()}
    counts = ()
    if ids is not None:
        counts = (
            words("prompt_ids", n=f"{ids.start:,}"),
            words("target_ids", n=f"{len(ids.ids) - ids.start:,}"),
        )
    return TurnView(
        anchor=f"turn-{row.source.line}-{index + 1}",
        number=index + 1,
        field=f"messages[{turn.index}]",
        weights=tuple(words("weight", w=f"{weight:g}") for weight in sorted(set(weights or ())))
        or (words("not_trained"),),
        shade="refused" if weights is None else "mixed" if len(shades) > 1 else next(iter(shades), "zero"),
        counts=counts,
        kinship=say_kinship(kinship) if kinship is not None else None,
        parts=kinship is not None and kinship.place != "after",
        shared=_show_shared(visible, turn.prompt[:shared], before) if shared else None,
        shared_title=words("prompt_so_far", n=f"{shared:,}", turn=before + 1) if shared else None,
        fresh=visible.show(turn.prompt[shared:], ends_line=turn.completion.startswith("\n")),
        fresh_title=_fresh_title(shared, row.turns[before]),
        fresh_long=len(turn.prompt) - shared > LONG,
        pieces=tuple(pieces),
        rest=rest,
        target_long=len(turn.completion) > LONG,
        note=note,
    )


def _show_shared(visible: Visible, text: str, before: int) -> Markup:
    if len(text) <= LONG:
        return visible.show(text, ends_line=False)
    cut = Markup('<span class="cut">… {} …</span>').format(
        words("prompt_so_far", n=f"{len(text) - 2 * _ENDS:,}", turn=before + 1)
    )
    return visible.show(text[:_ENDS], ends_line=False) + cut + visible.show(text[-_ENDS:], ends_line=False)


def _fresh_title(shared: int, before: Turn) -> Words:
    if not shared:
        return words("prompt")
    return words("prompt_rewritten" if shared < len(before.prompt + before.completion) else "prompt_new")


def say_kinship(kinship: Kinship) -> Words:
    """Return in words how a turn hangs together with an earlier one."""
    if kinship.place == "after":
        return words("goes_on", turn=kinship.turn + 1)
    place = {"target": "in_target", "target_begin": "target_begin", "prompt": "in_prompt"}[kinship.place]
    there = words(place)
    return Words(
        *(
            text.format(n=f"{kinship.tokens:,}", place=where, turn=kinship.turn + 1)
            for text, where in ((words("branches_off").en, there.en), (words("branches_off").zh, there.zh))
        )
    )


def _show_target(
    encoder: Encoder, visible: Visible, turn: Turn, ids: EncodedTurn | None, weights: Sequence[float] | None
) -> tuple[list[Piece], Markup | None, Words | None]:
    """Return a target token by token, the text after the last one shown so, and a remark."""
    text = strip_marks(turn.completion)
    if ids is None:
        return [], visible.show(text), None
    target = list(ids.ids[ids.start :])
    stream = encoder.renderer.tokenizer.stream(list(ids.ids[: ids.start]))
    groups: list[tuple[list[int], str]] = []
    open_ids: list[int] = []
    for token in target[:MOST_TOKENS]:
        open_ids.append(token)
        piece = stream.push(token)
        if piece:
            groups.append((open_ids, piece))
            open_ids = []
    rest = None
    if len(target) > MOST_TOKENS:
        written = "".join(piece for _, piece in groups)
        rest = visible.show(text[len(written) :])
    elif last := stream.finish():
        groups.append((open_ids, last))
    decoded = "".join(piece for _, piece in groups)
    note = None
    if decoded != (text[: len(decoded)] if rest is not None else text):
        note = words("note_differs")
        if decoded[:1] == " " and text.startswith(decoded[1:]):
            note = words("note_blank")
    stop_at = len(decoded) if rest is not None else len(decoded) - len(_stop_of(encoder, decoded))
    several = weights is not None and len(set(weights)) > 1
    pieces, place, token = [], 0, 0
    for number, (group, piece) in enumerate(groups):
        place += len(piece)
        shade = f" {_shade(weights[token])}" if weights is not None and several else ""
        token += len(group)
        stop = " stop" if place > stop_at else ""
        title = f"id {' '.join(map(str, group))}" + (", stop" if stop else "")
        ends_line = number + 1 == len(groups) or groups[number + 1][1].startswith("\n")
        html = visible.show(piece, ends_line=ends_line)
        pieces.append(Piece(html=html, classes=f"{'odd' if number % 2 else 'even'}{shade}{stop}", title=title))
    return pieces, rest, note


def _stop_of(encoder: Encoder, text: str) -> str:
    """Return the stop that a target ends in, "" when it ends in none."""
    stops = (*encoder.renderer.profile.stops, react.STOP_WORD)
    return max((stop for stop in stops if stop and text.endswith(stop)), key=len, default="")


def _shade(weight: float) -> str:
    if weight == 0:
        return "zero"
    return "full" if weight == 1 else "part" if weight < 1 else "more"
