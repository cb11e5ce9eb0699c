"""`actune convert`: rows in another format, ReAct text as native calls or the other way round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from actune.core import conversion
from actune.core.differences import Change, list_changes
from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_file
from actune.core.json_text import write_json
from actune.core.types import Conversation, Style
from actune.data.checks.rewrite import write_row
from actune.data.reading.sources import Quarantined, write_quarantine
from actune.formats import registry
from actune.recipes.writing import check_out, load_rows, stderr

_CHANGES: Mapping[Change, str] = {
    "layout": "had ReAct text in another layout than the normal one; native calls do not keep the layout",
    "arguments": "had arguments as Python literals, written as JSON",
    "text-to-thought": "had text beside a call, which became the Thought of its step",
    "empty-system": "had an empty system message, which ReAct text does not hold",
    "schema-notes": "had keys of a tool that an API list has no place for (additionalProperties, strict ...)",
    "outer-blanks": "had blanks around texts, which are layout in ReAct text",
}
assert set(_CHANGES) == set(get_args(Change))


def convert(
    *, source: Path, out: Path, to: str, dialect: Style | None, format_name: str | None, overwrite: bool
) -> int:
    """Write rows in another format and dialect; rows that cannot be read or written go to OUT's quarantine file.

    Without `dialect` calls are native where the format holds them, else ReAct text in the row's language. Every row
    written is one that reads back as what was to be written.
    """
    target = registry.get(to)
    if target.write is None:
        writable = ", ".join(name for name in registry.names() if registry.get(name).write is not None)
        raise ConfigError(f"format {to!r} can be read, not written", fix=f"give --to one of {writable}")
    if dialect == "chat" and target.calls_as_text:
        raise ConfigError(
            f"format {to!r} holds ReAct text, no native calls", fix="give --to openai, or leave --dialect chat out"
        )
    check_out(out, [str(source)])
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already", fix="give another file or --overwrite")
    loaded = load_rows(str(source), format_name)
    left_out = list(loaded.quarantined)
    lines = []
    kept_sources = 0
    changes = Counter[Change]()
    for conversation in loaded.conversations:
        try:
            converted = _in_dialect(conversation, dialect, target)
            row = write_row(converted, target)
        except (DataError, RenderError) as error:
            left_out.append(Quarantined.of(conversation.source, error))
            continue
        lines.append(write_json(row))
        changes.update(list_changes(conversation, converted))
        kept_sources += converted.system_source is not None or any(m.source_text for m in converted.messages)
    with atomic_file(out) as file:
        file.writelines(f"{line}\n" for line in lines)
    console = stderr()
    rows = len(lines) + len(left_out)
    console.print(f"{len(lines):,} of {rows:,} rows written to {out}", highlight=False)
    for change, count in sorted(changes.items()):
        console.print(f"{count:,} of them {_CHANGES[change]}", highlight=False)
    if kept_sources:
        share = kept_sources / len(lines)
        console.print(f"{kept_sources:,} of them ({share:.1%}) keep source text that is not in the normal layout")
    if left_out:
        path = out.with_name(f"{out.name}.quarantine.jsonl")
        write_quarantine(path, left_out)
        console.print(f"{len(left_out):,} rows left out, listed with reasons in {path}", highlight=False)
    return 1 if left_out else 0


def _in_dialect(conversation: Conversation, dialect: Style | None, target: registry.Format) -> Conversation:
    if dialect is not None:
        return conversion.convert_style(conversation, dialect)
    if target.calls_as_text:
        return conversation if conversation.style != "chat" else conversion.convert_style(conversation, "react")
    return conversion.convert_style(conversation, "chat")
