"""What a tool of an MCP server gave, as the text of an Observation: everything that is text, and a word on the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from actune.agents.tools.tool import ToolFailure

if TYPE_CHECKING:
    from mcp_types import CallToolResult


def read_result(result: CallToolResult) -> str | ToolFailure:
    """Return the blocks of a result, a line break between them; `structuredContent` where there is no text.

    Images, sounds and files cannot be shown to a language model here: a placeholder says what was left out, and its
    size. A result that the server marks as an error is the failure `tool-failed` with the same text.
    """
    parts = [_write_block(block) for block in result.content]
    has_text = any(block.type in ("text", "resource") for block in result.content)
    if result.structured_content is not None and not has_text:
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False))
    text = "\n".join(parts)
    if result.is_error:
        return ToolFailure("tool-failed", text or "the tool failed and gave no reason")
    return text


def _write_block(block: Any) -> str:  # noqa: ANN401 - one of the content blocks of mcp, which is imported late
    if block.type == "text":
        return block.text
    if block.type in ("image", "audio"):
        return f"[{block.type} {block.mime_type}, {_size(block.data)}: not shown]"
    if block.type == "resource_link":
        kind = f", {block.mime_type}" if block.mime_type else ""
        return f"[link to {block.uri}{kind}: not opened]"
    resource = block.resource
    text = getattr(resource, "text", None)
    if text is not None:
        return text
    return f"[file {resource.uri} {resource.mime_type or 'of unknown type'}, {_size(resource.blob)}: not shown]"


def _size(encoded: str) -> str:
    """Return the size of what a base64 text holds."""
    return f"{len(encoded.rstrip('=')) * 3 // 4:,} bytes"
