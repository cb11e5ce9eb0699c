"""Names, numbers, times and codes of the demo, each either for training or held out, decided by the value alone.

The text of the base model, the rows of the fine-tuning and the held-out items draw from the same endless pools. A value
belongs to the held-out part when its checksum says so, so the parts stay disjoint whoever draws, in whatever order.
"""

from __future__ import annotations

import random
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


def is_held_out(value: str) -> bool:
    """Tell whether a value belongs to the held-out part."""
    return zlib.crc32(value.encode()) % _SHARE == 0


def draw(rng: random.Random, kind: str, language: str, *, held_out: bool = False) -> str:
    """Return a value of a kind ("place", "person", "number", "time", "code", "title") in a language ("en", "zh")."""
    return _MAKERS[kind](rng, language, held_out)


def draw_word(rng: random.Random, language: str, *, held_out: bool = False) -> str:
    """Return one invented name without a surname: `Torela`, `莱恩`."""
    if language == "zh":
        return _search(lambda: rng.choice(NAME_FIRST) + rng.choice(NAME_SECOND), held_out)
    return _search(lambda: _syllables(rng).capitalize(), held_out)


def draw_handle(rng: random.Random, *, held_out: bool = False) -> str:
    """Return a string of random letters, with an underscore or a digit at times: `qzvatk`, `mxo_tr`."""

    def make() -> str:
        letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(5, 8))]
        if rng.random() < 0.4:
            letters[rng.randint(2, len(letters) - 2)] = rng.choice("_0123456789")
        return "".join(letters)

    return _search(make, held_out)


def names_in(text: str) -> list[str]:
    """Return every Chinese name that stands in a text."""
    return [
        text[at : at + 2] for at in range(len(text) - 1) if text[at] in NAME_FIRST and text[at + 1] in NAME_SECOND
    ]


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


_MAKERS: dict[str, Callable[[random.Random, str, bool], str]] = {
    "place": lambda rng, language, held_out: draw_word(rng, language, held_out=held_out),
    "person": _person,
    "title": _title,
    "number": lambda rng, _, held_out: _search(lambda: str(rng.randint(100, 9999)), held_out),
    "time": lambda rng, _, held_out: _search(lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}", held_out),
    "code": lambda rng, _, held_out: _search(
        lambda: rng.choice("BDFGKLMNPRSTVZ") + rng.choice("BDFGKLMNPRSTVZ") + str(rng.randint(10, 999)), held_out
    ),
}
