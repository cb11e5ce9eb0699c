"""Names, numbers, times and codes of the demo, each either for training or held out, decided by the value alone.

The text of the base model, the rows of the fine-tuning and the held-out items draw from the same pools. A value belongs
to the held-out part when the list of held-out words or its checksum says so, and no value of the training part contains
a held-out one. So the parts stay disjoint whoever draws, in whatever order; a search for a held-out value in any text of
the training finds nothing.
"""

from __future__ import annotations

import functools
import random
import re
import zlib
from collections.abc import Callable

# One value in this many is held out.
_SHARE = 8
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ch", "sh", "br", "tr", "gl", "st")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "n", "l", "r", "s")
# Characters used in names only, and in this order only: a name is one of the first and one of the second, so no other
# text of the demo holds a name by accident (a test asserts it).
NAME_FIRST = "阿埃贝达菲戈格赫凯莱洛玛梅莫娜妮帕佩普琪蕊萨瑟塔托瓦薇沃雅伊泽"
NAME_SECOND = "丹恩尔弗顿琳伦曼姆诺庞珊坦廷翁延英茵尤宗佐霖昂宾策迪福辛蒂露"
SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦许何吕张孔曹严"
KINDS = ("place", "person", "number", "time", "code", "title")

_HELD_OUT_WORDS = 600
_SEED = 8_191


def draw(rng: random.Random, kind: str, language: str, *, held_out: bool = False) -> str:
    """Return a value of a kind ("place", "person", "number", "time", "code", "title") in a language ("en", "zh")."""
    return _MAKERS[kind](rng, language, held_out)


def draw_word(rng: random.Random, language: str, *, held_out: bool = False) -> str:
    """Return one invented name without a surname: `Torela`, `莱恩`."""
    if language == "zh":
        return _search(lambda: rng.choice(NAME_FIRST) + rng.choice(NAME_SECOND), held_out)
    if held_out:
        return rng.choice(held_out_words()).capitalize()
    while holds_held_out_word(word := _syllables(rng)):
        pass
    return word.capitalize()


def draw_handle(rng: random.Random, *, held_out: bool = False) -> str:
    """Return a string of random letters, with an underscore or a digit at times: `qzvatk`, `mxo_tr`."""

    def make() -> str:
        letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(5, 8))]
        if rng.random() < 0.4:
            letters[rng.randint(2, len(letters) - 2)] = rng.choice("_0123456789")
        return "".join(letters)

    while True:
        handle = make()
        # The last letter decides whether a handle is held out, so none is part of another of the other kind's end.
        if (handle[-1] in _HELD_OUT_ENDINGS) == held_out and not holds_held_out_word(handle):
            return handle


_HELD_OUT_ENDINGS = "qwy"


@functools.cache
def held_out_words() -> tuple[str, ...]:
    """Return every held-out English name in lower case, in a fixed order; none contains another."""
    rng = random.Random(_SEED)
    words: list[str] = []
    while len(words) < _HELD_OUT_WORDS:
        word = _syllables(rng)
        if len(word) >= 5 and not any(word in other or other in word for other in words):
            words.append(word)
    return tuple(words)


@functools.cache
def _held_out_set() -> frozenset[str]:
    return frozenset(held_out_words())


@functools.lru_cache(maxsize=65_536)
def holds_held_out_word(word: str) -> bool:
    """Tell whether a text of letters contains a held-out English name, in any case."""
    lower, known = word.lower(), _held_out_set()
    lengths = range(5, 11)
    return any(lower[at : at + size] in known for at in range(len(lower) - 4) for size in lengths)


def is_held_out(value: str) -> bool:
    """Tell whether a Chinese name, a number, a time or a code belongs to the held-out part."""
    return zlib.crc32(value.encode()) % _SHARE == 0


def find_held_out(text: str) -> list[str]:
    """Return every held-out name and value that stands in a text."""
    found = [word for word in re.findall("[A-Za-z]{5,}", text) if holds_held_out_word(word)]
    found += [name for name in names_in(text) if is_held_out(name)]
    numbers = re.findall(r"(?<![0-9:A-Z])[0-9]{4}(?![0-9:])|[0-9]{2}:[0-9]{2}|[A-Z]{2}[0-9]{3}", text)
    return found + [number for number in numbers if is_held_out(number)]


def names_in(text: str) -> list[str]:
    """Return every Chinese name that stands in a text."""
    return [text[at : at + 2] for at in range(len(text) - 1) if text[at] in NAME_FIRST and text[at + 1] in NAME_SECOND]


def _search(make: Callable[[], str], held_out: bool) -> str:
    while True:
        value = make()
        if is_held_out(value) == held_out:
            return value


def _syllables(rng: random.Random) -> str:
    count = 2 if rng.random() < 0.7 else 3
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
    return "".join(parts) + rng.choice(_CODAS)


def _person(rng: random.Random, language: str, held_out: bool) -> str:
    if language == "zh":
        return rng.choice(SURNAMES) + draw_word(rng, "zh", held_out=held_out)
    return f"{draw_word(rng, 'en', held_out=held_out)} {draw_word(rng, 'en', held_out=held_out)}"


def _title(rng: random.Random, language: str, held_out: bool) -> str:
    joint = {"en": " ", "zh": ""}[language]
    return joint.join(draw_word(rng, language, held_out=held_out) for _ in range(2))


# Numbers, times and codes have one length each, so none contains another.
_MAKERS: dict[str, Callable[[random.Random, str, bool], str]] = {
    "place": lambda rng, language, held_out: draw_word(rng, language, held_out=held_out),
    "person": _person,
    "title": _title,
    "number": lambda rng, _, held_out: _search(lambda: str(rng.randint(1000, 9999)), held_out),
    "time": lambda rng, _, held_out: _search(lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}", held_out),
    "code": lambda rng, _, held_out: _search(
        lambda: rng.choice("BDFGKLMNPRSTVZ") + rng.choice("BDFGKLMNPRSTVZ") + str(rng.randint(100, 999)),
        held_out,
    ),
}
