"""Content as a list of typed blocks: one message of reasoning, text and calls, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actune.core.errors import DataError
from actune.core.types import ToolCall
from actune.formats.fields import kind, read_text
from actune.formats.tools import read_calls

_TEXT = {"text", "input_text", "output_text", "refusal"}
_REASONING = {"reasoning", "thinking", "reasoning_text"}
_CALLS = {"tool_call", "tool_calls", "function_call"}
_TEXT_KEYS = ("text", "value", "refusal")
_REASONING_KEYS = ("value", "text", "thinking", "reasoning")
_RESULT_KEYS = ("content", "text", "value", "output")
# Blocks that only Anthropic messages have.
_ANTHROPIC = {"tool_use", "tool_result", "redacted_thinking"}
_RANKS = ("reasoning", "text", "a call")


@dataclass(slots=True)
class Content:
    """What the content of one message says."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


def read_content(
    value: object, place: str, repairs: list[str], *, results: bool = False, anthropic: bool = False
) -> Content:
    """Return the content of a message: a string, null, or typed blocks, whose texts are joined as they are.

    `results`: of a tool's message, where a block may be a result; `anthropic`: calls are `tool_use` blocks.

    Raises:
        DataError: code `content-type`, `content-block`, `block-order`, and those of `read_calls`.
    """
    if value is None:
        return Content()
    if isinstance(value, str):
        return Content(text=value)
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"{place} is {kind(value)}; a string, null or a list of typed blocks is needed",
            code="content-type",
            field=place,
            fix=f"make {place} a string",
        )
    content = Content()
    thoughts: list[str] = []
    rank = 0
    for index, block in enumerate(value):
        spot = f"{place}[{index}]"
        found = read_type(block, spot)
        now = _rank(found, results=results, anthropic=anthropic)
        if now is None:
            raise _unknown(found, spot, anthropic=anthropic)
        if now < rank:
            raise DataError(
                f"{spot} is {_RANKS[now]} after {_RANKS[rank]}; a message holds reasoning, then text, then calls",
                code="block-order",
                field=spot,
                fix="put the blocks in this order, or make two messages of them",
            )
        rank = now
        if now == 0:
            thoughts.append(block_text(block, _REASONING_KEYS, spot))
        elif now == 1:
            content.text += block_text(block, _RESULT_KEYS if found == "tool_result" else _TEXT_KEYS, spot)
        elif found == "tool_use":
            content.calls += _read_use(block, spot, repairs)
        else:
            inner = next((block[key] for key in ("value", found) if block.get(key) is not None), block)
            content.calls += read_calls(inner, spot, repairs)
    content.reasoning = "\n".join(thoughts)
    return content


def _read_use(block: Mapping[str, Any], place: str, repairs: list[str]) -> tuple[ToolCall, ...]:
    try:
        return read_calls(
            {"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}, place, repairs
        )
    except DataError as error:
        where = error.field if error.field is None else error.field.replace(f"{place}.arguments", f"{place}.input")
        raise DataError(error.message, code=error.code, field=where, fix=error.fix) from None


def _rank(found: str, *, results: bool, anthropic: bool) -> int | None:
    """Return the place of a type of blocks in a message (see _RANKS); None for one that has none."""
    if found in _REASONING:
        return 0
    if found in _TEXT or (results and found == "tool_result"):
        return 1
    return 2 if found in ({"tool_use"} if anthropic else _CALLS) else None


def read_type(block: object, place: str) -> str:
    """Return the type of a block.

    Raises:
        DataError: code `content-block` for what is no typed block.
    """
    found = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(found, str):
        raise block_fault(f"{place} is no typed block", place)
    return found


def block_text(block: Mapping[str, Any], keys: tuple[str, ...], place: str) -> str:
    """Return the text of a block, which stands under the first of `keys` that is there, maybe under `value` in it.

    Raises:
        DataError: code `content-block` or `content-type`.
    """
    key = next((key for key in keys if block.get(key) is not None), None)
    if key is None:
        raise block_fault(f"{place} has no text", place)
    value = block[key]
    if isinstance(value, Mapping) and isinstance(value.get("value"), str):
        return value["value"]
    if isinstance(value, (list, tuple)):  # blocks in a block
        return "".join(_inner_text(inner, f"{place}.{key}[{index}]") for index, inner in enumerate(value))
    return read_text(value, f"{place}.{key}")


def _inner_text(block: Mapping[str, Any], place: str) -> str:
    found = read_type(block, place)
    if found not in _TEXT:
        raise _unknown(found, place, anthropic=False)
    return block_text(block, _TEXT_KEYS, place)


def _unknown(found: str, place: str, *, anthropic: bool) -> DataError:
    hint = " (such rows are of the format anthropic)" if found in _ANTHROPIC and not anthropic else ""
    return block_fault(f"{place} is a block of type {found!r}, which cannot be trained on{hint}", place)


def block_fault(what: str, place: str) -> DataError:
    """Return the error of a block that cannot be read."""
    return DataError(
        what, code="content-block", field=place, fix='known blocks: {"type": "text" | "reasoning" | "tool_call", ...}'
    )


def is_anthropic(row: Mapping[str, Any]) -> bool:
    """Whether a row of `messages` has what only Anthropic messages have."""
    if isinstance(row.get("system"), (list, tuple)):
        return True
    tools = row.get("tools")
    if isinstance(tools, (list, tuple)) and any(isinstance(tool, Mapping) and "input_schema" in tool for tool in tools):
        return True
    for item in row["messages"]:
        content = item.get("content")
        if item.get("role") in ("user", "assistant") and isinstance(content, (list, tuple)):
            types = (block.get("type") for block in content if isinstance(block, Mapping))
            if any(isinstance(found, str) and found in _ANTHROPIC for found in types):
                return True
    return False
