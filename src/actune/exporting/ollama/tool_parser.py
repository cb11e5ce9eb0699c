"""How Ollama takes calls out of an output: by the marker in the template, the names of tools, and the first JSON object.

Written after its `tools/template.go` and `tools/tools.go` (2026), so that an export can show that its calls are found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from actune.exporting.ollama.nodes import Call, Expression, If, Node, Path, Range, Text, join_texts


def find_marker(nodes: Sequence[Node]) -> str:
    """Return what Ollama takes for the beginning of calls: the first text behind `if .ToolCalls`, up to a brace."""
    found = _find_call_node(nodes)
    text = _first_text(found.then) if found is not None else None
    return (text or "").split("{", 1)[0].strip() or "{"


def find_call(output: str, marker: str, names: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the first call of an output as Ollama reads it, None where it finds none."""
    at = output.find(marker)
    if at < 0:
        return None
    text = output[at:]
    places = sorted((text.find(name), -len(name), name) for name in names if name in text)
    if not places:
        return None
    name = places[0][2]
    decoder = json.JSONDecoder()
    for start, character in enumerate(text):
        if character != "{":
            continue
        try:
            found, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        arguments = _find_arguments(found, name)
        return name, arguments if arguments is not None else found
    return None


def _find_arguments(value: dict[str, Any], name: str) -> dict[str, Any] | None:
    if "name" in value:
        return _as_map(value.get("arguments")) or _as_map(value.get("parameters")) or {}
    own = _as_map(value.get(name))
    if own is not None:
        return own
    for inner in value.values():
        for child in inner if isinstance(inner, list) else [inner]:
            found = _find_arguments(child, name) if isinstance(child, dict) else None
            if found is not None:
                return found
    return None


def _as_map(value: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def _find_call_node(nodes: Sequence[Node]) -> If | None:
    for node in nodes:
        if isinstance(node, If) and _names_calls(node.condition):
            return node
        parts = (node.then, node.other) if isinstance(node, If) else (node.body,) if isinstance(node, Range) else ()
        for part in parts:
            found = _find_call_node(part)
            if found is not None:
                return found
    return None


def _names_calls(condition: Expression) -> bool:
    given = condition.arguments if isinstance(condition, Call) else (condition,)
    return any(isinstance(one, Path) and one.text == ".ToolCalls" for one in given)


def _first_text(nodes: Sequence[Node]) -> str | None:
    for node in join_texts(nodes):
        if isinstance(node, Text):
            if node.text.strip():
                return node.text
            continue
        parts = (node.then, node.other) if isinstance(node, If) else (node.body,) if isinstance(node, Range) else ()
        for part in parts:
            found = _first_text(part)
            if found is not None:
                return found
        return None
    return None
