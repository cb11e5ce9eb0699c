"""The formats by name, and which of them a file is in.

Other packages add one through the entry point group `actune.formats`: the name is the format's, the object has
`detect(row) -> bool`, `read(row, source) -> Conversation` and, where it can, `write(conversation) -> dict`. A format whose
rows have no place for native calls says so with `CALLS_AS_TEXT = True`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Source
from actune.formats.padding import REPAIRS

GROUP = "actune.formats"
# Where two formats can read the same rows, the first one is meant.
_BUILT_IN = {
    "openai": "openai",
    "swift": "swift",
    "anthropic": "anthropic",
    "toolbench": "toolbench",
    "sharegpt": "sharegpt",
    "ms-agent": "ms_agent",
    "query-response": "query_response",
    "alpaca": "alpaca",
    "text": "text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: `detect` looks at the shape of a row, `read` and `write` convert; `write` is None where not offered.

    `calls_as_text`: its rows hold calls as ReAct text only.
    """

    name: str
    detect: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Source], Conversation]
    write: Callable[[Conversation], dict[str, Any]] | None
    calls_as_text: bool = False


def names() -> tuple[str, ...]:
    """Return the names of all formats, those of other packages last."""
    return (*_BUILT_IN, *sorted(_added()))


@cache
def get(name: str) -> Format:
    """Return the format of that name.

    Raises:
        ConfigError: there is no such format, or another package's cannot be loaded.
    """
    if name in _BUILT_IN:
        owner: object = importlib.import_module(f"actune.formats.{_BUILT_IN[name]}")
    elif name in _added():
        owner = _load(_added()[name])
    else:
        near = difflib.get_close_matches(name.replace("_", "-").lower(), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no format {name!r}", fix=f"{hint}known formats: {', '.join(names())}")
    return Format(
        name=name,
        detect=getattr(owner, "detect"),  # noqa: B009 - of an unknown object
        read=getattr(owner, "read"),  # noqa: B009
        write=getattr(owner, "write", None),
        calls_as_text=getattr(owner, "CALLS_AS_TEXT", False) is True,
    )


def detect_format(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the format that reads all rows that any format reads.

    Rows of no known shape are left to the reader, which says what is wrong with each.

    Raises:
        ConfigError: no row has a known shape, or the rows are of different formats.
    """
    found = {name: {index for index, row in enumerate(rows) if get(name).detect(row)} for name in names()}
    known = set[int]().union(*found.values())
    for name, indices in found.items():
        if known and indices == known:
            return name
    fix = f"name the format with --format; known formats: {', '.join(names())}"
    if known:
        parts = ", ".join(f"{name} (row {min(indices) + 1})" for name, indices in found.items() if indices)
        raise ConfigError(
            f"the rows are of different formats: {parts}", fix="put each format into a file of its own, or " + fix
        )
    keys = list(dict.fromkeys(str(key) for row in rows for key in row))
    raise ConfigError(f"the format of the rows is not known; their keys are {_describe(keys)}", fix=fix)


def read_row(row: Mapping[str, Any], source: Source, format_name: str) -> Conversation:
    """Return a raw row as a conversation.

    Raises:
        DataError: what is wrong with the row.
        ConfigError: there is no such format.
    """
    form = get(format_name)
    try:
        conversation = form.read(row, source)
    except RecursionError:
        raise DataError(
            "the row is nested too deeply", code="row-too-deep", fix="remove the row, or flatten its values"
        ) from None
    mended = row.get(REPAIRS)
    return replace(conversation, repairs=(*mended, *conversation.repairs)) if mended else conversation


def _describe(keys: list[str]) -> str:
    wanted = ("messages", "conversations", "query", "response", "instruction", "output")
    shown = []
    for key in keys[:12]:
        near = difflib.get_close_matches(key.lower(), wanted, n=1, cutoff=0.75)
        shown.append(f"{key!r} (did you mean {near[0]!r}?)" if near and near[0] != key else repr(key))
    more = f" and {len(keys) - 12} more" if len(keys) > 12 else ""
    return (", ".join(shown) or "none") + more


@cache
def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}


def _load(point: EntryPoint) -> object:
    try:
        owner = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the format {point.name!r} ({point.value}) cannot be loaded: {error}",
            fix="repair or remove the package that provides it",
        ) from error
    missing = [name for name in ("detect", "read") if not callable(getattr(owner, name, None))]
    if missing:
        raise ConfigError(
            f"the format {point.name!r} ({point.value}) has no {' and no '.join(missing)}",
            fix="see actune/formats/registry.py for what a format has to offer",
        )
    return owner
