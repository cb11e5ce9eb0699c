"""Values written as text by models and data sets: JSON, or a Python literal. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import io
import itertools
import json
import math
import tokenize
from collections.abc import Iterable
from typing import Any

from actune.core.errors import ConfigError


def read_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of a text, None when it is neither JSON nor a plain Python literal."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return read_literal(text)


def read_variables(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the variables of a template written as NAME=VALUE; a value is JSON, else the text as it is.

    Raises:
        ConfigError: for a text that is no such pair, or a name that the renderer itself gives to templates.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name.isidentifier() or name in _RESERVED:
            why = "templates get it from the conversation" if name in _RESERVED else "that is not NAME=VALUE"
            raise ConfigError(f"--template_variables {pair}: {why}", fix="for example enable_thinking=false")
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError):
            found[name] = text
    return found


def read_numbers(pairs: Iterable[str], setting: str) -> dict[str, float]:
    """Return numbers of 0 or more written as NAME=NUMBER; the name is everything before the last `=`.

    Raises:
        ConfigError: for a text that is no such pair, a number below 0 or not finite, or a name that stands twice.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, sign, text = pair.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not sign or not name or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"--{setting} {pair}: that is not NAME=WEIGHT with a number of 0 or more",
                fix=f"for example --{setting} {name or 'NAME'}=0.5",
            )
        if name in found:
            raise ConfigError(f"--{setting} names {name} twice", fix="give it one weight")
        found[name] = weight
    return found


_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now"})


def read_literal(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a Python literal that JSON could hold, else None.

    Strings side by side are refused: Python would join them, and in data they are unescaped quotes.
    """
    text = text.strip()
    try:
        value = ast.literal_eval(text)
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, tokenize.TokenError):
        return None
    joined = any(one == two == tokenize.STRING for one, two in itertools.pairwise(kinds))
    return value if not joined and _is_json(value) else None


def _is_json(value: Any) -> bool:  # noqa: ANN401 - any Python literal
    if value is None or isinstance(value, (str, bool, int)):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return False
