"""Rows of a file as a table: where each stands and the few facts that choosing among them needs; texts stay in the file."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Source, Style
from actune.data.checks.overlap import join_prompts, prompt_grams, prompt_keys
from actune.data.reading.rows import read_line
from actune.data.reading.sources import Quarantined
from actune.formats import registry

_STYLES: tuple[Style, ...] = get_args(Style)
FACTS = ("offsets", "sizes", "lines", "styles", "calls", "text_sizes", "toolsets")
"""One number a row."""
PROMPTS = ("keys", "key_offsets", "grams", "gram_offsets")
"""What users ask, as `actune.data.checks.overlap.Prompts`."""

ToolSet = tuple[frozenset[str], bool]
"""The names that a row offers or calls, and whether it offers any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What is known of rows: one array of each of `FACTS` and `PROMPTS`, and the different sets of tools."""

    columns: Mapping[str, NDArray[Any]]
    toolsets: tuple[ToolSet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table, known by its number; `load` reads it."""

    table: RowTable = field(repr=False)
    number: int

    @property
    def source(self) -> Source:
        """Where the row comes from."""
        return self.table.source(self.number)

    @property
    def place(self) -> tuple[str, int]:
        """File and line, as in `source`: where the row stands, whoever reads it."""
        return self.table.place(self.number)

    @property
    def style(self) -> Style:
        """What the row was written in."""
        return _STYLES[self.table.facts["styles"][self.number]]

    @property
    def tool_names(self) -> frozenset[str]:
        """Names of the tools that the row offers or calls."""
        return self.table.toolsets[self.table.facts["toolsets"][self.number]][0]

    @property
    def has_tools(self) -> bool:
        """Whether the row offers tools."""
        return self.table.toolsets[self.table.facts["toolsets"][self.number]][1]

    @property
    def calls(self) -> bool:
        """Whether an assistant message of the row calls a tool."""
        return bool(self.table.facts["calls"][self.number])

    @property
    def text_size(self) -> int:
        """Characters of all messages."""
        return int(self.table.facts["text_sizes"][self.number])

    def load(self) -> Conversation:
        """Read the row from its file."""
        return self.table.load(self.number)


class RowTable:
    """The readable rows of one file, in its order, and what could not be read of it."""

    def __init__(
        self,
        *,
        name: str,
        shown: str,
        format_name: str,
        facts: TableFacts,
        quarantined: Sequence[Quarantined] = (),
        path: Path | None = None,
        key: str = "",
        conversations: Sequence[Conversation] = (),
    ) -> None:
        """Describe rows of the file `path`, or rows that are in memory.

        `name` is the dataset as the user gave it, `shown` the file as errors name it; `key` stands for the content.
        """
        self.name, self.shown, self.format_name, self.path, self.key = name, shown, format_name, path, key
        self.facts, self.toolsets, self.quarantined = facts.columns, facts.toolsets, tuple(quarantined)
        self._conversations = tuple(conversations)
        self._view: mmap.mmap | None = None
        self._lines: list[int] | None = None

    def __len__(self) -> int:
        return len(self.facts["lines"])

    @property
    def in_memory(self) -> bool:
        """Whether the rows stand in no file."""
        return self.path is None

    def rows(self) -> list[Row]:
        """Return all rows."""
        return [Row(table=self, number=number) for number in range(len(self))]

    def source(self, number: int) -> Source:
        """Return where a row comes from."""
        if self.path is None:
            return self._conversations[number].source
        return Source(file=self.shown, line=int(self.facts["lines"][number]), dataset=self.name)

    def place(self, number: int) -> tuple[str, int]:
        """Return file and line of a row."""
        if self._lines is None:
            self._lines = self.facts["lines"].tolist()
        return self.shown, self._lines[number]

    def load(self, number: int) -> Conversation:
        """Return one row.

        Raises:
            ConfigError: the file is not the one any more that was looked at first.
        """
        if self.path is None:
            return self._conversations[number]
        if self._view is None:
            self._view = map_file(self.path)
        start = int(self.facts["offsets"][number])
        raw = self._view[start : start + int(self.facts["sizes"][number])]
        try:
            found = read_conversation(raw, self.source(number), self.format_name, starts_file=start == 0)
        except DataError as error:
            found, reason = None, error.message
        else:
            reason = "a row is blank now"
        if found is None:
            raise ConfigError(f"{self.shown} has changed while it was read: {reason}", fix="start again")
        return found

    @classmethod
    def of_conversations(cls, conversations: Sequence[Conversation], *, name: str) -> RowTable:
        """Return rows that are in memory as a table."""
        found = Facts()
        for conversation in conversations:
            found.add(conversation, offset=0, size=0)
        return cls(
            name=name,
            shown=name,
            format_name="",
            facts=TableFacts(columns=found.arrays(), toolsets=tuple(found.toolsets)),
            conversations=conversations,
        )


class Facts:
    """Collects what a table knows of its rows, one row after the other."""

    def __init__(self) -> None:
        """Start without rows."""
        self._toolsets: dict[ToolSet, int] = {}
        self._columns: dict[str, list[Any]] = {name: [] for name in FACTS}
        self._prompts: list[tuple[tuple[int, ...], NDArray[np.uint64]]] = []

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, conversation: Conversation, *, offset: int, size: int) -> None:
        """Add a row that stands at `offset` with `size` bytes."""
        messages = conversation.messages
        offered = frozenset(tool.name for tool in conversation.tools)
        called = frozenset(call.name for message in messages for call in message.tool_calls)
        tools = (offered | called, bool(offered))
        values = {
            "offsets": offset,
            "sizes": size,
            "lines": conversation.source.line,
            "styles": _STYLES.index(conversation.style),
            "calls": bool(called),
            "text_sizes": sum(len(message.content) for message in messages),
            "toolsets": self._toolsets.setdefault(tools, len(self._toolsets)),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._prompts.append((prompt_keys(conversation), prompt_grams(conversation)))

    @property
    def toolsets(self) -> list[ToolSet]:
        """The different sets of tools; the fact `toolsets` counts in this list."""
        return list(self._toolsets)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the facts as one array each."""
        prompts = join_prompts(self._prompts)
        facts = {name: np.array(column, dtype=_TYPES[name]) for name, column in self._columns.items()}
        return facts | {name: getattr(prompts, name) for name in PROMPTS}


_TYPES = {
    "offsets": np.int64, "sizes": np.int64, "lines": np.int64, "styles": np.int8, "calls": np.bool_,
    "text_sizes": np.int64, "toolsets": np.int32,
}  # fmt: skip


def map_file(path: Path) -> mmap.mmap:
    """Return the bytes of a file that is not empty."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_conversation(
    raw: bytes, source: Source, format_name: str, *, starts_file: bool = False
) -> Conversation | None:
    """Return the conversation of one jsonl line; None for a blank line.

    Raises:
        DataError: what is wrong with the row.
    """
    # Only line 1 may begin with a byte order mark.
    row = read_line(raw, 1 if starts_file else max(2, source.line))
    if isinstance(row, DataError):
        raise row
    return None if row is None else registry.read_row(row, source, format_name)
