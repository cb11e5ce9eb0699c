"""Any values, written as a recipe or as flags, are read back as they are."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.config.conflicts import find_conflicts
from actune.config.fields import Leaf, list_groups, list_leaves
from actune.config.load import load_settings
from actune.config.settings import Settings
from actune.core.errors import ConfigError

WORDS = st.one_of(
    st.sampled_from(["no", "on", "1e5", "007", "2024-01-01", "#x", "a: b", "卡卡罗特", "-1", "-x", "{", "True", " a"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8),
).filter(lambda word: not word.startswith("--") and word.strip() and word not in ("null", "~"))


def draw_value(leaf: Leaf) -> st.SearchStrategy[object]:
    if leaf.kind == "text":
        return WORDS
    if leaf.kind == "texts":
        return st.lists(WORDS, min_size=1, max_size=2).map(tuple)
    if leaf.kind == "pairs":
        named = st.dictionaries(st.sampled_from(["thought", "stop"]), st.floats(1e-12, 0.999), min_size=1)
        return named.map(lambda values: tuple(f"{name}={value}" for name, value in values.items()))
    if leaf.kind == "whole":
        return st.integers(1, 2**31)
    if leaf.kind == "number":
        return st.floats(1e-12, 0.999)
    if leaf.kind == "switch":
        return st.just(False)  # overwrite has rules of its own
    if leaf.kind == "choice":
        return st.sampled_from(leaf.choices)
    return st.dates(datetime.date(1000, 1, 1))


VALUES = (
    st.fixed_dictionaries(
        {leaf.name: draw_value(leaf) for leaf in list_leaves()[:1]},
        optional={leaf.name: draw_value(leaf) for leaf in list_leaves()[1:]},
    )
    .map(lambda values: {"dataset": ("a",), "model_name": ("a",), "model_author": ("b",), **values})
    .filter(lambda values: not find_conflicts(Settings.model_validate(nest(values))))
)


def nest(values: dict[str, object]) -> dict[str, dict[str, object]]:
    nested: dict[str, dict[str, object]] = {group: {} for group in list_groups()}
    for leaf in list_leaves():
        if leaf.name in values:
            value = values[leaf.name]
            nested[leaf.group][leaf.name] = list(value) if isinstance(value, tuple) else value
    return nested


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_recipe_and_flags_read_back_the_same_values(values: dict[str, object]) -> None:
    expected = Settings.model_validate(nest(values))
    flags: list[str] = []
    for name, value in values.items():
        flags += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    assert load_settings(None, flags) == expected
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "r.yaml"
        recipe.write_text(yaml.safe_dump(nest(values), allow_unicode=True), encoding="utf-8")
        assert load_settings(recipe, []) == expected


def read_or_explain(recipe: Path | None, words: list[str]) -> str:
    """Return the error's message, empty where the settings are fine; anything but a ConfigError fails the test."""
    try:
        load_settings(recipe, words)
    except ConfigError as error:
        return error.message
    return ""


FLAGS = st.sampled_from(["--seed", "--dataset", "--x", "--", "--=", "--resume", "-seed", ""])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(WORDS, FLAGS)))
def test_any_words_give_settings_or_one_error(words: list[str]) -> None:
    assert read_or_explain(None, words)  # no model is ever named


PIECES = st.sampled_from([*"{}[]:-#&*!|>'% \n", "data", "dataset", "seed", "model", "a", "1", "~"])


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_recipe_gives_settings_or_one_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "r.yaml"
        recipe.write_text(text, encoding="utf-8")
        message = read_or_explain(recipe, ["--model", "m", "--dataset", "a"])
        assert not message or str(recipe) in message
