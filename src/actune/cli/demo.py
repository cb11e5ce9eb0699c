"""`actune demo`: its flags, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from actune.cli.commands import Overwrite


def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder of the demo: model, rows, recipe, adapter and report.")] = Path(
        "runs/demo"
    ),
    overwrite: Overwrite = False,
) -> int:
    """Fine-tune the tiny base model of the package into an agent, and compare before and after. No network, no GPU."""
    from actune import recipes

    return recipes.demo(out=out, overwrite=overwrite)
