"""`actune check`: what is wrong with rows, alone and for a model."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation
from actune.data.checks import find_problems
from actune.data.sources import Quarantined
from actune.recipes.writing import find_writing, in_order, load_rows, stderr
from actune.render.encoder import DialectName, Encoder, merge_turns
from actune.render.survey import make_survey

# How outcomes begin that are no reason to worry.
_FINE = ("kept", "yes", "not used", "-", "'", '"')
_EXAMPLES = 3  # of each kind, printed for people; --json has them all


def check(  # noqa: PLR0913 - one parameter a flag
    *,
    data: list[str],
    model: str | None,
    dialect: DialectName | None,
    json_output: bool,
    format_name: str | None,
    chat_template: str | None,
    now: datetime.date | None,
    allow_loss: Sequence[str] = (),
    template_variables: Sequence[str] = (),
) -> int:
    """Report every row that cannot be read, would teach something wrong, or cannot be written for a model."""
    given = {
        "--dialect": dialect, "--chat_template": chat_template, "--now": now, "--allow_loss": allow_loss or None,
        "--template_variables": template_variables or None,
    }  # fmt: skip
    for flag, value in given.items():
        if value is not None and model is None:
            stderr().print(f"note: {flag} has no effect without --model", markup=False)
    encoder = None
    if model is not None:
        encoder = find_writing(
            model,
            dialect,
            chat_template,
            now,
            None,
            False,
            allow_loss=allow_loss,
            template_variables=template_variables,
        ).encoder()
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
        yield from _loss_problems(item, encoder)


def _loss_problems(row: Conversation, encoder: Encoder) -> Iterator[dict[str, Any]]:
    """Yield everything that a row loses under a template; what is allowed is a warning."""
    stopped = False
    try:
        turns, losses = encoder.examine(row)
        for loss in losses:
            place = Quarantined(source=row.source, code=loss.code, message=loss.message, field=loss.field, fix=loss.fix)
            allowed = encoder.allows(loss)
            stopped = stopped or not allowed
            yield _problem_json("warning" if allowed else "error", place)
        if not stopped:
            merge_turns(encoder.encode_written(row, turns), row.source)
    except (DataError, RenderError) as error:
        yield _problem_json("error", Quarantined.of(row.source, error))


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
    profile["survey"] = dict(make_survey(encoder).lines())
    return {key: value for key, value in profile.items() if value is not None}


def _print_report(report: dict[str, Any]) -> None:
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
        _print_template(console, report["template"])
    console.print(f"{report['rows']:,} rows, {report['ok']:,} without errors")


def _print_template(console: Console, template: dict[str, Any]) -> None:
    """Print what the template does with each part of a conversation."""
    from rich.table import Table

    table = Table(title=f"chat template of {template['origin']}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for feature, outcome in template["survey"].items():
        table.add_row(feature, Text(outcome, style="" if outcome.startswith(_FINE) else "yellow"))
    console.print(table)
    for notice in template["notices"]:
        console.print(f"note: {notice}", markup=False)
