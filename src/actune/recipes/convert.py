"""`actune convert`: rows in another format, ReAct text as native calls or the other way round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from actune.core import conversion
from actune.core.differences import Change, list_changes
from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_file
from actune.core.json_text import write_json
from actune.core.types import Conversation, Style
from actune.data.checks.rewrite import write_row
from actune.data.reading.sources import Quarantined, write_quarantine
from actune.formats import registry
from actune.recipes.traces import FORMAT as TRACE
from actune.recipes.traces import Chosen, TraceChoice, choose_traces, read_raw
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
# What one text a turn cannot hold, and the messages of a trace can.
_TEXT_ONLY = frozenset({"react-weights", "react-marker-in-text", "format-changes-row"})


def convert(
    *,
    source: Path,
    out: Path,
    to: str,
    dialect: Style | None,
    format_name: str | None,
    overwrite: bool,
    traces: TraceChoice | None = None,
) -> int:
    """Write rows in another format and dialect; rows that cannot be read or written go to OUT's quarantine file.

    Without `dialect` calls are native where the format holds them, else ReAct text in the row's language. Every row
    written is one that reads back as what was to be written. Of traces those that `traces` chooses are written; `to`
    "trace" copies their lines.
    """
    choice = traces or TraceChoice()
    choice.check()
    target = _find_target(to, dialect)
    check_out(out, [str(source)])
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already", fix="give another file or --overwrite")
    raw = read_raw(str(source), format_name)
    if raw is None and (choice != TraceChoice() or to == TRACE):
        what = "--to trace copies traces" if to == TRACE else "filters of traces were given"
        raise ConfigError(f"{what}, and {source} holds none", fix="give the file that `actune run --out` wrote")
    loaded = load_rows(str(source), format_name)
    chosen = None if raw is None else choose_traces(loaded, raw, choice)
    left_out = list(loaded.quarantined) if chosen is None else chosen.faulty
    written = _Written()
    for conversation in loaded.conversations if chosen is None else ():
        written.add(conversation, target, dialect)
    for candidate in chosen.kept if chosen is not None else ():
        assert isinstance(candidate.read, Conversation)
        written.add(candidate.read, target, dialect, raw=candidate.raw)
    left_out += written.failed
    with atomic_file(out) as file:
        file.writelines(f"{line}\n" for line in written.lines)
    _report(out, len(loaded.conversations) + len(loaded.quarantined), written, chosen)
    if left_out:
        path = out.with_name(f"{out.name}.quarantine.jsonl")
        write_quarantine(path, left_out)
        stderr().print(f"{len(left_out):,} rows left out, listed with reasons in {path}", highlight=False)
    return 1 if left_out else 0


def _find_target(to: str, dialect: Style | None) -> registry.Format:
    target = registry.get(to)
    if to == TRACE:
        if dialect is not None:
            raise ConfigError("--to trace copies lines, which have their dialect", fix="leave --dialect out")
        return target
    if target.write is None:
        writable = ", ".join(name for name in registry.names() if registry.get(name).write is not None)
        raise ConfigError(f"format {to!r} can be read, not written", fix=f"give --to one of {writable}")
    if dialect == "chat" and target.calls_as_text:
        raise ConfigError(
            f"format {to!r} holds ReAct text, no native calls", fix="give --to openai, or leave --dialect chat out"
        )
    return target


@dataclass(slots=True)
class _Written:
    """The lines to write, what was rewritten in them, and the rows that could not be written."""

    lines: list[str] = field(default_factory=list)
    failed: list[Quarantined] = field(default_factory=list)
    changes: Counter[Change] = field(default_factory=Counter)
    kept_sources: int = 0

    def add(
        self,
        conversation: Conversation,
        target: registry.Format,
        dialect: Style | None,
        *,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a conversation; `raw` is the trace that it was read from, if it was one."""
        if target.name == TRACE:
            assert raw is not None
            self.lines.append(write_json(raw))
            return
        try:
            converted = _in_dialect(conversation, dialect, target)
            row = write_row(converted, target)
        except (DataError, RenderError) as error:
            entry = Quarantined.of(conversation.source, error)
            if raw is not None and error.code in _TEXT_ONLY:
                entry = replace(entry, fix="keep the trace as it is with --to trace, which `actune sft` reads")
            self.failed.append(entry)
            return
        self.lines.append(write_json(row))
        self.changes.update(list_changes(conversation, converted))
        self.kept_sources += converted.system_source is not None or any(m.source_text for m in converted.messages)


def _report(out: Path, read: int, written: _Written, chosen: Chosen | None) -> None:
    """Say what became of all rows: written, left out by a filter, or listed as faulty."""
    console = stderr()
    if chosen is not None:
        left = [f"{count:,} left out by {flag}" for flag, count in chosen.left_out.items()]
        for line in (*chosen.lines[:1], *left, *chosen.lines[1:]):
            console.print(line, highlight=False)
    console.print(f"{len(written.lines):,} of {read:,} rows written to {out}", highlight=False)
    for change, count in sorted(written.changes.items()):
        console.print(f"{count:,} of them {_CHANGES[change]}", highlight=False)
    if written.kept_sources:
        share = written.kept_sources / len(written.lines)
        console.print(
            f"{written.kept_sources:,} of them ({share:.1%}) keep source text that is not in the normal layout"
        )


def _in_dialect(conversation: Conversation, dialect: Style | None, target: registry.Format) -> Conversation:
    if dialect is not None:
        return conversion.convert_style(conversation, dialect)
    if target.calls_as_text:
        return conversation if conversation.style != "chat" else conversion.convert_style(conversation, "react")
    return conversion.convert_style(conversation, "chat")
