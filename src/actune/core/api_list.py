"""The API list that a ReAct system text begins with, and tools: one written as the other, byte for byte.

The layout is the one of the reference recipe ("Agent fine-tuning best practices"): numbered entries
`name: description Parameters: [...]`, then the format to use. Chinese instructions stand around the same markers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actune.core.errors import DataError
from actune.core.schema import find_properties
from actune.core.types import ToolSpec
from actune.core.values import read_literal

Language = Literal["en", "zh"]

_HEADER: dict[Language, str] = {
    "en": "Answer the following questions as best you can. You have access to the following APIs:\n",
    "zh": "请尽你所能回答以下问题。你可以使用以下API：\n",
}
_FOOTER: dict[Language, str] = {
    "en": (
        "Use the following format:\n\n"
        "Thought: you should always think about what to do\n"
        "Action: the action to take, should be one of the above tools[{names}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n"
        "Begin!"
    ),
    "zh": (
        "请使用以下格式：\n\n"
        "Thought: 你应该始终思考要做什么\n"
        "Action: 要采取的动作，必须是上述工具之一[{names}]\n"
        "Action Input: 动作的输入\n"
        "Observation: 动作的结果\n"
        "...（Thought/Action/Action Input/Observation 可以重复零次或多次）\n"
        "Thought: 我现在知道最终答案了\n"
        "Final Answer: 对原始问题的最终答案\n"
        "开始！"
    ),
}
_PARAMETERS = "Parameters: "
_JSON_TYPES = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number", "double": "number",
    "bool": "boolean", "list": "array", "tuple": "array", "dict": "object", "map": "object", "json": "object",
}  # fmt: skip


def write_system(system: str, tools: Sequence[ToolSpec], language: Language = "en") -> str:
    """Return the system text with the API block; a user system text comes first, a blank line between."""
    if not tools:
        return system
    entries = [f"{number}. {_write_api(tool)}\n\n" for number, tool in enumerate(tools, 1)]
    names = ", ".join(tool.name for tool in tools)
    block = _HEADER[language] + "".join(entries) + _FOOTER[language].replace("{names}", names)
    return f"{system}\n\n{block}" if system else block


@dataclass(frozen=True, slots=True)
class ApiBlock:
    """A system text, read: the user's own part, the tools, the language, and the tools whose list was repaired."""

    system: str
    tools: tuple[ToolSpec, ...]
    language: Language
    repaired: tuple[str, ...]


def read_system(text: str) -> ApiBlock | None:
    """Split a system text into the user's own part and the tools; None when it has no API block.

    Text after the block is kept as a second part of the user's own text. A parameter list with unescaped quotes inside
    its strings is still read; the tools concerned are named in `repaired`.

    Raises:
        DataError: code `api-list-unreadable` when the header is there and the list cannot be read.
    """
    for language, header in _HEADER.items():
        at = text.find(header)
        if at >= 0:
            tools, repaired, end = _read_apis(text, at + len(header), language)
            parts = [text[:at].removesuffix("\n\n"), text[end:].strip()]
            return ApiBlock("\n\n".join(part for part in parts if part), tools, language, repaired)
    return None


def _write_api(tool: ToolSpec) -> str:
    described = f"{tool.name}: {tool.description} " if tool.description else f"{tool.name}: "
    listed = tool.parameter_list if tool.parameter_list is not None else list_parameters(tool.parameters)
    return described + _PARAMETERS + json.dumps(list(listed), ensure_ascii=False)


def _read_apis(text: str, position: int, language: Language) -> tuple[tuple[ToolSpec, ...], tuple[str, ...], int]:
    opening = _FOOTER[language].split("\n", 1)[0]
    closing = _FOOTER[language].rsplit("\n", 1)[1]
    tools: list[ToolSpec] = []
    repaired: list[str] = []
    while True:
        position = _skip_blanks(text, position)
        head = re.compile(rf"{len(tools) + 1}\. ([^:\n]+):[ ]?").match(text, position)
        if head is None:
            break
        tool, position, strict = _read_api(text, head.group(1).strip(), head.end(), len(tools) + 1, opening)
        tools.append(tool)
        if not strict:
            repaired.append(tool.name)
    if not text.startswith(opening, position) or not tools:
        raise _api_fault(f"entry {len(tools) + 1} is neither '{len(tools) + 1}. name: ...' nor the end", text, position)
    end = text.find(closing, position)
    names = [tool.name for tool in tools]
    if len(set(names)) != len(names):
        raise _api_fault("a tool name stands twice", text, position)
    return tuple(tools), tuple(repaired), end + len(closing) if end >= 0 else len(text)


def _read_api(text: str, name: str, start: int, number: int, opening: str) -> tuple[ToolSpec, int, bool]:
    """Read one entry; the description may contain anything, so the list that is followed by the next entry counts."""
    follow = re.compile(rf"\s*(?:{number + 1}\. [^:\n]+:|{re.escape(opening)})")
    bound = re.compile(rf"\n\s*(?:{number + 1}\. [^:\n]+:|{re.escape(opening)})").search(text, start)
    limit = bound.start() if bound is not None else len(text)
    places = [match.start() for match in re.finditer(re.escape(_PARAMETERS), text[start:])]
    near = [start + place for place in places if start + place < limit]
    far = [start + place for place in places if start + place >= limit]
    for candidates, strict in ((near, True), (near, False), (far, True)):
        for at in candidates:
            read = _read_list if strict else _read_loose_list
            parsed = read(text, at + len(_PARAMETERS))
            if parsed is not None and follow.match(text, parsed[1]):
                listed, end = parsed
                description = text[start:at].removesuffix(" ")
                schema = schema_of_list(listed)
                tool = ToolSpec(name=name, description=description, parameters=schema, parameter_list=listed)
                return tool, end, strict
    raise _api_fault(f"entry {number} ({name}) has no readable 'Parameters: [...]'", text, start)


def _read_list(text: str, start: int) -> tuple[tuple[Mapping[str, Any], ...], int] | None:
    value: object
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        value = read_literal(text[start:end])
    if not isinstance(value, list):
        return None
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
        return None
    return tuple(value), end


# A string value ends at the first quote that a key or the end of the object follows: quotes before it are text.
_LOOSE_STRING = re.compile(r'"(.*?)"(?=\s*(?:,\s*"[^"\n]+"\s*:|\}))')
_LOOSE_KEY = re.compile(r'[{,]\s*"([^"\n]+)"\s*:\s*')


def _read_loose_list(text: str, start: int) -> tuple[tuple[Mapping[str, Any], ...], int] | None:
    """Read a flat list whose strings hold unescaped quotes, as dumps of dumps have them; None when it is not one."""
    stop = text.find("\n", start)
    line = text[start : stop if stop >= 0 else len(text)].rstrip()
    if not (line.startswith("[{") and line.endswith("}]")):
        return None
    items: list[dict[str, Any]] = []
    item: dict[str, Any] = {}
    place = 1
    while place < len(line) - 1:
        key = _LOOSE_KEY.match(line, place)
        if key is None:
            return None
        if line[place] == "{":
            item = {}
            items.append(item)
        string = _LOOSE_STRING.match(line, key.end())
        try:
            if string is not None:
                item[key.group(1)], place = string.group(1), string.end()
            else:
                item[key.group(1)], place = json.JSONDecoder().raw_decode(line, key.end())
        except (ValueError, RecursionError):
            return None
        between = re.compile(r"\s*\}(?:\s*,\s*(?=\{))?\s*").match(line, place)
        place = between.end() if between is not None else place
    if not all(isinstance(entry.get("name"), str) for entry in items):
        return None
    return tuple(items), start + len(line)


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in "\n\r ":
        position += 1
    return position


def _api_fault(what: str, text: str, position: int) -> DataError:
    return DataError(
        f"the API list of the system text cannot be read: {what}. Text: {text[position : position + 80]!r}",
        code="api-list-unreadable",
        field="system",
        fix='write each entry as \'1. name: description Parameters: [{"name": ..., "description": ..., '
        '"required": "True"}]\', a blank line between entries, then \'Use the following format:\'',
    )


# --- parameter lists and JSON Schema --------------------------------------------------------------------------------


def schema_of_list(listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON Schema of a flat parameter list; `required` may be a bool or "True"/"False" in any case."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for item in listed:
        nested = item.get("schema")
        entry = dict(nested) if isinstance(nested, Mapping) else {}
        entry |= {key: value for key, value in item.items() if key not in ("name", "required", "schema")}
        kind = entry.get("type")
        if isinstance(kind, str):
            entry["type"] = _JSON_TYPES.get(kind.lower(), kind.lower())
        properties[str(item["name"])] = entry
        if str(item.get("required", "False")).strip().lower() in ("true", "1", "yes"):
            required.append(str(item["name"]))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def list_parameters(schema: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return a JSON Schema as the reference's flat list, in the order name, description, required, then the rest.

    What an entry says under a key that the list uses itself (an object's own `required`) stands under `schema`.
    """
    required = schema.get("required")
    names = required if isinstance(required, (list, tuple)) else ()
    listed = []
    for name, entry in find_properties(schema).items():
        rest = dict(entry) if isinstance(entry, Mapping) else {}
        head = {"name": name, "description": rest.pop("description", ""), "required": str(name in names)}
        listed.append(head | ({"schema": rest} if rest.keys() & {"name", "required", "schema"} else rest))
    return tuple(listed)
