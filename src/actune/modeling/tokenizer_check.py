"""Whether a saved tokenizer gives the ids that were trained on, whoever loads it and whatever lies beside it.

transformers picks the class of a tokenizer from tokenizer_config.json and from a config.json beside it, and some classes
rebuild parts of tokenizer.json. So what is saved is loaded again with AutoTokenizer, with and without a config.json, and
compared on texts that show such differences.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from actune.core.errors import ModelError
from actune.render.tokenizer import TextTokenizer, read_json

# What tokenizer classes are known to treat differently: blanks at a text's start, digits, line breaks, contractions,
# scripts with and without blanks, combined characters, bytes that are no character of the vocabulary, code.
_TEXTS = (
    "Hello, world!",
    " one blank first",
    "  two blanks, then  two",
    "\ttab\t\ttabs",
    "\n",
    "a line\n\n\nthree breaks\r\n  indented\n",
    "ends in blanks   ",
    "0 12 345 6789 12345678901234567890 3.14 1,000 2026-11-28",
    "it's I'll WE'VE they'd don't DON'T",
    "你好，世界。今天天气怎么样？ 漢字 かな カナ 한국어 ไทย हिन्दी العربية עברית Ελληνικά Русский",
    "naïve cafe\u0301 Åse İstanbul ß ﬁ ½ ① ™",
    "😀👍🏽👨‍👩‍👧🇨🇳 ☎\ufe0f",
    "def f(x):\n    return {'a': [x, 1e-5], \"b\": None}  # <b>&amp;</b>\n\n\tif x != -1: pass",
    '{"name": "get_weather", "arguments": {"city": "\\u676d\\u5dde", "days": [1, 2]}}',
    "Thought: I look.\nAction: get_weather\nAction Input: {}\nObservation: \nFinal Answer:",
    "<tag>text</tag>[INST] </s> <|x|> \u200b\u00a0\ufeff�",
    "ＦＵＬＬ ｗｉｄｔｈ　　ideographic blanks ▁ Ġ Ċ",
)
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_GROUP = 32  # added tokens in one text: some vocabularies have thousands


def probe_texts(tokenizers: Sequence[TextTokenizer]) -> Iterator[str]:
    """Yield the texts on which tokenizers are compared, among them every special and added token of each."""
    yield from _TEXTS
    tokens = list(dict.fromkeys(token for one in tokenizers for token in _added_tokens(one)))
    for start in range(0, len(tokens), _GROUP):
        yield "".join(f"a{token} b\n{token}" for token in tokens[start : start + _GROUP])


def _added_tokens(tokenizer: TextTokenizer) -> list[str]:
    if tokenizer.folder is None:
        return sorted(tokenizer.special_tokens)
    entries = read_json(tokenizer.folder / "tokenizer.json").get("added_tokens")
    contents = [entry.get("content") for entry in entries if isinstance(entry, dict)] if entries else []
    return [content for content in contents if isinstance(content, str) and content]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a saved tokenizer, loaded with AutoTokenizer, differs from the one that was used; None where it does not.

    `fault` is about the folder as it was written, `note` about its tokenizer with a config.json put beside it or taken
    away.
    """

    fault: str | None = None
    note: str | None = None


def check_saved_tokenizer(folder: Path, tokenizer: TextTokenizer) -> Verdict:
    """Load a saved tokenizer with AutoTokenizer, without and with a config.json beside it, and compare ids.

    The config.json is the folder's own, else that of the base model. Nothing is raised: what was trained must not be
    lost for what is found here.
    """
    own = folder / "config.json"
    base = tokenizer.folder / "config.json" if tokenizer.folder is not None else own
    written = _load_and_compare(folder, own if own.is_file() else None, tokenizer)
    other = None if own.is_file() else base
    changed = _load_and_compare(folder, other, tokenizer) if other is None or other.is_file() else None
    return Verdict(fault=written, note=changed)


def _load_and_compare(folder: Path, config: Path | None, tokenizer: TextTokenizer) -> str | None:
    shown = "without a config.json" if config is None else "with the model's config.json"
    try:
        with _alone(folder, config) as place, _quiet():
            loaded: Any = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        difference = _compare(lambda text: list(loaded(text, add_special_tokens=False)["input_ids"]), [tokenizer])
    except Exception as error:  # noqa: BLE001 - see above
        return f"AutoTokenizer does not load it {shown} beside it: {type(error).__name__}: {error}"
    if difference is None:
        return None
    return f"{shown} beside it, AutoTokenizer loads it as {type(loaded).__name__}, which gives other ids: {difference}"


def check_same_tokenizer(adapter: Path, base: Path) -> None:
    """Check that the tokenizer that came with an adapter is the one of its base model, where both have one.

    Raises:
        ModelError: they encode a text differently.
    """
    ours, theirs = adapter / "tokenizer.json", base / "tokenizer.json"
    if not ours.is_file() or not theirs.is_file() or ours.read_bytes() == theirs.read_bytes():
        return
    trained, found = TextTokenizer.from_folder(adapter), TextTokenizer.from_folder(base)
    difference = _compare(found.encode, [trained, found])
    if difference is not None:
        raise ModelError(
            f"the adapter in {adapter} was trained with another tokenizer than {base} has: {difference}",
            fix="use the model that the adapter was trained on; adapter_config.json names it",
        )


def _compare(encode: Callable[[str], list[int]], tokenizers: Sequence[TextTokenizer]) -> str | None:
    """Return the first text whose ids are not those of the first tokenizer."""
    for text in probe_texts(tokenizers):
        wanted, got = tokenizers[0].encode(text), encode(text)
        if wanted != got:
            place = next((at for at, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
            place = min(len(wanted), len(got)) if place is None else place
            shown = text if len(text) <= 100 else text[:97] + "..."
            return f"{shown!r} is {got[place : place + 5]} instead of {wanted[place : place + 5]} from token {place} on"
    return None


@contextmanager
def _alone(folder: Path, config: Path | None) -> Iterator[Path]:
    """Yield a folder with the tokenizer files alone, and a config.json if one is given."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file in (*_FILES, "chat_template.jinja"):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, place / file)
        if config is not None:
            shutil.copyfile(config, place / "config.json")
        yield place


@contextmanager
def _quiet() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
