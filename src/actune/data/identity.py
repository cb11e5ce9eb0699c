"""Identity rows: what the model is called and who made it, from the project's own bilingual question set."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from actune.core.errors import ConfigError
from actune.core.types import Conversation, Message, Source
from actune.data.mix import generator

FILE = "identity.jsonl"
DATASET = "identity"
_LAYOUT = (
    'one JSON object a line: {"query": ..., "response": ... with {{NAME}} and {{AUTHOR}}, "lang": "zh" or "en", '
    '"split": "train" or "heldout"}'
)
Split = Literal["train", "heldout"]
Language = Literal["zh", "en"]

# The dot is part of the match so that "Example Inc." at the end of a sentence does not end in two dots.
_PLACEHOLDER = re.compile(r"\{\{(NAME|AUTHOR)\}\}(\.?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityTemplate:
    """One question and its answer with `{{NAME}}` and `{{AUTHOR}}` still in place; `line` counts from 1."""

    query: str
    response: str
    language: Language
    topic: str
    split: Split
    line: int


def identity_rows(
    count: int, *, names: Sequence[str], authors: Sequence[str], seed: int, file: str | None = None
) -> tuple[Conversation, ...]:
    """Return `count` training rows drawn with repetition, the same ones for the same seed.

    Two names or authors are the Chinese and the English one; a single one serves both languages. Rows that are held
    out are never drawn, nor are rows that would deny the very name or author that is taught ("Are you Qwen?" - "No").
    `file` is a set of one's own in the layout of the package's (`identity.jsonl`).

    Raises:
        ConfigError: `count` is negative, or a name or author is missing, blank, unusable, or there are more than two;
            `file` cannot be read or has no row for training.
    """
    if count < 0:
        raise ConfigError(f"self_cognition_sample is {count}", fix="give 0 or a positive number of rows")
    if count == 0:
        return ()
    filled = _fill_all("train", names, authors, read_templates(file))
    if not filled:
        raise ConfigError(f"{file} has no row with the split train", fix=_LAYOUT)
    # Independent draws: "with repetition" as in the reference recipe, also where count is below the number of rows.
    picks = generator(seed, "identity").randint(len(filled), size=count)
    return tuple(filled[int(pick)] for pick in picks)


def heldout_rows(*, names: Sequence[str], authors: Sequence[str], file: str | None = None) -> tuple[Conversation, ...]:
    """Return every held-out row once, in the order of the file: questions that training never sees.

    A `file` of one's own without held-out rows leaves the package's.

    Raises:
        ConfigError: as for `identity_rows`.
    """
    own = _fill_all("heldout", names, authors, read_templates(file))
    return own or _fill_all("heldout", names, authors, read_templates())


@functools.cache
def read_templates(file: str | None = None) -> tuple[IdentityTemplate, ...]:
    """Return all rows of a file, or of the package's identity set, in the order of the file.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no row of the kind.
    """
    if file is None:
        text = resources.files("actune.data").joinpath(FILE).read_text(encoding="utf-8")
    else:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"self_cognition_file {file} cannot be read: {error}", fix=_LAYOUT) from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return tuple(_read_template(line, f"{file or FILE}:{number}", number) for number, line in lines)


def _read_template(line: str, place: str, number: int) -> IdentityTemplate:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place}: no valid JSON: {error}", fix=_LAYOUT) from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("query", "response")):
        raise ConfigError(f"{place}: 'query' and 'response' are needed, both texts", fix=_LAYOUT)
    language, split, topic = row.get("lang"), row.get("split", "train"), row.get("topic", "who")
    if language not in ("zh", "en") or split not in ("train", "heldout") or not isinstance(topic, str):
        raise ConfigError(
            f"{place}: 'lang' is zh or en, 'split' train or heldout, not {language!r}, {split!r}", fix=_LAYOUT
        )
    if "{{NAME}}" not in row["response"] and "{{AUTHOR}}" not in row["response"]:
        raise ConfigError(f"{place}: the response holds neither {{{{NAME}}}} nor {{{{AUTHOR}}}}", fix=_LAYOUT)
    return IdentityTemplate(
        query=row["query"], response=row["response"], language=language, topic=topic, split=split, line=number
    )


def _fill_all(
    split: Split, names: Sequence[str], authors: Sequence[str], templates: Sequence[IdentityTemplate]
) -> tuple[Conversation, ...]:
    name_of = _by_language("model_name", names)
    author_of = _by_language("model_author", authors)
    rows: list[Conversation] = []
    for template in templates:
        name, author = name_of[template.language], author_of[template.language]
        if template.split == split and not _denies(template, (name, author)):
            rows.append(_fill(template, name, author))
    return tuple(rows)


def _by_language(setting: str, values: Sequence[str]) -> dict[Language, str]:
    if isinstance(values, str):  # a sequence of characters otherwise, silently
        values = (values,)
    for value in values:
        if not value.strip() or "{{" in value or "}}" in value or not value.isprintable():
            raise ConfigError(
                f"{setting} {value!r} cannot be used: it is blank, or holds a line break, control character or braces",
                fix=f"write the plain text that the model is to say, for example --{setting} 小助 Helper",
            )
    if not 1 <= len(values) <= 2:
        raise ConfigError(
            f"identity rows need one or two values of {setting}, not {len(values)}",
            fix=f"give --{setting} with one value for both languages, or two: Chinese, then English; "
            "or --self_cognition_sample 0",
        )
    return {"zh": values[0].strip(), "en": values[-1].strip()}


def _denies(template: IdentityTemplate, taught: Sequence[str]) -> bool:
    if template.topic != "other_model":
        return False
    query = template.query.casefold()
    return any(value.casefold() in query for value in taught)


def _fill(template: IdentityTemplate, name: str, author: str) -> Conversation:
    value_of = {"NAME": name, "AUTHOR": author}

    def insert(match: re.Match[str]) -> str:
        value = value_of[match.group(1)]
        return value if value.endswith(".") else value + match.group(2)

    # One pass over the template: inserted text is never searched for placeholders again.
    query, response = (_PLACEHOLDER.sub(insert, text) for text in (template.query, template.response))
    messages = (Message(role="user", content=query), Message(role="assistant", content=response))
    return Conversation(messages=messages, source=Source(file=FILE, line=template.line, dataset=DATASET))
