"""Do the arguments of a call fit the tool's schema? In words that a model can act on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from actune.core.schema import loosen
from actune.core.types import ToolSpec

# More than these are counted, not listed: the model reads the text.
_SHOWN = 5


def find_problems(spec: ToolSpec, arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the arguments of a call, one text a problem; empty where they fit.

    A flat parameter list says which parameters there are and which are required, often with a type that is prose;
    only what it says in JSON Schema's own words is checked, and a string may be any value. Of a schema that is none,
    or refers to other files, only the required names are checked.
    """
    listed = spec.parameter_list is not None
    schema = loosen(spec.parameters) if listed else dict(spec.parameters)
    try:
        text = json.dumps(schema, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return _find_missing(schema, arguments)
    validator = _validator(text)
    if validator is None:
        return _find_missing(schema, arguments)
    try:
        errors = sorted(validator.iter_errors(arguments), key=lambda error: [str(part) for part in error.absolute_path])
    except Exception:  # noqa: BLE001 - unresolvable references, patterns that are no regular expressions, endless depth
        return _find_missing(schema, arguments)
    problems = list(dict.fromkeys(_describe(error) for error in errors))
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], f"and {more} more"] if more > 0 else problems


def _find_missing(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    required = schema.get("required")
    names = required if isinstance(required, (list, tuple)) else ()
    return [f"{name!r} is required" for name in names if isinstance(name, str) and name not in arguments]


def _describe(error: Any) -> str:  # noqa: ANN401 - jsonschema is imported late
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    message = error.message
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        message = f"{', '.join(repr(name) for name in missing)} is required"
    elif len(message) > 200:
        value = json.dumps(error.instance, ensure_ascii=False, default=str)
        value = value if len(value) <= 80 else value[:77] + "..."
        message = f"{value} does not fit {error.validator!r}: {_shorten(error.validator_value)}"
    return f"{path}: {message}" if path else message


def _shorten(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:  # noqa: ANN401 - jsonschema is imported late
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    parsed = json.loads(schema)
    try:
        Draft202012Validator.check_schema(parsed)
    except (SchemaError, RecursionError):
        return None
    # An empty registry of our own: a schema must never make the program fetch a URL.
    return Draft202012Validator(parsed, registry=Registry())
