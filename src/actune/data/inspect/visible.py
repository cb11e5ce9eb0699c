"""Text of data and models as safe HTML in which nothing is hidden: control tokens, line breaks, unseen characters."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from actune.data.inspect.words import words
from actune.render.tokenizer import MARK_CLOSE, MARK_OPEN, strip_marks

# What a reader cannot see, or what changes how other text is read: control characters other than tab and line feed,
# line and paragraph separators, direction marks, zero-width signs, tags, surrogates, and the marks of control tokens
# where they mark none. Joiners stay: emoji need them. A repeated one is named once with its count.
_UNSEEN = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    f"\ud800-\udfff\U000e0000-\U000e007f{MARK_OPEN}{MARK_CLOSE}]"
)
_LONG_RUN = 8
"""So many line breaks or tabs in a row are shown once, with their number."""


class Visible:
    """Writes text as safe HTML; `controls` matches the texts of control tokens.

    Of a text longer than `longest` (characters) only both ends are written, and how much is left out between them.
    """

    def __init__(self, controls: re.Pattern[str], *, longest: int | None = None) -> None:
        """Know the control tokens of one model and template."""
        self._longest = longest
        self._pattern = re.compile(
            f"{MARK_OPEN}(?P<literal>(?:{controls.pattern})){MARK_CLOSE}"
            f"|(?P<control>{controls.pattern})"
            r"|(?P<breaks>\n+)|(?P<tabs>\t+)|(?P<blanks> +(?=\n|\Z))"
            f"|(?P<unseen>(?P<one>{_UNSEEN})(?P=one)*)"
        )

    def show(self, text: str, *, ends_line: bool = True) -> Markup:
        """Return a text as safe HTML; marked control tokens (see `mark_control_tokens`) are shown as plain text.

        Blanks at the end of a line are shown as such; `ends_line` says whether the end of the text is one.
        """
        if (ends := self._ends(text)) is not None:
            left_out = words("left_out", n=f"{len(text) - len(ends[0]) - len(ends[1]):,}")
            middle = Markup('<span class="cut">\n… {} …\n</span>').format(left_out)
            return self.show(ends[0], ends_line=False) + middle + self.show(ends[1], ends_line=ends_line)
        parts: list[Markup] = []
        end = 0
        for found in self._pattern.finditer(text):
            parts.append(escape(text[end : found.start()]))
            inside = found["blanks"] is not None and found.end() == len(text) and not ends_line
            parts.append(escape(found.group()) if inside else _show_match(found))
            end = found.end()
        parts.append(escape(text[end:]))
        return Markup("").join(parts)

    def runs(self, text: str, *, ends_line: bool = True) -> list[str | list[str | int]]:
        """Return the same for a script to write: plain texts, and [kind, text] or [kind, text, count] of what is marked.

        The kinds are those of `RUN_KINDS`. No run holds an unseen character, a surrogate or a mark of control tokens.
        """
        if (ends := self._ends(text)) is not None:
            left_out: list[str | int] = ["x", "", len(text) - len(ends[0]) - len(ends[1])]
            return [*self.runs(ends[0], ends_line=False), left_out, *self.runs(ends[1], ends_line=ends_line)]
        runs: list[str | list[str | int]] = []
        end = 0
        for found in self._pattern.finditer(text):
            inside = found["blanks"] is not None and found.end() == len(text) and not ends_line
            white = found["breaks"] or found["tabs"]
            few = white is not None and len(white) <= _LONG_RUN
            if inside or few:
                continue
            if end < found.start():
                runs.append(text[end : found.start()])
            runs.append(_make_run(found))
            end = found.end()
        if end < len(text):
            runs.append(text[end:])
        return runs

    def _ends(self, text: str) -> tuple[str, str] | None:
        """Return both ends of a text that is too long."""
        if self._longest is None or len(text) <= self._longest:
            return None
        edge = self._longest // 2
        return text[:edge], text[-edge:]

    def label(self, text: str) -> str:
        """Return a short text as a plain string: marks removed, unseen characters by their names."""
        return "".join(run if isinstance(run, str) else str(run[1]) for run in self.runs(strip_marks(text)))


RUN_KINDS = {"literal": "l", "control": "c", "blanks": "b", "unseen": "u", "breaks": "n", "tabs": "t"}
"""Letters for what a run is: a control token read as text, one of the template, blanks at the end of a line, an unseen
character by its name, and many line breaks or tabs in a row (the last three with their number). `x` is what is left out."""

_SIGNS = {sign: Markup(f'<span class="white">{shown}</span>{sign}') for sign, shown in (("\n", "↵"), ("\t", "⇥"))}


def _show_match(found: re.Match[str]) -> Markup:
    text = found.group()
    if found["literal"] is not None:
        chip = Markup('<span class="literal" title="control token from outside, read as plain text">{}</span>')
        return chip.format(found["literal"])
    if found["control"] is not None:
        return Markup('<span class="control">{}</span>').format(text)
    if found["breaks"] is not None or found["tabs"] is not None:
        sign = "↵" if text[0] == "\n" else "⇥"
        if len(text) > _LONG_RUN:
            return Markup('<span class="mark">{} × {}</span>{}').format(sign, f"{len(text):,}", text[0])
        return _SIGNS[text[0]] * len(text)
    if found["blanks"] is not None:
        return Markup('<span class="blank">{}</span>').format(text)
    times = f" × {len(text):,}" if len(text) > 1 else ""
    return Markup('<span class="mark">U+{}{}</span>').format(f"{ord(text[0]):04X}", times)


def _make_run(found: re.Match[str]) -> list[str | int]:
    text = found.group()
    kind = next(name for name in RUN_KINDS if found[name] is not None)
    if kind == "literal":
        return [RUN_KINDS[kind], found["literal"]]
    if kind == "unseen":
        return [RUN_KINDS[kind], f"U+{ord(text[0]):04X}", len(text)]
    return [RUN_KINDS[kind], text[0], len(text)] if kind in ("breaks", "tabs") else [RUN_KINDS[kind], text]
