"""Reading the JSON Schema of a tool's parameters as it stands in real data, which is not always JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Names of types as Python and others write them.
_ALIASES: Mapping[str, str] = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number", "double": "number",
    "bool": "boolean", "dict": "object", "map": "object", "list": "array", "tuple": "array", "none": "null",
}  # fmt: skip
_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_KEYWORDS = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "default", "const"})


def find_properties(schema: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """Return the properties of a schema by name; without `properties`, objects under other names are taken for some."""
    if not isinstance(schema, Mapping):
        return {}
    if isinstance(schema.get("properties"), Mapping):
        return dict(schema["properties"])
    if schema.get("type", "object") not in ("object", "dict"):
        return {}
    return {name: entry for name, entry in schema.items() if isinstance(entry, Mapping) and name not in _KEYWORDS}


def find_types(schema: Any) -> frozenset[str]:  # noqa: ANN401 - any JSON
    """Return the types that a schema names; of several choices all, of a list of texts to choose from `string`."""
    if not isinstance(schema, Mapping):
        return frozenset()
    kinds = schema.get("type")
    found = {
        _read_name(kind) for kind in (kinds if isinstance(kinds, (list, tuple)) else [kinds]) if isinstance(kind, str)
    }
    for options in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(options, (list, tuple)):
            for option in options:
                found |= find_types(option)
    values = schema.get("enum")
    if not found and isinstance(values, (list, tuple)) and values and all(isinstance(value, str) for value in values):
        found.add("string")
    if schema.get("nullable") is True:
        found.add("null")
    return frozenset(found)


def loosen(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a flat parameter list with only what such a list can say."""
    properties = schema.get("properties")
    loose: dict[str, Any] = {}
    for name, entry in properties.items() if isinstance(properties, Mapping) else ():
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        loose[name] = {"type": kind} if isinstance(kind, str) and kind in _TYPES and kind != "string" else {}
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, (list, tuple)) else []
    return {"type": "object", "properties": loose, "required": list(dict.fromkeys(names))}


def _read_name(kind: str) -> str:
    """Return a type's name as JSON Schema has it; some write more behind it, as in `str, optional`."""
    name = kind.split(",")[0].strip().lower()
    return _ALIASES.get(name, name)
