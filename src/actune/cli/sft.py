"""`actune sft [RECIPE.yaml] [--flag value ...]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_SPEAKING_SECONDS = 2.0


def sft(words: Sequence[str]) -> int:
    """Fine-tune a model; every setting is a flag and may stand in a recipe file.

    Args:
        words: Command line after `sft`: a recipe file or none, then flags as they were typed.

    Returns:
        The exit code.

    Raises:
        ConfigError: Lists everything that is wrong with the recipe and the flags.
    """
    if "--help" in words or "-h" in words:
        from actune.cli.settings_help import write_help

        sys.stdout.write(write_help())
        return 0
    from actune.config.load import load_settings
    from actune.core.errors import ConfigError

    recipe, flags = split_recipe(words)
    try:
        settings = load_settings(recipe, flags)
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        # The first process of this machine says the same. torchrun ends all processes when one ends: let it speak.
        time.sleep(_SPEAKING_SECONDS)
        return error.exit_code
    from actune import recipes

    return recipes.sft(settings)


def split_recipe(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the recipe file, if the first word is no flag, and the remaining words."""
    if words and not words[0].startswith("-"):
        return Path(words[0]), list(words[1:])
    return None, list(words)
