"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer.json does. They have names; the pattern decides.

llama.cpp's patterns were read from `llm_tokenizer_bpe` of `src/llama-vocab.cpp` (November 2026). Only those are here whose
pattern there means the same; Tekken's and GPT-4o's are written there with ASCII letters, so they cut some scripts otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)")
_GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
)
_QWEN2 = tuple(rf"{first}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}" for first in _CONTRACTIONS)
_LLAMA3 = tuple(rf"{first}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}" for first in _CONTRACTIONS)
_QWEN35 = tuple(
    rf"{first}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for first in _CONTRACTIONS
)
_BY_PATTERN = {
    **dict.fromkeys(_GPT2, "gpt-2"),
    **dict.fromkeys(_QWEN2, "qwen2"),
    **dict.fromkeys(_LLAMA3, "llama-bpe"),
    **dict.fromkeys(_QWEN35, "qwen35"),
}
# llama.cpp takes a whole word that is a token without its merges in these, whatever the tokenizer says.
_IGNORES_MERGES = frozenset({"llama-bpe"})
_WITH_MERGES = {"llama-bpe": "dbrx"}  # the same pattern, with merges


def find_pre_tokenizer(pre_tokenizer: Mapping[str, Any] | None, *, ignores_merges: bool) -> tuple[str | None, str]:
    """Return (name in llama.cpp, ""), or (None, why there is none) for the `pre_tokenizer` of a tokenizer.json."""
    steps = _flatten(pre_tokenizer)
    if not steps or steps[-1].get("type") != "ByteLevel":
        return None, "its text is not cut into bytes at the end (ByteLevel)"
    last, before = steps[-1], steps[:-1]
    if last.get("add_prefix_space"):
        return None, "it puts a blank before a text (add_prefix_space)"
    name = _find(before, last.get("use_regex", True))
    if name is None:
        shown = ", ".join(_describe(step) for step in steps)
        return None, f"no pre-tokenizer of llama.cpp cuts text as it does: {shown}"
    if ignores_merges == (name in _IGNORES_MERGES):
        return name, ""
    if not ignores_merges:
        return _WITH_MERGES[name], ""
    return None, f"it takes whole words without merges (ignore_merges), llama.cpp's {name!r} does not"


def _find(before: list[Mapping[str, Any]], regex: bool) -> str | None:
    if regex and not before:
        return "gpt-2"
    if len(before) != 1:
        return None
    step = before[0]
    if regex:
        digits = step.get("type") == "Digits" and step.get("individual_digits") is True
        return "smollm" if digits else None
    pattern = step.get("pattern")
    plain = step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")
    return _BY_PATTERN.get(str(pattern.get("Regex"))) if plain and isinstance(pattern, Mapping) else None


def _flatten(step: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [one for inner in step.get("pretokenizers", ()) for one in _flatten(inner)]
    return [step]


def _describe(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    return f"{step.get('type')} {pattern}" if pattern is not None else str(step.get("type"))
