"""The page of `actune inspect`: rows as the model is trained on them, one self-contained file, from the rows alone.

The page asks for nothing from outside; its style sheet and its one script are named by their hashes. Rows are JSON in
elements that are not executed, written by the script as text; without the script the first rows and the statistics are
there as plain HTML. Every text of data, template or model is escaped, and what cannot be seen is named.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from actune.data.inspect.numbers import show_numbers
from actune.data.inspect.pool import Pool, as_json
from actune.data.inspect.row_json import RowWriter, short_weight
from actune.data.inspect.rows import Examined, count_examined
from actune.data.inspect.static import show_static
from actune.data.inspect.statistics import Statistics
from actune.data.inspect.visible import Visible
from actune.data.inspect.words import TEXTS, Words, words
from actune.render.encoder import Encoder
from actune.render.survey import make_survey

LONGEST = 100_000
"""Of longer texts (characters) a page of several rows shows both ends; a page of one row shows them whole."""
STATIC_ROWS = 10
"""So many rows are there without the script."""

_SCRIPT = ("base", "list", "row", "keys")
"""The parts of the script, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a page is about: as asked for, with the number of rows that the data have.

    `max_length` marks longer rows (-1: none). `loss_weights` are those of parts, NAME=VALUE each.
    """

    model: str
    data: Sequence[str]
    dialect: str
    available: int
    max_length: int = -1
    loss_weights: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageHead:
    """What the page says before the rows: names and values in order, what the template does, and its profile."""

    facts: tuple[tuple[Words, Markup | Words], ...]
    survey: tuple[tuple[str, Markup], ...]
    profile: tuple[tuple[str, Markup], ...]
    notices: tuple[Markup, ...]


def page(encoder: Encoder, rows: Mapping[int, Examined], about: About, statistics: Statistics | None = None) -> str:
    """Return the page as HTML: `rows` by their number in the data, `statistics` over all of them where wanted."""
    # Only a page needs the template engine; the terminal does not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("actune.data.inspect", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("inspect.css.jinja").render()
    script = "\n".join(environment.get_template(f"inspect_{part}.js.jinja").render() for part in _SCRIPT)
    templates = encoder.renderer.templates
    visible = Visible(
        encoder.renderer.tokenizer.control_pattern(templates.plain + templates.tools),
        longest=None if len(rows) == 1 else LONGEST,
    )
    pool = Pool()
    writer = RowWriter(encoder, visible, pool)
    entries, values, weights = [], {}, set[float]()
    for number, row in rows.items():
        facts = count_examined(row)
        over = 0 <= about.max_length < facts.longest
        entries.append(writer.entry(number, row, facts, over))
        weights.update(short_weight(weight) for weight, _ in facts.weights)
        values[number] = writer.row(number, row)
    texts = {number: pool.write(value) for number, value in values.items()}
    vocabulary = pool.write(pool.vocabulary())  # before the pool's own texts, which it may add to
    first = dict(list(rows.items())[:STATIC_ROWS])
    return environment.get_template("inspect.html.jinja").render(
        head=_show_head(encoder, visible, rows, about, statistics),
        numbers=show_numbers(statistics, visible) if statistics is not None else None,
        static=[show_static(encoder, visible, row, number) for number, row in first.items()],
        shown=len(rows),
        chosen=len(rows) < about.available and statistics is not None,
        entries=as_json({"rows": entries, "over": about.max_length >= 0, "weights": sorted(weights)}),
        texts=texts,
        vocabulary=vocabulary,
        pool=as_json(pool.texts),
        table=as_json({key: list(pair) for key, pair in TEXTS.items()}),
        data=", ".join(map(visible.label, about.data)),
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
        w=words,
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _show_head(
    encoder: Encoder, visible: Visible, rows: Mapping[int, Examined], about: About, statistics: Statistics | None
) -> PageHead:
    facts: list[tuple[Words, Markup | Words]] = [
        (words("model"), visible.show(about.model)),
        (words("data"), visible.show(", ".join(about.data))),
        (words("asked_dialect"), visible.show(about.dialect)),
        (words("template"), visible.show(encoder.renderer.templates.origin)),
        (words("rows"), words("of_rows", n=f"{len(rows):,}", all=f"{about.available:,}")),
    ]
    if about.loss_weights:
        facts.append((words("part_weights"), visible.show(", ".join(about.loss_weights))))
    if statistics is not None and statistics.refused:
        facts.append((words("not_trained"), words("refused_of", n=f"{statistics.refused:,}")))
    return PageHead(
        facts=tuple(facts),
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
