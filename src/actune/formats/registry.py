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
from typing import Any, get_args

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Message, Role, Source, ToolSpec
from actune.formats.assemble import check
from actune.formats.fields import Placed
from actune.formats.padding import REPAIRS

GROUP = "actune.formats"
# Where two formats can read the same rows, the first one is meant.
_BUILT_IN = {
    "trace": "trace",
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
    # A trace holds messages as other rows do, and more: read as one of those it would lose what it adds.
    traces = {index for index, row in enumerate(rows) if _detects(get("trace"), row)}
    found = {
        name: {index for index, row in enumerate(rows) if index not in traces and _detects(get(name), row)}
        for name in names()
    } | {"trace": traces}
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
        conversation = form.read(row, source) if format_name in _BUILT_IN else _read_added(form, row, source)
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


# --- formats of other packages ----------------------------------------------------------------------------------------


@cache
def _added() -> dict[str, EntryPoint]:
    """Return the formats of other packages by name.

    Raises:
        ConfigError: two formats have one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if point.name in _BUILT_IN or (other is not None and other.value != point.value):
            whose = "actune itself" if other is None else other.value
            raise ConfigError(
                f"the format {point.name!r} of {point.value} has the name of one of {whose}",
                fix="rename it in the package that provides it, or remove that package",
            )
        found[point.name] = point
    return found


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
            fix="docs/formats.md says what a format has to offer",
        )
    return owner


def _detects(form: Format, row: Mapping[str, Any]) -> bool:
    try:
        return bool(form.detect(row))
    except Exception as error:
        if form.name in _BUILT_IN:
            raise
        raise ConfigError(
            f"the format {form.name!r} of another package failed to look at a row: {type(error).__name__}: {error}",
            fix="name another format with --format, or repair or remove the package",
        ) from error


def _read_added(form: Format, row: Mapping[str, Any], source: Source) -> Conversation:
    """Return what a format of another package reads; whatever fails in it costs the row and is counted."""
    try:
        conversation = form.read(row, source)
    except (DataError, RecursionError):
        raise
    except Exception as error:  # code of others must not stop the rows of a file
        raise _failed(form, f"{type(error).__name__}: {error}") from error
    wrong = _find_wrong_type(conversation)
    if wrong is not None:
        raise _failed(form, f"it returned {wrong}")
    check(
        [Placed(message, f"messages[{index}]") for index, message in enumerate(conversation.messages)],
        conversation.tools,
    )
    return conversation


def _find_wrong_type(value: object) -> str | None:
    """Return what is of another type than it says in a conversation; None when nothing is."""
    if not isinstance(value, Conversation):
        return f"{type(value).__name__}, no Conversation"
    for index, message in enumerate(value.messages):
        if not isinstance(message, Message) or message.role not in get_args(Role):
            return f"messages[{index}] that is no message, or has no known role"
        calls = message.tool_calls
        texts = [message.content, message.reasoning, *(text for call in calls for text in (call.name, call.arguments))]
        if not all(isinstance(text, str) for text in texts):
            return f"messages[{index}] with a value that is no text"
    return None if all(isinstance(tool, ToolSpec) for tool in value.tools) else "tools that are no ToolSpec"


def _failed(form: Format, what: str) -> DataError:
    return DataError(
        f"the format {form.name!r} of another package failed: {what}",
        code="format-failed",
        fix="repair the package, which raises DataError for rows that it cannot take",
    )
