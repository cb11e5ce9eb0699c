"""What a docstring says of a function and its parameters, as single texts for a model."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")
# Between two of these a line break in the source is no blank in the text: Chinese, Japanese, full-width punctuation.
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")


@dataclass(frozen=True, slots=True)
class Doc:
    """The description of a function, and of the parameters that its docstring describes."""

    description: str
    parameters: dict[str, str]


def read_docstring(text: str) -> Doc:
    """Read a docstring in Google, NumPy or Sphinx style; the description is everything before the first section.

    Raises:
        ValueError: the docstring mixes up its sections.
    """
    from docstring_parser import ParseError, parse

    try:
        parsed = parse(text)
    except ParseError as error:
        raise ValueError(str(error)) from error
    parts = [part for part in (parsed.short_description, parsed.long_description) if part]
    described = {entry.arg_name: join_lines(entry.description or "") for entry in parsed.params}
    return Doc(join_lines("\n".join(parts)), described)


def join_lines(text: str) -> str:
    """Return a text as one line: a blank for a line break, none between Chinese characters; list items keep theirs."""
    joined = ""
    for line in text.splitlines():
        piece = line.strip()
        if not piece:
            continue
        if not joined:
            joined = piece
        elif _ITEM.match(line):
            joined += f"\n{piece}"
        else:
            glued = _WIDE.match(joined[-1]) and _WIDE.match(piece)
            joined += piece if glued else f" {piece}"
    return joined
