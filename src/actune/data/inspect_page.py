"""The page of `actune inspect`: rows as the model is trained on them, one self-contained file, from the rows alone.

The page asks for nothing from outside; its style sheet and its one small script are named by their hashes, and it can be
read without the script. Every text of data, template or model is escaped, and what cannot be seen is named.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from actune.core import react
from actune.data.checks import Finding
from actune.data.inspect import Examined
from actune.data.visible import Visible
from actune.render.dialects import Turn
from actune.render.encoder import EncodedTurn, Encoder
from actune.render.survey import make_survey
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
    """One assistant message: its prompt in two parts, its target, and what is counted."""

    anchor: str
    number: int
    field: str
    weight: str
    shade: str
    counts: tuple[str, ...]
    branch: str
    shared: Markup | None
    shared_title: str
    fresh: Markup
    fresh_title: str
    fresh_long: bool
    pieces: tuple[Piece, ...]
    rest: Markup | None
    target_long: bool
    note: str


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
    facts: tuple[str, ...]
    problems: tuple[ProblemView, ...]
    turns: tuple[TurnView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageHead:
    """What the page says before the rows: names and values in order, what the template does, and its profile."""

    facts: tuple[tuple[str, Markup], ...]
    survey: tuple[tuple[str, Markup], ...]
    profile: tuple[tuple[str, Markup], ...]
    notices: tuple[Markup, ...]


def page(encoder: Encoder, rows: Sequence[Examined], *, model: str, data: str, available: int, dialect: str) -> str:
    """Return the page as HTML; `available` is the number of rows that the data have, `dialect` the one asked for."""
    # Only a page needs the template engine; the terminal does not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("actune.data", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("inspect.css.jinja").render()
    script = environment.get_template("inspect.js.jinja").render()
    templates = encoder.renderer.templates
    visible = Visible(encoder.renderer.tokenizer.control_pattern(templates.plain + templates.tools))
    views = [_show_row(encoder, visible, row, number) for number, row in enumerate(rows, 1)]
    return environment.get_template("inspect.html.jinja").render(
        head=_show_head(encoder, visible, rows, model, data, available, dialect),
        rows=views,
        data=data,
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- head -------------------------------------------------------------------------------------------------------------


def _show_head(
    encoder: Encoder, visible: Visible, rows: Sequence[Examined], model: str, data: str, available: int, dialect: str
) -> PageHead:
    trees = [row.tree for row in rows if row.tree is not None]
    tokens, supervised = sum(map(len, trees)), sum(len(tree.target_ids) for tree in trees)
    refused = sum(row.refused for row in rows)
    facts = {
        "model": model,
        "data": data,
        "dialect": dialect,
        "chat template": encoder.renderer.templates.origin,
        "rows": f"{len(rows):,} of {available:,}" + (f", {refused:,} not trained on" if refused else ""),
        "tokens laid out": f"{tokens:,}",
        "tokens supervised": f"{supervised:,} ({supervised / max(tokens, 1):.0%})",
    }
    return PageHead(
        facts=tuple((name, visible.show(value)) for name, value in facts.items()),
        survey=tuple((name, visible.show(outcome)) for name, outcome in make_survey(encoder).lines()),
        profile=tuple(_show_fields(encoder.renderer.profile, visible)),
        notices=tuple(visible.show(notice) for notice in encoder.renderer.notices()),
    )


def _show_fields(profile: Any, visible: Visible) -> Iterator[tuple[str, Markup]]:  # noqa: ANN401 - any dataclass
    """Yield (label, value) of every field of a dataclass, whichever it has."""
    for field in dataclasses.fields(profile):
        yield field.name.replace("_", " "), show_value(getattr(profile, field.name), visible)


def show_value(value: object, visible: Visible) -> Markup:
    """Return a value of the profile for people: texts in chips, yes and no, lists and inner values one by one."""
    if value is None or value == "" or value == () or value == frozenset():
        return Markup('<span class="none">none</span>')
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, str):
        shown = visible.show(value)
        return Markup('<span class="text">{}</span>').format(shown.removesuffix("\n"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        pairs = (Markup("{}: {}").format(str(key), show_value(inner, visible)) for key, inner in value.items())
        return Markup(", ").join(pairs)
    if isinstance(value, (frozenset, set)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        return Markup(", ").join(show_value(inner, visible) for inner in value)
    return visible.show(str(value))


# --- rows -------------------------------------------------------------------------------------------------------------


def _show_row(encoder: Encoder, visible: Visible, row: Examined, number: int) -> RowView:
    facts = []
    if row.conversation is not None:
        facts += [
            f"dialect {row.dialect}",
            f"written as {row.conversation.style}",
            _count(len(row.conversation.messages), "message"),
            _count(len(row.conversation.tools), "tool"),
        ]
    if row.tree is not None:
        supervised = len(row.tree.target_ids)
        facts += [
            f"{len(row.tree):,} tokens laid out",
            f"{supervised:,} supervised ({supervised / max(len(row.tree), 1):.0%})",
            "the tree branches" if row.tree.has_branches else "one line",
        ]
    anchor = f"row-{number}"
    encoded: Sequence[EncodedTurn | None] = row.encoded or [None] * len(row.turns)
    turns = [] if not row.turns else [turn.turn if turn is not None else None for turn in encoded]
    texts = [given or turn for given, turn in zip(turns, row.turns, strict=True)]
    views = [
        _show_turn(encoder, visible, row, index, texts, encoded, f"{anchor}-turn-{index + 1}")
        for index in range(len(texts))
    ]
    return RowView(
        anchor=anchor,
        title=visible.show(str(row.source)),
        refused=row.refused,
        facts=tuple(facts),
        problems=tuple(_show_problems(row.problems, visible)),
        turns=tuple(views),
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
    encoder: Encoder,
    visible: Visible,
    row: Examined,
    index: int,
    turns: Sequence[Turn],
    encoded: Sequence[EncodedTurn | None],
    anchor: str,
) -> TurnView:
    turn, ids = turns[index], encoded[index]
    before, shared = _longest_shared([one.prompt + one.completion for one in turns[:index]], turn.prompt)
    shared_title, shown = "", None
    if shared:
        shared_title = f"{shared:,} characters as in turn {before + 1}"
        text = turn.prompt[:shared]
        if shared > LONG:
            cut = Markup('<span class="cut">… {} characters as in turn {} …</span>')
            middle = cut.format(f"{shared - 2 * _ENDS:,}", before + 1)
            shown = visible.show(text[:_ENDS], ends_line=False) + middle + visible.show(text[-_ENDS:], ends_line=False)
        else:
            shown = visible.show(text, ends_line=False)
    weight = ids.weight if ids is not None else None
    pieces, rest, note = _show_target(encoder, visible, turn, ids)
    counts = ()
    if ids is not None:
        counts = (f"prompt {ids.start:,} tokens", f"target {len(ids.ids) - ids.start:,} tokens")
    return TurnView(
        anchor=anchor,
        number=index + 1,
        field=f"messages[{turn.index}]",
        weight="not trained on" if weight is None or row.tree is None else f"weight {weight:g}",
        shade=_shade(weight if row.tree is not None else None),
        counts=counts,
        branch=_branch(encoded, index),
        shared=shown,
        shared_title=shared_title,
        fresh=visible.show(turn.prompt[shared:], ends_line=turn.completion.startswith("\n")),
        fresh_title=_fresh_title(shared, before, turns),
        fresh_long=len(turn.prompt) - shared > LONG,
        pieces=tuple(pieces),
        rest=rest,
        target_long=len(turn.completion) > LONG,
        note=note,
    )


def _fresh_title(shared: int, before: int, turns: Sequence[Turn]) -> str:
    if not shared:
        return "Prompt"
    whole = len(turns[before].prompt + turns[before].completion)
    if shared < whole:
        return "Rest of the prompt: the template writes it differently from here on"
    return "New in the prompt"


def _longest_shared(earlier: Sequence[str], prompt: str) -> tuple[int, int]:
    """Return (index of the earlier turn that a prompt shares most with, number of characters); the last one wins."""
    best, length = 0, 0
    for index, text in enumerate(earlier):
        shared = _shared_length(text, prompt)
        if shared >= length:
            best, length = index, shared
    return best, length


def _shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return the length of the common prefix of two texts or lists, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _branch(encoded: Sequence[EncodedTurn | None], index: int) -> str:
    """Say how the ids of a turn hang together with those of the turns before it."""
    turn = encoded[index]
    if turn is None or index == 0:
        return ""
    best, length = 0, -1
    for number, earlier in enumerate(encoded[:index]):
        shared = 0 if earlier is None else _shared_length(list(earlier.ids), list(turn.ids))
        if shared >= length:
            best, length = number, shared
    earlier = encoded[best]
    if earlier is None:
        return ""
    if length == len(earlier.ids):
        return f"goes on after turn {best + 1}"
    place = "in the target" if length > earlier.start else "at the beginning of the target"
    place = place if length >= earlier.start else "in the prompt"
    return f"branches off after {length:,} tokens, {place} of turn {best + 1}"


def _show_target(
    encoder: Encoder, visible: Visible, turn: Turn, ids: EncodedTurn | None
) -> tuple[list[Piece], Markup | None, str]:
    """Return a target token by token, the text after the last one shown so, and a remark."""
    text = strip_marks(turn.completion)
    if ids is None:
        return [], visible.show(text), ""
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
    note = ""
    if decoded != (text[: len(decoded)] if rest is not None else text):
        note = "the tokens decode to another text than the one they were made of; shown is what they decode to"
        if decoded[:1] == " " and text.startswith(decoded[1:]):
            note = "the tokenizer puts a blank before the text"
    stop_at = len(decoded) if rest is not None else len(decoded) - len(_stop_of(encoder, decoded))
    pieces, place = [], 0
    for number, (group, piece) in enumerate(groups):
        place += len(piece)
        stop = " stop" if place > stop_at else ""
        title = f"id {' '.join(map(str, group))}" + (", stop" if stop else "")
        ends_line = number + 1 == len(groups) or groups[number + 1][1].startswith("\n")
        html = visible.show(piece, ends_line=ends_line)
        pieces.append(Piece(html=html, classes=f"{'odd' if number % 2 else 'even'}{stop}", title=title))
    return pieces, rest, note


def _stop_of(encoder: Encoder, text: str) -> str:
    """Return the stop that a target ends in, "" when it ends in none."""
    stops = (*encoder.renderer.profile.stops, react.STOP_WORD)
    return max((stop for stop in stops if stop and text.endswith(stop)), key=len, default="")


def _shade(weight: float | None) -> str:
    if weight is None:
        return "refused"
    if weight == 0:
        return "zero"
    return "full" if weight == 1 else "part" if weight < 1 else "more"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
