from __future__ import annotations

import itertools
from array import array

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from actune.render import segments, words
from actune.render.patterns import (
    UnsupportedPatternError,
    digit_split,
    members_of,
    plain_characters,
    read_pattern,
    set_of,
    write_exact_class,
)
from actune.render.words import PROBE, RecentTexts, WordEncoder, build_word_encoder

BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SLASHED = r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*steps: pre_tokenizers.PreTokenizer, use_regex: bool = False, prefix: bool = False) -> Tokenizer:
    # Any two of these characters (blank, newline, return first) become one token where they stand in one word.
    pairs = [(left, right) for left in "ĠĊčabs1'/?" for right in "ĠĊčabs1'/?"]
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in pairs)]
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(texts)}, pairs))
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
    return tokenizer


def split(pattern: str, behavior: str = "isolated", *, invert: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def ids_of(encoder: WordEncoder, text: str) -> list[int]:
    return array("i", encoder.encode(text)).tolist()


def want(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


KINDS = {
    "bytes": lambda: byte_level(use_regex=True),
    "digits": lambda: byte_level(split(DIGITS)),
    "slashes": lambda: byte_level(split(SLASHED)),
    "digit step": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "digit runs": lambda: byte_level(pre_tokenizers.Digits(individual_digits=False), use_regex=True),
    "matches only": lambda: byte_level(split(DIGITS, "removed", invert=True)),
    "some text": lambda: byte_level(pre_tokenizers.Split("ab", "isolated"), split(r"[\r\n]"), split(r"\s?\p{L}+")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_characters_give_the_ids_of_the_tokenizer(kind: str):
    tokenizer = KINDS[kind]()
    encoder = build_word_encoder(tokenizer)
    assert encoder is not None
    for text in (PROBE, *PROBE.split("\n"), PROBE[::-1], PROBE.replace(" ", "\n"), PROBE.replace(" ", "")):
        assert ids_of(encoder, text) == want(tokenizer, text)


@pytest.mark.parametrize("kind", ["bytes", "digits", "digit step", "some text"])
def test_every_code_point_is_split_as_the_tokenizer_does(kind: str):
    tokenizer = KINDS[kind]()
    encoder = build_word_encoder(tokenizer)
    assert encoder is not None
    codes = itertools.chain(range(0xD800), range(0xE000, 0x10000), range(0x1F000, 0x20100), range(0xE0000, 0xE0200))
    for block in iter(lambda: list(itertools.islice(codes, 500)), []):
        characters = [chr(code) for code in block]
        # Beside letters, digits, blanks, quotes, each other; behind newlines and before them.
        text = "".join(f"a{c}1{c} {c}b{c}{c}\n{c}'{c}s \n{c}" for c in characters)
        if ids_of(encoder, text) != want(tokenizer, text):
            wrong = [
                c
                for c in characters
                if ids_of(encoder, t := f"a{c}1{c} {c}b{c}{c}\n{c}'{c}s \n{c}") != want(tokenizer, t)
            ]
            pytest.fail(f"{kind}: {[hex(ord(c)) for c in wrong]}")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<=a)b",  # looks back: lines could not be cut
        r"\p{N}{1,3}+",  # possessive in one library, repeated in the other
        r"\s++$",
        r"^a",
        r".+",
        r"a*",  # may be empty
        r"a*?b",
        r"(a)\1",
        r"(?i:ss)",  # "ß" is one of its matches
        r"(?i:é)",
        r"(?i)a",
        r"[a-z&&[^b]]",
        r"[[:alpha:]]+",
        r"\h+",
        r"\p{NoSuchClass}",
        r"a(?!bc)",
        "ſ",  # no plain character
    ],
)
def test_patterns_of_uncertain_meaning_are_refused(pattern: str):
    with pytest.raises(UnsupportedPatternError):
        read_pattern(pattern)


def test_tokenizers_whose_words_are_not_independent_are_left_alone():
    plain = byte_level(use_regex=True)
    assert build_word_encoder(plain) is not None
    assert build_word_encoder(byte_level(use_regex=True, prefix=True)) is None
    assert build_word_encoder(byte_level(split(DIGITS, "merged_with_previous"))) is None
    assert build_word_encoder(byte_level(split(r"\p{L}+", "removed"))) is None
    assert build_word_encoder(byte_level(split(r"(?<=a)b"))) is None
    assert build_word_encoder(byte_level(pre_tokenizers.Punctuation(), use_regex=True)) is None
    for change in (normalizers.NFKC(), normalizers.Lowercase(), normalizers.Sequence([normalizers.Prepend("_")])):
        changed = byte_level(use_regex=True)
        changed.normalizer = change
        assert build_word_encoder(changed) is None
    random = byte_level(use_regex=True)
    random.model.dropout = 0.1
    assert build_word_encoder(random) is None
    pieces = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)], 0, False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    assert build_word_encoder(pieces) is None


def test_lines_are_cut_only_where_no_word_goes_on():
    digits, slashes = (words.build_word_encoder(byte_level(split(p))) for p in (DIGITS, SLASHED))
    assert digits.last_break("a\nb\n\nc", 6) == 5
    assert digits.last_break("a\nb\n\nc", 4) == 2
    assert digits.last_break("a\n", 2) == 0  # what follows is not known yet
    assert digits.last_break("a\n b", 4) == 0
    assert digits.last_break("a\n/b", 4) == 2
    assert slashes.last_break("a\n/b", 4) == 0  # "\n/" may be in one word
    assert digits.last_break("a\n\u0301b", 4) == 0  # might be joined to what stands before it


def test_what_follows_a_line_decides_how_its_blanks_are_split():
    tokenizer = byte_level(use_regex=True)
    encoder = build_word_encoder(tokenizer)
    # At a text's end the blank and the newline are one word, before a letter they are two.
    assert ids_of(encoder, "a \n") == want(tokenizer, "a \n")
    assert ids_of(encoder, "a \nb") == want(tokenizer, "a \nb")
    lines = array("i", encoder.encode_lines("a \n")).tolist()
    assert lines + want(tokenizer, "b") == want(tokenizer, "a \nb")


def test_few_kept_words_give_the_same_ids():
    tokenizer = byte_level(split(DIGITS))
    small = WordEncoder(tokenizer, [read_pattern(DIGITS)], set_of("".join(map(chr, range(128)))), words=3)
    for _ in range(2):
        for line in PROBE.split("\n"):
            assert ids_of(small, line) == want(tokenizer, line)
    assert len(small._words) <= 3


def test_recent_texts_are_bounded_and_recent():
    texts = RecentTexts(limit=100)
    for n in range(1000):
        texts.put(f"text {n:04d}", b"%d" % n)
        assert texts.get("text 0000") == b"0"  # asked for all the time
    assert len(texts._new) + len(texts._old) <= 22
    assert texts.get("text 0001") is None
    assert texts.get("text 0999") == b"999"


def test_a_difference_in_the_probe_switches_words_off(monkeypatch: pytest.MonkeyPatch):
    tokenizer = byte_level(split(DIGITS))
    wrong = WordEncoder(tokenizer, [read_pattern(BYTE_LEVEL)], set_of("".join(map(chr, range(128)))))
    monkeypatch.setattr(segments, "build_word_encoder", lambda _: wrong)
    encoder = segments.SegmentEncoder(tokenizer)
    assert segments.unpack(wrong.encode("what?\n3")) != want(tokenizer, "what?\n3")
    assert segments.unpack(encoder.encode("what?\n3")) == want(tokenizer, "what?\n3")


def test_words_are_used_where_the_probe_agrees(monkeypatch: pytest.MonkeyPatch):
    tokenizer = byte_level(split(DIGITS))
    tokenizer.add_tokens([AddedToken("<|a|>", normalized=False)])
    encoder = segments.SegmentEncoder(tokenizer)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the tokenizer was asked")

    monkeypatch.setattr(encoder, "_tokenizer", refuse)
    assert segments.unpack(encoder.encode("<|a|>new words 12")) == want(tokenizer, "<|a|>new words 12")


def test_sets_of_characters():
    assert len(plain_characters()) == len(set(plain_characters()))
    assert "".join(sorted(plain_characters())) == plain_characters()
    assert not {"\u0301", "\u11a8", "\ue000", "\u0378", "ſ", "\u212b"} & set(plain_characters())
    assert members_of(r"\S") & members_of(r"\s") == 0
    assert members_of(r"\p{N}") == digit_split(individual=True).covered
    assert read_pattern(r"[a-c\n]").covered == set_of("abc\n")
    assert read_pattern(r"a|b+|c{2}").covered == set_of("ab")
    assert read_pattern(r"a?a|b").covered == set_of("ab")
    assert read_pattern(r"a?+a|b").covered == set_of("b")  # nothing is given back
    assert read_pattern("a+b", literal=True).source == read_pattern(r"a\+b").source
    assert write_exact_class(set_of("ac")) == "[a-ac-c]"
