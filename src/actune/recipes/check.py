"""`actune check`: what is wrong with rows, alone and for a model."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation
from actune.data.checks import find_problems
from actune.data.sources import Quarantined
from actune.recipes.writing import find_writing, in_order, load_rows, stderr
from actune.render.encoder import DialectName, Encoder

_EXAMPLES = 3  # of each kind, printed for people; --json has them all


def check(
    *,
    data: list[str],
    model: str | None,
    dialect: DialectName | None,
    json_output: bool,
    format_name: str | None,
    chat_template: str | None,
    now: datetime.date | None,
) -> int:
    """Report every row that cannot be read, would teach something wrong, or cannot be written for a model."""
    for flag, value in (("--dialect", dialect), ("--chat_template", chat_template), ("--now", now)):
        if value is not None and model is None:
            stderr().print(f"note: {flag} has no effect without --model", markup=False)
    encoder = find_writing(model, dialect, chat_template, now, None, False).encoder() if model is not None else None
    problems: list[dict[str, Any]] = []
    rows = bad = 0
    for item in in_order([load_rows(spec, format_name) for spec in data]):
        found = list(_row_problems(item, encoder))
        rows += 1
        bad += any(problem["level"] == "error" for problem in found)
        problems += found
    report: dict[str, Any] = {"version": 1, "rows": rows, "ok": rows - bad, "problems": problems}
    if encoder is not None:
        report["template"] = _profile_json(encoder)
    if json_output:
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    else:
        _print_report(report)
    return 1 if bad else 0


def _row_problems(item: Conversation | Quarantined, encoder: Encoder | None) -> Iterator[dict[str, Any]]:
    if isinstance(item, Quarantined):
        yield _problem_json("error", item)
        return
    for finding in find_problems(item):
        place = Quarantined(
            source=item.source, code=finding.code, message=finding.message, field=finding.field, fix=finding.fix
        )
        yield _problem_json(finding.level, place)
    if encoder is not None:
        try:
            encoder.encode_turns(item)
        except (DataError, RenderError) as error:
            yield _problem_json("error", Quarantined.of(item.source, error))


def _problem_json(level: str, item: Quarantined) -> dict[str, Any]:
    problem = {
        "level": level,
        "code": item.code,
        "file": item.source.file,
        "line": item.source.line,
        "field": item.field,
        "message": item.message,
        "fix": item.fix,
    }
    return {key: value for key, value in problem.items() if value is not None}


def _profile_json(encoder: Encoder) -> dict[str, Any]:
    templates = encoder.renderer.templates
    profile: dict[str, Any] = {"origin": templates.origin, **dataclasses.asdict(encoder.renderer.profile)}
    profile["notices"] = encoder.renderer.notices()
    return {key: value for key, value in profile.items() if value is not None}


def _print_report(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for problem in report["problems"]:
        kinds[problem["level"], problem["code"]].append(problem)
    for (level, code), problems in sorted(kinds.items()):
        console.print(f"{level} {code}: {len(problems):,}", style="bold red" if level == "error" else "bold yellow")
        for problem in problems[:_EXAMPLES]:
            field, message = problem.get("field"), problem["message"]
            place = f"{field}: " if field is not None and field not in message else ""
            console.print(f"  {problem['file']}:{problem['line']}: {place}{message}", markup=False)
        if len(problems) > _EXAMPLES:
            console.print(f"  ... and {len(problems) - _EXAMPLES:,} more (--json lists all)")
        if problems[0].get("fix"):
            console.print(f"  fix: {problems[0]['fix']}", markup=False)
    if "template" in report:
        parts = [f"{key} {_write_value(value)}" for key, value in report["template"].items()]
        console.print(f"template: {'; '.join(parts)}", markup=False)
    console.print(f"{report['rows']:,} rows, {report['ok']:,} without errors")


def _write_value(value: object) -> str:
    """Return a value of the profile for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
