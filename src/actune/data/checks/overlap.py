"""Which prompts of held-out rows stand in training rows too: equal after normalisation, or mostly made of the same n-grams.

Pure functions of conversations and arrays, so that a run may keep the arrays beside its encoded rows. The rule for
n-grams is PaLM's (Chowdhery et al. 2022, section 8: an item is contaminated when 70 % of its 8-grams stand in the training
data), asked here of one training row at a time; GPT-3's 13-grams of words (Brown et al. 2020, appendix C) are longer than
most prompts of agents. In scripts that write no spaces 13 characters stand for 8 words.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actune.core.types import Conversation

WORDS = 8
"""Words of an n-gram; a text with fewer is compared as a whole only."""
CHARACTERS = 13
"""Tokens of an n-gram in a text of which most tokens are single characters."""
SHARE = 0.7
"""Share of a prompt's n-grams that has to stand in one training row."""
_FULL = 512
"""N-grams up to which a row keeps all; of longer rows one in eight is kept, the same ones in every row."""
_SAMPLE = np.uint64(7)
_COMMON = 100
"""N-grams in more rows than this are phrases of a template: they say nothing about one prompt."""

_PLACEHOLDER = re.compile(r"\{\{\s*(?:name|author)\s*\}\}", re.IGNORECASE)
# Signs that only part sentences. What may be arithmetic ("3*4", "1.5") stays between letters and digits.
_PARTING = re.compile(
    r"[!?;\"'`´‘’“”„«»、。…·・~()\[\]{}<>《》〈〉「」『』【】_|\\]|(?<!\d)[.,:]|[.,:](?!\d)|(?<!\w)[-*/%]|[-*/%](?!\w)"
)
# Hiragana, katakana, ideographs, hangul, Thai, Lao, Khmer, Myanmar: one token a character.
_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff]|[^\W_]+"
)
# The hash of an n-gram is a polynomial in its tokens' checksums, modulo 2**64; the base is odd, else early tokens vanish.
_POWERS = {
    size: np.array([pow(0x9E3779B97F4A7C15, power, 1 << 64) for power in range(size)], dtype=np.uint64)
    for size in (WORDS, CHARACTERS)
}
_EMPTY = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of n rows as flat arrays; row i has `keys[key_offsets[i]:key_offsets[i + 1]]`, and so for `grams`.

    `keys` and `grams` are uint64, the offsets int64 of length n + 1. The first key of a row is that of all its user
    texts together; where it has several, the keys of each alone follow.
    """

    keys: NDArray[np.uint64]
    key_offsets: NDArray[np.int64]
    grams: NDArray[np.uint64]
    gram_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key_offsets) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A held-out row and the training row that holds its prompt, by their numbers from 0.

    `share` is the share of the prompt's n-grams in the training row, 1.0 where the prompts are equal (`exact`).
    """

    held_row: int
    train_row: int
    share: float
    exact: bool


def prompt_keys(conversation: Conversation) -> tuple[int, ...]:
    """Return the 64-bit keys of a row's prompt: of all user texts together, then of each where there are several.

    Equal after normalisation means equal keys: Unicode compatibility forms, case, blanks, punctuation and the
    placeholders {{NAME}} and {{AUTHOR}} do not count. Without a user text there is none.
    """
    texts = _user_texts(conversation)
    if len(texts) < 2:
        return tuple(_key(text) for text in texts)
    return (_key("\n".join(texts)), *dict.fromkeys(_key(text) for text in texts))


def prompt_grams(conversation: Conversation) -> NDArray[np.uint64]:
    """Return the hashed n-grams of the user texts, each once, sorted; a text shorter than one has none.

    Of a row with more than 512 only the hashes whose low three bits are 0 are kept, the same in every row.
    """
    found = [_text_grams(_fold(text)) for text in _user_texts(conversation)]
    grams = found[0] if len(found) == 1 else np.concatenate([_EMPTY, *found])
    if len(grams) > _FULL:
        grams = grams[(grams & _SAMPLE) == 0]
    grams.sort()
    repeated = grams[1:] == grams[:-1]
    return grams[np.append(True, ~repeated)] if repeated.any() else grams


def collect_prompts(conversations: Iterable[Conversation]) -> Prompts:
    """Return the prompts of rows, in their order."""
    return join_prompts([(prompt_keys(row), prompt_grams(row)) for row in conversations])


def join_prompts(rows: Sequence[tuple[Sequence[int], NDArray[np.uint64]]]) -> Prompts:
    """Return the keys and n-grams of rows, a pair a row, as flat arrays."""
    return Prompts(
        keys=np.array([key for keys, _ in rows for key in keys], dtype=np.uint64),
        key_offsets=_offsets([len(keys) for keys, _ in rows]),
        grams=np.concatenate([_EMPTY, *(grams for _, grams in rows)]),
        gram_offsets=_offsets([len(grams) for _, grams in rows]),
    )


def find_overlap(train: Prompts, held: Prompts, *, share: float = SHARE) -> list[Overlap]:
    """Return the held-out rows whose prompt stands in a training row, one entry each, in order of held-out rows.

    A prompt is found as a whole, also as one of several user texts of a training row; else the training row with the
    largest share of its n-grams counts, if that is `share` or more. N-grams in more than 100 rows of either side do
    not count: they come from a template of prompts.
    """
    rows = np.flatnonzero(np.diff(held.key_offsets))
    at, found_in = _look_up(held.keys[held.key_offsets[rows]], train.keys)
    exact = _exact(rows[at], _rows_of(train.key_offsets)[found_in])
    found = {overlap.held_row: overlap for overlap in exact}
    for overlap in _find_shared(train, held, share, by_held=True):
        found.setdefault(overlap.held_row, overlap)
    return [found[row] for row in sorted(found)]


def find_leaks(train: Prompts, held: Prompts, *, share: float = SHARE) -> list[Overlap]:
    """Return the training rows that hold the prompt of a held-out row, one entry each, in order of training rows.

    The rules are those of `find_overlap`; of several held-out prompts the one with the largest share is named.
    """
    rows = np.flatnonzero(np.diff(held.key_offsets))
    at, found_in = _look_up(train.keys, held.keys[held.key_offsets[rows]])
    exact = _exact(rows[found_in], _rows_of(train.key_offsets)[at])
    found: dict[int, Overlap] = {}
    for overlap in [*exact, *_find_shared(train, held, share, by_held=False)]:
        found.setdefault(overlap.train_row, overlap)
    return [found[row] for row in sorted(found)]


def _user_texts(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages if message.role == "user"]


# The two questions about a row fold the same texts one after the other.
@functools.lru_cache(maxsize=64)
def _fold(text: str) -> str:
    if "{{" in text:
        text = _PLACEHOLDER.sub("", text)
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _key(text: str) -> int:
    folded = "".join(_fold(text).split())
    # A text of nothing but punctuation is itself.
    kept = _PARTING.sub("", folded) or folded
    digest = hashlib.blake2b(kept.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _text_grams(folded: str) -> NDArray[np.uint64]:
    tokens = _TOKEN.findall(folded)
    size = CHARACTERS if 2 * len(tokens) > len(folded) else WORDS
    if len(tokens) < size:
        return _EMPTY.copy()
    sums = [zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in tokens]
    return np.correlate(np.array(sums, dtype=np.uint64), _POWERS[size], "valid")


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _rows_of(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each entry of a flat array."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _look_up(keys: NDArray[np.uint64], among: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the keys that stand among others, and the first place of each there."""
    if not len(among):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(among, kind="stable")
    place = order[np.minimum(np.searchsorted(among, keys, sorter=order), len(order) - 1)]
    hit = np.flatnonzero(among[place] == keys)
    return hit, place[hit]


def _exact(held_rows: NDArray[np.int64], train_rows: NDArray[np.int64]) -> list[Overlap]:
    return [
        Overlap(held_row=int(held), train_row=int(train), share=1.0, exact=True)
        for held, train in zip(held_rows, train_rows, strict=True)
    ]


def _find_shared(train: Prompts, held: Prompts, share: float, *, by_held: bool) -> list[Overlap]:
    """Return the best pair of each held-out row, or of each training row."""
    held_grams, held_rows = _drop_common(held)
    train_grams, train_rows = _drop_common(train, held_grams)
    if not len(train_grams) or not len(held_grams):
        return []
    pairs = _count_pairs(train_grams, train_rows, held_grams, held_rows, len(train))
    if pairs is None:
        return []
    held_of, train_of, counts, sampled_counts = pairs
    # A long training row holds a sample only: such a pair is judged by the n-grams that the sample would hold.
    sampled = _is_sample(train)[train_of]
    wanted = np.bincount(held_rows, minlength=len(held))[held_of]
    wanted_sample = np.bincount(held_rows[(held_grams & _SAMPLE) == 0], minlength=len(held))[held_of]
    counts = np.where(sampled, sampled_counts, counts)
    wanted = np.where(sampled, wanted_sample, wanted)
    shares = counts / np.maximum(wanted, 1)
    # The best of each row: by share, then the first.
    one, other = (held_of, train_of) if by_held else (train_of, held_of)
    order = np.lexsort((other, -shares, one))
    first = order[np.append(True, one[order][1:] != one[order][:-1])]
    return [
        Overlap(held_row=int(held_of[at]), train_row=int(train_of[at]), share=float(shares[at]), exact=False)
        for at in first
        if shares[at] >= share
    ]


def _is_sample(prompts: Prompts) -> NDArray[np.bool_]:
    """Say of each row whether all its n-grams belong to the sample, as those of a long row do."""
    rows = _rows_of(prompts.gram_offsets)
    inside = np.bincount(rows[(prompts.grams & _SAMPLE) == 0], minlength=len(prompts))
    return inside == np.diff(prompts.gram_offsets)


def _drop_common(
    prompts: Prompts, wanted: NDArray[np.uint64] | None = None
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the n-grams that are not in too many rows, and their rows, both in order of the n-grams.

    Of `wanted` n-grams, which are sorted, only those are looked at.
    """
    grams, rows = prompts.grams, _rows_of(prompts.gram_offsets)
    if wanted is not None:
        if not len(wanted):
            return grams[:0], rows[:0]
        places = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
        kept = np.flatnonzero(wanted[places] == grams)
        grams, rows = grams[kept], rows[kept]
    order = np.argsort(grams, kind="stable")
    grams, rows = grams[order], rows[order]
    _, inverse, counts = np.unique(grams, return_inverse=True, return_counts=True)
    kept = counts[inverse] <= _COMMON
    return grams[kept], rows[kept]


def _count_pairs(
    train_grams: NDArray[np.uint64],
    train_rows: NDArray[np.int64],
    held_grams: NDArray[np.uint64],
    held_rows: NDArray[np.int64],
    train_count: int,
) -> tuple[NDArray[np.int64], ...] | None:
    """Return held-out row, training row, common n-grams and those of the sample, for each pair with one in common."""
    start = np.searchsorted(held_grams, train_grams, "left")
    many = np.searchsorted(held_grams, train_grams, "right") - start
    hit = np.flatnonzero(many)
    if not len(hit):
        return None
    many = many[hit]
    # Entry j of the pairs of one n-gram of a training row is its j-th held-out row.
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    held_at = np.repeat(start[hit], many) + within
    codes = held_rows[held_at] * train_count + np.repeat(train_rows[hit], many)
    pairs, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    in_sample = (held_grams[held_at] & _SAMPLE) == 0
    sampled = np.bincount(inverse[in_sample], minlength=len(pairs))
    return pairs // train_count, pairs % train_count, counts, sampled
