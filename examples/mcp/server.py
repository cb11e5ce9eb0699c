"""A small MCP server: notes that live as long as it runs. `python server.py` speaks over stdin and stdout.

It needs `pip install 'actune[agent]'`, which brings the package mcp. `mcp.json` beside it starts it.
"""

import asyncio

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("notes")
NOTES: dict[str, str] = {}


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def list_notes() -> list[str]:
    """List the titles of all notes."""
    return sorted(NOTES)


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def read_note(title: str) -> str:
    """Read a note by its title."""
    if title not in NOTES:
        return f"there is no note {title!r}; there are: {', '.join(sorted(NOTES)) or 'none'}"
    return NOTES[title]


@server.tool()
def write_note(title: str, text: str) -> str:
    """Write a note; one of the same title is replaced."""
    NOTES[title] = text
    return f"written: {title}"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def delete_note(title: str) -> str:
    """Delete a note for good."""
    return "deleted" if NOTES.pop(title, None) is not None else "there was no such note"


@server.tool()
async def remind(text: str, seconds: float) -> str:
    """Wait some seconds, then give the text back."""
    await asyncio.sleep(seconds)
    return text


if __name__ == "__main__":
    server.run()
