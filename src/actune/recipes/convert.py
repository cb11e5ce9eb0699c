"""`actune convert`: rows in another format."""

from __future__ import annotations

import json
from pathlib import Path

from actune.core.errors import ConfigError, DataError, RenderError
from actune.core.files import atomic_file
from actune.data.sources import Quarantined, write_quarantine
from actune.formats import registry
from actune.recipes.writing import check_out, load_rows, stderr


def convert(*, source: Path, out: Path, to: str, format_name: str | None, overwrite: bool) -> int:
    """Write rows in another format; rows that cannot be read or written go to OUT's quarantine file."""
    target = registry.get(to)
    if target.write is None:
        writable = ", ".join(name for name in registry.names() if registry.get(name).write is not None)
        raise ConfigError(f"format {to!r} can be read, not written", fix=f"give --to one of {writable}")
    check_out(out, [str(source)])
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already", fix="give another file or --overwrite")
    loaded = load_rows(str(source), format_name)
    left_out = list(loaded.quarantined)
    lines = []
    kept_sources = 0
    for conversation in loaded.conversations:
        try:
            lines.append(json.dumps(target.write(conversation), ensure_ascii=False))
        except (DataError, RenderError) as error:
            left_out.append(Quarantined.of(conversation.source, error))
            continue
        kept_sources += conversation.system_source is not None or any(m.source_text for m in conversation.messages)
    with atomic_file(out) as file:
        file.writelines(f"{line}\n" for line in lines)
    console = stderr()
    console.print(f"{len(lines):,} rows written to {out}", highlight=False)
    if kept_sources:
        share = kept_sources / len(lines)
        console.print(f"{kept_sources:,} of them ({share:.1%}) keep source text that is not in the normal layout")
    if left_out:
        path = out.with_name(f"{out.name}.quarantine.jsonl")
        write_quarantine(path, left_out)
        console.print(f"{len(left_out):,} rows left out, listed with reasons in {path}", highlight=False)
    return 1 if left_out else 0
