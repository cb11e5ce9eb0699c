"""`actune eval` and `actune compare`: their flags, and one call each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from actune.cli.agents import Adapter, Base, DtypeName
from actune.cli.commands import (
    ChatTemplate,
    Dialect,
    HistoryReasoning,
    Model,
    Now,
    Overwrite,
    RawControlTokens,
    TemplateVariables,
)


def compare(
    base: Annotated[Path, Parameter(name="BASE", help="Items of the model before, by `actune eval`.")],
    tuned: Annotated[Path, Parameter(name="TUNED", help="Items of the model after.")],
    /,
    *,
    margin: Annotated[float, Parameter(help="What may be lost and still count as kept.")] = 0.02,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the comparison as JSON.")] = False,
    html: Annotated[Path | None, Parameter(help="Write the report page.")] = None,
    fail_on: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, help="Verdicts or flags that make the exit code 1, for example lost."),
    ] = None,
    overwrite: Overwrite = False,
) -> int:
    """Compare two measurements of the same items: differences with intervals, verdicts, flags."""
    from actune import recipes

    return recipes.compare(
        base=base,
        tuned=tuned,
        margin=margin,
        json_output=json_output,
        html=html,
        fail_on=fail_on or [],
        overwrite=overwrite,
    )


def evaluate(  # noqa: PLR0913 - one parameter a flag
    *,
    model: Model,
    tasks: Annotated[list[str], Parameter(consume_multiple=True, help="A task file (.yaml), or built-in: identity.")],
    out: Annotated[Path, Parameter(help="File of scored items to write, one a line.")],
    adapter: Adapter = None,
    base: Base = False,
    dtype: DtypeName = "AUTO",
    max_tokens: Annotated[int, Parameter(help="Tokens of one output.")] = 512,
    batch_size: Annotated[int, Parameter(help="Outputs generated at a time.")] = 8,
    limit: Annotated[int | None, Parameter(help="Items of each task at most.")] = None,
    model_name: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Of the identity task.")] = None,
    model_author: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Of the identity task.")] = None,
    overwrite: Overwrite = False,
    dialect: Dialect = None,
    chat_template: ChatTemplate = None,
    now: Now = None,
    history_reasoning: HistoryReasoning = None,
    raw_control_tokens: RawControlTokens = False,
    template_variables: TemplateVariables = None,
) -> int:
    """Measure a model on tasks: greedy, the same items in the same order for every model."""
    from actune import recipes

    return recipes.evaluate(
        model=model,
        adapter=adapter,
        base=base,
        dtype=dtype,
        tasks=tasks,
        out=out,
        max_tokens=max_tokens,
        batch_size=batch_size,
        limit=limit,
        model_name=model_name or [],
        model_author=model_author or [],
        overwrite=overwrite,
        dialect=dialect,
        chat_template=chat_template,
        now=now,
        history_reasoning=history_reasoning,
        raw_control_tokens=raw_control_tokens,
        template_variables=template_variables or (),
    )
