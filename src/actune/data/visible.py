"""Text of data and models as safe HTML in which nothing is hidden: control tokens, line breaks, unseen characters."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from actune.render.tokenizer import MARK_CLOSE, MARK_OPEN

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
    """Writes text as safe HTML; `controls` matches the texts of control tokens."""

    def __init__(self, controls: re.Pattern[str]) -> None:
        """Know the control tokens of one model and template."""
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
        parts: list[Markup] = []
        end = 0
        for found in self._pattern.finditer(text):
            parts.append(escape(text[end : found.start()]))
            inside = found["blanks"] is not None and found.end() == len(text) and not ends_line
            parts.append(escape(found.group()) if inside else _show_match(found))
            end = found.end()
        parts.append(escape(text[end:]))
        return Markup("").join(parts)


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
        return Markup('<span class="white">{}</span>{}').format(sign, text[0]) * len(text)
    if found["blanks"] is not None:
        return Markup('<span class="blank">{}</span>').format(text)
    times = f" × {len(text):,}" if len(text) > 1 else ""
    return Markup('<span class="mark">U+{}{}</span>').format(f"{ord(text[0]):04X}", times)
