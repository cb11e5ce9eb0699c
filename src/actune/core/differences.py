"""Do two conversations say the same, and what did a conversion leave behind? See `conversion.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from actune.core.types import Conversation, ToolCall, ToolSpec
from actune.core.values import read_value

Change = Literal["layout", "arguments", "text-to-thought", "empty-system", "schema-notes", "outer-blanks"]
"""What a conversion may leave behind or rewrite without changing what a row says; see `list_changes`."""

SCHEMA_NOTES = frozenset(
    {"additionalProperties", "title", "description", "$schema", "$id", "$comment", "examples", "strict"}
)
"""Keys of a tool's parameters that say nothing about what may be called; an API list has no place for them."""

_TOOL_KEYS = {"name", "description", "parameters"}


def list_changes(before: Conversation, after: Conversation) -> set[Change]:
    """Return what `convert_style` rewrote without changing what the row says.

    `layout`: source text that is not in the normal layout; `arguments`: Python literals as JSON; `text-to-thought`:
    text beside a call became its Thought; `empty-system`: an empty system message left out; `schema-notes`: keys of a
    tool that an API list has no place for; `outer-blanks`: blanks around texts, which ReAct text does not count.
    """
    if before is after:
        return set()
    found: set[Change] = set()
    if before.system_source is not None and after.system_source is None:
        found.add("layout")
    if after.style == "chat":
        if any(message.source_text is not None for message in before.messages):
            found.add("layout")
        if _arguments(before) != _arguments(after):
            found.add("arguments")
    elif before.style == "chat":
        if any(message.tool_calls and message.content for message in before.messages):
            found.add("text-to-thought")
        if before.messages[0].role == "system" and not before.messages[0].content:
            found.add("empty-system")
        if any(
            (tool.source or {}).keys() - _TOOL_KEYS or tool.parameters.keys() & SCHEMA_NOTES for tool in before.tools
        ):
            found.add("schema-notes")
        if any(message.source_text is not None for message in after.messages):
            found.add("outer-blanks")
    return found


def _arguments(conversation: Conversation) -> list[str]:
    return [call.arguments for message in conversation.messages for call in message.tool_calls]


def find_difference(one: Conversation, other: Conversation) -> str | None:
    """Return the place of the first difference in what two conversations say (`messages[2].content`), None if none.

    Ids of calls are names only: what counts is which result answers which call. Python literals equal their JSON.
    """
    if one.style != other.style:
        return "style"
    if one.id != other.id:
        return "id"
    for number, (left, right) in enumerate(zip(one.tools, other.tools, strict=False)):
        if _tool_facts(left) != _tool_facts(right):
            return f"tools[{number}]"
    if len(one.tools) != len(other.tools):
        return "tools"
    for index, (left, right) in enumerate(zip(_facts(one), _facts(other), strict=False)):
        for key, value in left.items():
            if value != right[key]:
                return f"messages[{index}].{key}"
    return "messages" if len(one.messages) != len(other.messages) else None


def _tool_facts(tool: ToolSpec) -> tuple[object, ...]:
    return (tool.name, tool.description, schema_essence(tool.parameters))


def _facts(conversation: Conversation) -> Iterator[dict[str, object]]:
    native = conversation.style == "chat"
    open_calls: list[ToolCall] = []
    for message in conversation.messages:
        answers: object = None
        name = message.name
        if message.role == "tool":
            found = [n for n, call in enumerate(open_calls) if call.id == message.tool_call_id] if native else []
            answers = found[0] if found and message.tool_call_id is not None else 0
            if open_calls:
                call = open_calls.pop(int(answers))
                answers = (call.name, _value(call.arguments) if native else call.arguments)
                name = None if name == call.name else name
        else:
            open_calls = list(message.tool_calls)
        yield {
            "role": message.role,
            "content": message.content,
            "reasoning": message.reasoning,
            "tool_calls": [(call.name, _value(call.arguments) if native else call.arguments) for call in open_calls]
            if message.role == "assistant"
            else [],
            "tool_call_id": answers,
            "name": name,
            "train": message.train,
            "weight": message.weight,
        }


def _value(text: str) -> str:
    """Return the arguments in a form that is equal for equal values: 1 is neither 1.0 nor true, NaN is NaN."""
    try:
        value = read_value(text)
        return text if value is None else repr(value)
    except RecursionError:
        return text


# --- schemas ---


def same_schema(read: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether two JSON Schemas of parameters demand the same; notes and the order of keys do not count."""
    return schema_essence(read) == schema_essence(given)


def schema_essence(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a schema demands, in a form that compares equal however it is written."""
    rest = {key: value for key, value in schema.items() if key not in SCHEMA_NOTES}
    required = rest.pop("required", None)
    properties = rest.pop("properties", None)
    entries = properties if isinstance(properties, Mapping) else {}
    rest["required"] = sorted(map(str, required)) if isinstance(required, (list, tuple)) else []
    rest["properties"] = {name: _entry(entry) for name, entry in entries.items()}
    return rest


def _entry(entry: object) -> object:
    if not isinstance(entry, Mapping):
        return entry
    kept = {key: value for key, value in entry.items() if not (key == "description" and value == "")}
    kind = kept.get("type")
    return kept | {"type": kind.lower()} if isinstance(kind, str) else kept
