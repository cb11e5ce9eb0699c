"""Whatever the text, however it grows: the ids are those that `tokenizers` gives the whole text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from actune.render.tokenizer import MARK_CLOSE, MARK_OPEN, TextTokenizer
from actune.render.words import build_word_encoder

CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Patterns as tokenizers carry them: digits alone or in threes, letters by case, several in a row.
SPLITS: dict[str, tuple[str, ...]] = {
    "bytes": (),
    "digits alone": (
        CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "digits in threes": (
        CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "cases": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTED + "?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTED + "?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "several": (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "lines first": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+"),
}
TOKENS = {
    "plain": ("<|a|>", "<|ab|>", "<|a|>b", "<t>", "</t>"),
    "none": (),
    "with newlines": ("<|a|>", "\nx", "\n\n", "end\n"),
    "across each other": ("<|a|>", "b<|a|>/-", "/-", "\n/-a"),
}
# As a byte-level tokenizer writes blank, newline, return, tab; the others as they are. Any two next to each other in a
# word become one token, so a text that is split in another way gets other ids.
JOINED = "ĠĊčĉabs1'/.-|"


def joining_model() -> models.BPE:
    """A model of all bytes and of all pairs of some characters."""
    pairs = [(left, right) for left in JOINED for right in JOINED]
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in pairs)]
    return models.BPE({text: number for number, text in enumerate(texts)}, pairs)


@functools.cache
def tokenizer_of(split: str, tokens: str, normal: bool) -> Tokenizer:
    """A small byte-level BPE with one of the patterns."""
    tokenizer = Tokenizer(joining_model())
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[split]]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
    if normal:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in TOKENS[tokens]])
    return tokenizer


def odd_tokenizer(kind: str) -> Tokenizer:
    """Tokens that take their surroundings in, or are looked for in normal forms; splits that begin with a blank."""
    tokenizer = Tokenizer.from_str(tokenizer_of("digits alone", "none", kind == "normalized form").to_str())
    flags = {
        "left": [AddedToken("<|l|>", normalized=False, lstrip=True)],
        "right": [AddedToken("<|r|>", normalized=False, rstrip=True)],
        "word": [AddedToken("xy", normalized=False, single_word=True)],
        "normalized": [AddedToken("<|n|>", normalized=True), AddedToken("  ", normalized=True)],
        "normalized form": [AddedToken("<|é|>", normalized=True)],
    }
    plain = AddedToken("<|a|>", normalized=kind == "normalized", special=True)
    tokenizer.add_tokens([*flags.get(kind, []), plain, AddedToken("c<t>", normalized=False)])
    if kind == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if kind == "prepended":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
    return tokenizer


PIECES = [
    *("xyc<t>", "xy", "b<|a|>/", "/-", "\n/-", " \n", "a\n1", "a \nb", "1\n", "\n1", "a\nb"),
    *("<|a|>", "<|ab|>", "<|a|>b", "<|a", "<t>", "</t>", "<|l|>", "<|r|>", "<|n|>", "<|e\u0301|>", "c<t>", "ab", "b"),
    *("\n", "\n\n", " ", "  ", "\r", "\r\n", "\t", "\u3000", "\x85", "\x1c", "\u2028", "\x00", "'s", "'S", "'ſ", "'LL"),
    *(
        "a",
        "Word",
        " word",
        "1",
        "12345",
        "²",
        "١",
        "/",
        "//",
        "你好",
        "，",
        "。",
        "ー",
        "가",
        "\u11a8",
        "\u0301",
        "e\u0301",
    ),
    *(
        "ß",
        "İ",
        "😀",
        "👍🏽",
        "\u200d",
        "\ufe0f",
        "\U00020000",
        "\ue000",
        "\u0378",
        "\U000e0001",
        "\uffff",
        "#",
        "--",
        "\n-",
        "\n/",
    ),
]
PARTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map("".join)


def without_marks(text: str) -> str:
    return text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "")


def check_growing(tokenizer: Tokenizer, fast: TextTokenizer, parts: Sequence[str]) -> None:
    """Each text that goes on from the one before, and then each again, has the ids of the whole text."""
    texts = [without_marks(text) for text in accumulate(parts)]
    for text in [*texts, *reversed(texts)]:
        assert fast.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)
    for before, after in pairwise(texts):
        want = tokenizer.encode(before, add_special_tokens=False).ids
        whole = tokenizer.encode(after, add_special_tokens=False).ids
        ids, start = fast.encode_turn(before, after[len(before) :])
        assert ids[:start].tolist() == want
        if whole[: len(want)] == want:
            assert ids.tolist() == whole
        else:
            assert ids[start:].tolist() == fast.encode_after(after[len(before) :])


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("split", SPLITS)
@given(parts=st.lists(PARTS, min_size=1, max_size=4), normal=st.booleans())
@settings(max_examples=60, deadline=None)
def test_words_give_the_ids_of_the_whole_text(split: str, tokens: str, parts: list[str], normal: bool):
    tokenizer = tokenizer_of(split, tokens, normal)
    assert build_word_encoder(tokenizer) is not None
    check_growing(tokenizer, kept_tokenizer(split, tokens, normal), parts)


def test_a_token_that_begins_in_one_text_and_ends_in_the_next_is_found():
    tokenizer = tokenizer_of("bytes", "across each other", False)
    check_growing(tokenizer, TextTokenizer(tokenizer, {}), ["xyb<|a|>", "/-"])
    check_growing(tokenizer, TextTokenizer(tokenizer, {}), ["some lines\nof text\n", "/-a"])


@functools.cache
def kept_tokenizer(split: str, tokens: str, normal: bool) -> TextTokenizer:
    return TextTokenizer(tokenizer_of(split, tokens, normal), {})


@pytest.mark.parametrize("kind", ["left", "right", "word", "normalized", "normalized form", "prefix", "prepended"])
def test_tokens_that_see_their_surroundings_give_the_ids_of_the_whole_text(kind: str):
    tokenizer = odd_tokenizer(kind)
    fast = TextTokenizer(tokenizer, {})

    @given(parts=st.lists(PARTS, min_size=1, max_size=4))
    @settings(max_examples=100, deadline=None)
    def check(parts: list[str]) -> None:
        check_growing(tokenizer, fast, parts)

    check()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "qwen-7b-chat", "minimind", "mistral-v3", "phi-3-mini-4k"])
def test_real_tokenizers_give_the_ids_of_the_whole_text(shared: Path, name: str):
    path = shared / "assets" / "tokenizers" / name
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    fast = TextTokenizer.from_folder(path)
    known = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:30]
    parts = st.lists(st.one_of(PARTS, st.sampled_from(known)), max_size=6).map("".join)

    @given(parts=st.lists(parts, min_size=1, max_size=4))
    @settings(max_examples=100, deadline=None)
    def check(parts: list[str]) -> None:
        check_growing(tokenizer, fast, parts)

    check()
