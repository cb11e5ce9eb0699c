"""The faster library: the same ids, used only where it gives them, and only when there is much to do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from actune.render import fast, segments
from actune.render.tokenizer import TextTokenizer

pytest.importorskip("fastokens", reason="the extra `fast` is not installed")


def texts(count: int) -> list[str]:
    rng = random.Random(1)
    words = [
        "weather",
        "杭州",
        "今天天气怎么样",
        '{"city": "a"}',
        "\n",
        "\n\n",
        " ",
        "  ",
        "<|im_end|>",
        "<|im_start|>",
        "\u00a0",
        "é",
        "1234",
        "...",
    ]
    return ["".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(count)]


def test_the_ids_are_those_of_the_tokenizer(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segments, "WORTH", 0)
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.encode("something new")
    assert tokenizer._segments._fast is not None
    for text in texts(300):
        assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
        both, size = tokenizer.encode_turn(text, text + "\nand more")
        assert list(both[:size]) == plain.encode(text, add_special_tokens=False).ids


def test_it_is_not_loaded_for_little_text(tokenizer_folder: Path):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    for text in texts(50):
        tokenizer.encode(text)
    assert tokenizer._segments._fast is None


def test_it_is_not_used_where_ids_differ(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    path = tokenizer_folder / "tokenizer.json"
    assert fast.load_fast(path, plain) is not None
    monkeypatch.setattr(fast, "_encode_slowly", lambda _tokenizer, text: b"" if "杭州" in text else b"x")
    assert fast.load_fast(path, plain) is None


def test_a_file_that_it_cannot_read_is_left_to_the_tokenizer(tmp_path: Path, tokenizer_folder: Path):
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert fast.load_fast(tmp_path / "tokenizer.json", plain) is None
