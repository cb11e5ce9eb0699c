"""`actune check`: what is wrong with rows, alone, beside each other and for a model; safe repairs with `--fix`."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from actune.core.errors import ConfigError
from actune.data.checks.overlap import Prompts, join_prompts, prompt_grams, prompt_keys
from actune.data.reading.files import find_files
from actune.data.reading.sources import Quarantined, split_count
from actune.recipes.examine import Examination, Problem, iterate_rows
from actune.recipes.fix import Fixed, check_outputs, write_fixed
from actune.recipes.writing import find_writing, stderr
from actune.render.encoder import DialectName, Encoder
from actune.render.survey import make_survey

# How outcomes begin that are no reason to worry.
_FINE = ("kept", "yes", "not used", "-", "'", '"')
_EXAMPLES = 3  # of each kind, printed for people; --json has them all
_STEP = 100  # rows between two moves of the bar


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
    loss_weights: Sequence[str] = (),
    against: Sequence[str] = (),
    fix: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Report every row that cannot be read, would teach something wrong, or cannot be written for a model.

    `against` is held-out data whose prompts must not stand in the rows. `fix` is the file to write: all rows without
    errors, repaired where that is safe; the exit code then tells whether rows had to be left out.
    """
    given = {
        "--dialect": dialect, "--chat_template": chat_template, "--now": now, "--allow_loss": allow_loss or None,
        "--template_variables": template_variables or None, "--loss_weights": loss_weights or None,
    }  # fmt: skip
    for flag, value in given.items():
        if value is not None and model is None:
            stderr().print(f"note: {flag} has no effect without --model", markup=False)
    _refuse_same(data, against)
    for spec in (*data, *against):
        find_files(split_count(spec)[0])  # a name that is wrong is told before any of the others is read
    if fix is not None:
        check_outputs(fix, [*data, *against], overwrite=overwrite)
    elif overwrite:
        stderr().print("note: --overwrite has no effect without --fix")
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
            loss_weights=loss_weights,
        ).encoder()
    examined = _examine(data, against, format_name, encoder, fixing=fix is not None)
    report: dict[str, Any] = {
        "version": 1,
        "rows": examined.rows,
        "ok": examined.rows - len(examined.bad),
        "problems": [_problem_json(problem) for problem in examined.problems],
    }
    fixed = None
    if fix is not None:
        fixed = write_fixed(fix, data, format_name, examined)
        report |= {"repairs": fixed.repairs, "fixed": fixed.counts()}
    if encoder is not None:
        report["template"] = _profile_json(encoder)
    if json_output:
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    else:
        _print_report(report, fixed)
    return 1 if (examined.bad if fixed is None else fixed.left_out) else 0


def _refuse_same(data: Sequence[str], against: Sequence[str]) -> None:
    """Held-out data that is checked against itself is a slip of the hand.

    Raises:
        ConfigError: a file is given as both.
    """
    given = {Path(split_count(spec)[0]).resolve() for spec in data}
    for spec in against:
        if Path(split_count(spec)[0]).resolve() in given:
            raise ConfigError(f"{spec} is given as data and as held-out data", fix="give other files to --against")


def _examine(
    data: Sequence[str], against: Sequence[str], format_name: str | None, encoder: Encoder | None, *, fixing: bool
) -> Examination:
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    console = stderr()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        held, places = _read_held_out(against, format_name, lambda spec: _counter(progress, spec))
        # Prompts are kept only where there is something to compare them with.
        examined = Examination(encoder=encoder, fixing=fixing, comparing=len(data) > 1 or bool(against))
        for spec in data:
            advance = _counter(progress, spec)
            for item in iterate_rows(spec, format_name):
                examined.add(item)
                advance()
            examined.compare(held, places)
    return examined


def _counter(progress: Any, spec: str) -> Callable[[], None]:  # noqa: ANN401 - rich is imported late
    task = progress.add_task(f"reading {spec}", total=None)
    rows = 0

    def advance() -> None:
        nonlocal rows
        rows += 1
        if rows % _STEP == 0:
            progress.update(task, completed=rows)

    return advance


def _read_held_out(
    against: Sequence[str], format_name: str | None, count: Callable[[str], Callable[[], None]]
) -> tuple[Prompts, list[str]]:
    """Return the prompts of the held-out rows and where each stands; rows that cannot be read are told."""
    prompts, places = [], []
    unreadable: list[Quarantined] = []
    for spec in against:
        advance = count(spec)
        for item in iterate_rows(spec, format_name):
            advance()
            if isinstance(item, Quarantined):
                unreadable.append(item)
                continue
            prompts.append((prompt_keys(item), prompt_grams(item)))
            places.append(str(item.source))
    if unreadable:
        first = unreadable[0]
        stderr().print(
            f"note: {len(unreadable):,} held-out rows cannot be read and are not compared, the first: {first.source}: "
            f"{first.reason}",
            markup=False,
        )
    return join_prompts(prompts), places


# --- the report -------------------------------------------------------------------------------------------------------


def _problem_json(problem: Problem) -> dict[str, Any]:
    item = problem.item
    entry = {
        "level": problem.level,
        "code": item.code,
        "file": item.source.file,
        "line": item.source.line,
        "field": item.field,
        "message": item.message,
        "fix": item.fix,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _profile_json(encoder: Encoder) -> dict[str, Any]:
    templates = encoder.renderer.templates
    profile: dict[str, Any] = {"origin": templates.origin, **dataclasses.asdict(encoder.renderer.profile)}
    profile["notices"] = encoder.renderer.notices()
    profile["survey"] = dict(make_survey(encoder).lines())
    return {key: value for key, value in profile.items() if value is not None}


def _print_report(report: dict[str, Any], fixed: Fixed | None) -> None:
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
    if fixed is not None:
        _print_fixed(console, fixed)


def _print_fixed(console: Console, fixed: Fixed) -> None:
    for code, count in sorted(Counter(repair["code"] for repair in fixed.repairs).items()):
        console.print(f"repaired {code}: {count:,}", style="bold green")
        for repair in [one for one in fixed.repairs if one["code"] == code][:_EXAMPLES]:
            before, after = (_shorten(repair.get(key, "")) for key in ("before", "after"))
            console.print(
                f"  {repair['file']}:{repair['line']}: {repair['field']}: {before or '(nothing)'} -> {after or '(removed)'}",
                markup=False,
            )
    for line in fixed.summary():
        console.print(line, markup=False)


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


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
