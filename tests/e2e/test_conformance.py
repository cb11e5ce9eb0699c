"""Real templates against transformers' own rendering: every turn exact, or refused with a reason."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROWS = (
    "plain: three rounds", "plain: reasoning, three rounds", "plain: control tokens in the question", "call: system",
    "call: two rounds with reasoning", "call: parallel with text", "arguments: nested", "arguments: null",
    "arguments: quotes, backslashes, lines", "result: control tokens",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("conformance")
    finally:
        sys.path.remove(folder)


@pytest.mark.shared
def test_every_template_is_exact_or_refuses(bench: ModuleType, shared: Path, monkeypatch: pytest.MonkeyPatch):
    everything = bench.rows()
    monkeypatch.setattr(bench, "rows", lambda: {name: everything[name] for name in ROWS})
    assets = shared / "assets"
    cases = bench.judge_templates(assets / "tokenizers" / "qwen3", assets / "chat_templates", "")
    cases += bench.judge_own([folder for folder in (assets / "tokenizers").iterdir() if folder.is_dir()])
    assert [line for case in cases for line in case.wrong] == []
    exact = Counter(title for case in cases for title, outcome in case.detail.items() if outcome == "exact")
    assert exact["plain: three rounds"] > 100
    assert min(exact[title] for title in ROWS if title.startswith(("call: system", "arguments"))) > 50


def test_the_judge_sees_what_is_wrong(bench: ModuleType):
    message = {"role": "assistant", "content": "Two words", "tool_calls": [
        {"function": {"name": "find", "arguments": {"where": "left"}}}, {"function": {"name": "find", "arguments": {}}}]}  # fmt: skip
    assert bench.lost_words(message, "Two words find where left find") == []
    assert bench.lost_words(message, "Two words find where left") == ["find"]
    assert bench.lost_words(message, "Two find find where right") == ["words", "left"]
    stops = ("<end>",)
    plain = {"content": "Two words"}
    assert (
        bench.judge_rewritten("Two words<end>", "ask<bot>\n<think>", "ask<bot>\nTwo words<end>\n", plain, stops) == ""
    )
    assert bench.judge_rewritten("Two<end>", "ask<bot>\n", "ask<bot>\nTwo words<end>\n", plain, stops) != ""
    assert bench.judge_rewritten("words<end>", "ask<bot>\n", "ask<bot>\nTwo words<end>\n", plain, stops) != ""
