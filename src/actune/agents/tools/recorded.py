"""Tools that answer from a file: what was observed once is observed again."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actune.agents.tools.tool import Tool, ToolFailure
from actune.agents.tools.toolbox import write_result
from actune.core.errors import ConfigError
from actune.core.types import ToolSpec

_FIX = 'write {"name": "weather", "arguments": {"city": "Hangzhou"}, "observation": "sunny"} a line'


@dataclass(slots=True)
class _Recording:
    """The observations of one tool by arguments, and how often each was asked for.

    Calls are answered in the order in which they come, over all conversations of this process.
    """

    name: str
    observations: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, arguments: dict[str, Any]) -> str | ToolFailure:
        key = _key(arguments)
        texts = self.observations.get(key)
        if texts is None:
            shown = json.dumps(arguments, ensure_ascii=False)
            return ToolFailure("not-recorded", f"no observation of {self.name} with {shown} is recorded")
        with self.lock:
            number = self.asked.get(key, 0)
            self.asked[key] = number + 1
        return texts[min(number, len(texts) - 1)]


def load_record(path: Path) -> list[Tool]:
    """Return the tools of a jsonl file of `{"name", "arguments", "observation"}`, in the order of their first lines.

    A call with the same name and arguments that are equal as JSON gets the recorded observation; the next such call the
    next one, and after the last one the last again. An observation that is no text is given as JSON. The parameters are
    inferred from the lines: their names and types, and as required those that every line has.

    Raises:
        ConfigError: the file cannot be read, a line is none of these objects, or there is none; names file and line.
    """
    recordings: dict[str, _Recording] = {}
    calls: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip():
            continue
        name, arguments, observation = _read_line(line, f"{path}:{number}")
        recording = recordings.setdefault(name, _Recording(name))
        recording.observations.setdefault(_key(arguments), []).append(observation)
        calls.setdefault(name, []).append(arguments)
    if not recordings:
        raise ConfigError(f"{path} holds no observation", fix=_FIX)
    return [
        Tool(spec=ToolSpec(name=name, parameters=infer_schema(calls[name])), call=recording.answer, inline=True)
        for name, recording in recordings.items()
    ]


def infer_schema(calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON Schema that all these arguments fit: names in the order of appearance, types as seen."""
    kinds: dict[str, list[str]] = {}
    for arguments in calls:
        for name, value in arguments.items():
            kind = _kind(value)
            seen = kinds.setdefault(name, [])
            if kind not in seen:
                seen.append(kind)
    properties = {}
    for name, seen in kinds.items():
        types = [kind for kind in seen if kind != "integer" or "number" not in seen]
        properties[name] = {"type": types[0] if len(types) == 1 else types}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [name for name in kinds if all(name in arguments for arguments in calls)]
    return schema | {"required": required} if required else schema


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="give a UTF-8 jsonl file") from error


def _read_line(line: str, where: str) -> tuple[str, dict[str, Any], str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON: {error}", fix=_FIX) from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no object", fix=_FIX)
    missing = [key for key in ("name", "arguments", "observation") if key not in row]
    extra = [key for key in row if key not in ("name", "arguments", "observation")]
    if missing or extra:
        what = f"without {', '.join(missing)}" if missing else f"with the unknown keys {', '.join(extra)}"
        raise ConfigError(f"{where} is an object {what}", fix=_FIX)
    if not isinstance(row["name"], str) or not row["name"]:
        raise ConfigError(f"{where}: name: {row['name']!r} is no name", fix=_FIX)
    if not isinstance(row["arguments"], dict):
        raise ConfigError(f"{where}: arguments: {row['arguments']!r} is no object", fix=_FIX)
    return row["name"], row["arguments"], write_result(row["observation"])


def _key(arguments: dict[str, Any]) -> str:
    return json.dumps(_normal(arguments), sort_keys=True)


def _normal(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """1.0 and 1 are the same number in JSON; true and 1 are not the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    return [_normal(item) for item in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
