"""The examples of docs/formats.md do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actune.core.errors import DataError
from actune.core.types import Source
from actune.formats import registry

PAGE = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
EXAMPLE = re.compile(r"^## ([a-z-]+)$|^```json (accepted|rejected ([a-z-]+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str | None, str]]:
    found, section = [], ""
    for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8")):
        section = match.group(1) or section
        if match.group(4):
            found.append((section, match.group(3), match.group(4)))
    return found


@pytest.mark.parametrize(("form", "code", "text"), examples())
def test_an_example_of_the_page(form, code, text):
    row = json.loads(text)
    assert registry.detect_format([row]) == form
    if code is None:
        assert registry.read_row(row, Source(file="formats.md", line=1), form).messages
        return
    with pytest.raises(DataError) as caught:
        registry.read_row(row, Source(file="formats.md", line=1), form)
    assert caught.value.code == code


def test_the_page_shows_both_kinds_for_every_format():
    shown = {(form, code is None) for form, code, _ in examples()}
    assert shown == {(form, accepted) for form in registry.names() for accepted in (True, False)}
