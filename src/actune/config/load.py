"""A YAML recipe plus flags to Settings, or one error that lists every problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from actune.config.conflicts import Conflict, find_conflicts, settings_notices
from actune.config.fields import index_leaves, list_groups
from actune.config.flags import read_flags
from actune.config.given import Given, Problem
from actune.config.settings import Settings
from actune.config.yaml_nodes import read_recipe
from actune.core.errors import ConfigError

__all__ = ["check_settings", "dump_settings", "load_settings", "settings_notices"]

_FIX = "`actune sft --help` lists every setting with its type, default and meaning"


def load_settings(recipe: Path | None, flags: Sequence[str]) -> Settings:
    """Return the settings of a run; flags override the recipe.

    Args:
        recipe: YAML file with settings nested by group, or None.
        flags: Words of the command line after the recipe: `--name value ...`.

    Raises:
        ConfigError: Lists every problem of the file, of the flags, and of the settings together.
    """
    from_file, problems = read_recipe(recipe) if recipe is not None else ([], [])
    from_flags, flag_problems = read_flags(flags)
    problems += flag_problems
    good: dict[str, Given] = {}
    for given in [*from_file, *from_flags]:
        problem = _check_range(given)
        if problem is None:
            good[given.leaf.name] = given
        else:
            problems.append(problem)
    problems.sort(key=lambda problem: (problem.line == 0, problem.line))  # stable: flags stay as they came
    unknown = {name for problem in problems for name in problem.about}
    settings = _build(good.values())
    for conflict in find_conflicts(settings):
        if not unknown & {conflict.name, *conflict.others}:
            problems.append(_place_conflict(conflict, good))
    if problems:
        raise _report(problems)
    return settings


def check_settings(settings: Settings) -> None:
    """Check settings built in Python as those of a recipe are checked.

    Raises:
        ConfigError: Lists everything that does not fit together.
    """
    problems = [_place_conflict(conflict, {}) for conflict in find_conflicts(settings)]
    if problems:
        raise _report(problems)


def dump_settings(settings: Settings) -> dict[str, object]:
    """Return the resolved settings, JSON-ready; `Settings.model_validate` rebuilds them from it."""
    return settings.model_dump(mode="json")


def _build(given: Iterable[Given]) -> Settings:
    groups: dict[str, dict[str, object]] = {}
    for item in given:
        groups.setdefault(item.leaf.group, {})[item.leaf.name] = item.value
    return Settings.model_validate(groups)


def _check_range(given: Given) -> Problem | None:
    """Return what pydantic says about one value, in words for people."""
    leaf = given.leaf
    try:
        list_groups()[leaf.group].model_validate({leaf.name: given.value})
    except ValidationError as error:
        reason = error.errors(include_url=False, include_context=False)[0]["msg"]
        message = f"must be {leaf.bounds}, not {given.value}" if leaf.bounds else reason
        path = leaf.path if given.line else ""
        return Problem(place=given.place, path=path, message=message, about=(leaf.name,), line=given.line)
    return None


def _place_conflict(conflict: Conflict, good: Mapping[str, Given]) -> Problem:
    """Say where the value at fault was written: itself, else another one that takes part, else only its name."""
    leaf = index_leaves()[conflict.name]
    for name in (conflict.name, *conflict.others):
        if name in good:
            given = good[name]
            shown = leaf.path if given.line or name != conflict.name else ""
            return Problem(place=given.place, path=shown, message=conflict.message)
    return Problem(place="", path=f"{leaf.path} (--{leaf.name})", message=conflict.message)


def _report(problems: Sequence[Problem]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(str(problems[0]), fix=_FIX)
    lines = "\n".join(f"  {problem}" for problem in problems)
    return ConfigError(f"{len(problems)} problems in the settings:\n{lines}", fix=_FIX)
