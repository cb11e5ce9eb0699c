"""The report of a comparison: one self-contained page in both languages, from the data alone.

The page asks for nothing from outside and runs no script; every text of a model or a data set is escaped, and what
cannot be seen in a text (control characters, marks that turn the reading direction) is named.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from actune.core.files import atomic_text
from actune.evals.items import Score
from actune.evals.report_texts import Language, words

TRANSCRIPTS_FILE = "report.json"
"""Whoever writes a page with transcripts writes them whole into this file beside it; the page refers to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One text of a transcript, exactly as it was: what the model read, wrote, or was told by a tool."""

    kind: Literal["prompt", "output", "observation"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one model did; `note` is a remark of ours (why it ended, say)."""

    parts: tuple[Part, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One question put to both models."""

    id: str
    axis: str
    title: str
    question: str
    base: Side
    tuned: Side
    gold: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedExample:
    """One trained row as text: what the model reads, and what it is trained to write."""

    prompt: str
    completion: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a page can show; only `comparison`, the JSON of `compare`, is needed.

    `run` is the content of run.json, `metrics` the lines of metrics.jsonl, `extra` further numbers by name (a mapping
    of `base` and `tuned` to numbers is shown as such; `margin` is used where the comparison names none). `made` is the
    date on the page, today unless given.
    """

    comparison: Mapping[str, Any]
    base_scores: Sequence[Score] = ()
    tuned_scores: Sequence[Score] = ()
    transcripts: Sequence[Transcript] = ()
    run: Mapping[str, Any] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    trained: TrainedExample | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    made: datetime.date | None = None


def write_page(path: Path, data: ReportData, *, language: Language = "en") -> None:
    """Write the page whole or not at all; `language` is the one it opens in.

    Raises:
        ConfigError: the folder of `path` does not exist.
        CheckpointError: the file cannot be written.
    """
    atomic_text(path, page(data, language))


def page(data: ReportData, language: Language = "en") -> str:
    """Return the page as HTML."""
    # Only a page needs the template engine; `compare` without one does not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from actune.evals.report_view import build_view

    environment = Environment(
        loader=PackageLoader("actune.evals", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("report.css.jinja").render()
    # The policy names the style sheet by its hash, so no other style, no script and no address is ever followed.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    view = build_view(data, made=data.made or datetime.datetime.now().astimezone().date())
    return environment.get_template("report.html.jinja").render(
        view=view, style=style, digest=digest, language=language, w=words
    )
