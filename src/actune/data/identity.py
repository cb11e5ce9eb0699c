"""Identity rows: what the model is called and who made it, from the project's own bilingual question set."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from actune.core.errors import ConfigError
from actune.core.types import Conversation, Message, Source
from actune.data.mix import generator

FILE = "identity.jsonl"
DATASET = "identity"
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


def identity_rows(count: int, *, names: Sequence[str], authors: Sequence[str], seed: int) -> tuple[Conversation, ...]:
    """Return `count` training rows drawn with repetition, the same ones for the same seed.

    Two names or authors are the Chinese and the English one; a single one serves both languages. Rows that are held
    out are never drawn, nor are rows that would deny the very name or author that is taught ("Are you Qwen?" - "No").

    Raises:
        ConfigError: `count` is negative, or a name or author is missing, blank, unusable, or there are more than two.
    """
    if count < 0:
        raise ConfigError(f"self_cognition_sample is {count}", fix="give 0 or a positive number of rows")
    if count == 0:
        return ()
    filled = _fill_all("train", names, authors)
    # Independent draws: "with repetition" as in the reference recipe, also where count is below the number of rows.
    picks = generator(seed, "identity").randint(len(filled), size=count)
    return tuple(filled[int(pick)] for pick in picks)


def heldout_rows(*, names: Sequence[str], authors: Sequence[str]) -> tuple[Conversation, ...]:
    """Return every held-out row once, in the order of the file: questions that training never sees.

    Raises:
        ConfigError: as for `identity_rows`.
    """
    return _fill_all("heldout", names, authors)


@functools.cache
def read_templates() -> tuple[IdentityTemplate, ...]:
    """Return all rows of the package's identity set, in the order of the file."""
    text = resources.files("actune.data").joinpath(FILE).read_text(encoding="utf-8")
    templates: list[IdentityTemplate] = []
    for number, line in enumerate(text.splitlines(), 1):
        row = json.loads(line)
        language = row.pop("lang")
        templates.append(IdentityTemplate(**row, language=language, line=number))
    return tuple(templates)


def _fill_all(split: Split, names: Sequence[str], authors: Sequence[str]) -> tuple[Conversation, ...]:
    name_of = _by_language("model_name", names)
    author_of = _by_language("model_author", authors)
    rows: list[Conversation] = []
    for template in read_templates():
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
