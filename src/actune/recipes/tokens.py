"""`actune tokens`: the token tree of every row as JSON lines."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actune.core.errors import DataError, RenderError
from actune.core.files import atomic_file
from actune.core.types import Conversation
from actune.data.encode import longest
from actune.data.reading.sources import Quarantined
from actune.recipes.writing import (
    HistoryReasoning,
    check_out,
    find_writing,
    in_order,
    load_rows,
    stderr,
)
from actune.render.encoder import DialectName
from actune.render.tree import TokenTree


def tokens(  # noqa: PLR0913 - one parameter a flag
    *,
    model: str,
    data: list[str],
    dialect: DialectName | None,
    now: datetime.date | None,
    out: Path,
    format_name: str | None,
    chat_template: str | None,
    history_reasoning: HistoryReasoning | None,
    raw_control_tokens: bool,
    max_length: int,
    allow_loss: Sequence[str] = (),
    template_variables: Sequence[str] = (),
    loss_weights: Sequence[str] = (),
) -> int:
    """Write the token tree of every row as JSON lines; rows that cannot be written become error lines."""
    check_out(out, data)
    writing = find_writing(
        model,
        dialect,
        chat_template,
        now,
        history_reasoning,
        raw_control_tokens,
        allow_loss=allow_loss,
        template_variables=template_variables,
        loss_weights=loss_weights,
    )
    encoder = writing.encoder()
    written, failed = 0, Counter[str]()

    def lines() -> Iterator[str]:
        nonlocal written
        for item in in_order([load_rows(spec, format_name) for spec in data]):
            error = item if isinstance(item, Quarantined) else None
            if isinstance(item, Conversation):
                try:
                    tree = encoder.encode(item)
                    if max_length >= 0 and longest(tree) > max_length:
                        message = f"{longest(tree)} tokens, more than max_length {max_length}"
                        raise RenderError(message, code="over-long", fix="raise --max_length or shorten the row")
                    source = {"file": item.source.file, "line": item.source.line}
                    yield json.dumps({"source": source, **_tree_json(tree)}, ensure_ascii=False)
                    written += 1
                except (DataError, RenderError) as caught:
                    error = Quarantined.of(item.source, caught)
            if error is not None:
                failed[error.code] += 1
                yield json.dumps(_error_json(error), ensure_ascii=False)

    with atomic_file(out) as file:
        file.writelines(f"{line}\n" for line in lines())
    console = stderr()
    console.print(f"{written:,} rows written to {out}", highlight=False)
    for code, count in failed.most_common():
        console.print(f"{count:,} rows are error lines: {code}", highlight=False)
    return 0 if written or not failed else 1


def _tree_json(tree: TokenTree) -> dict[str, Any]:
    targets = zip(tree.target_positions.tolist(), tree.target_ids.tolist(), tree.target_weights.tolist(), strict=True)
    return {
        "input_ids": tree.input_ids.tolist(),
        "positions": tree.positions.tolist(),
        "end": tree.end.tolist(),
        "targets": [list(target) for target in targets],
    }


def _error_json(item: Quarantined) -> dict[str, Any]:
    error = {"code": item.code, "message": item.reason}
    if item.fix is not None:
        error["fix"] = item.fix
    return {"source": {"file": item.source.file, "line": item.source.line}, "error": error}
