"""Encoding of plain text by fastokens, where that is installed and gives the same ids: about three times as fast.

It takes up to a second to load a large vocabulary, so it is asked for only when there is much new text to encode.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from actune.render.words import PROBE

WORTH = 250_000
"""Words that were new, each some microseconds of work, after which loading pays: by then they have cost as much."""

# Ranges that random probe texts are made of: ASCII, Latin and what lies above, scripts, ideographs, emoji, blanks.
_RANGES = (
    (0x20, 0x7F),
    (0xA0, 0x500),
    (0x20, 0x3000),
    (0x4E00, 0x9FFF),
    (0x1F300, 0x1FAFF),
    (0x09, 0x0E),
    (0x20, 0x21),
)
_PROBES = 300


def load_fast(path: Path, tokenizer: Tokenizer) -> Callable[[str], bytes] | None:
    """Return what encodes text to bytes of int32 as the tokenizer of that file does, None where there is no such thing.

    Tried on a text with all kinds of characters, on its lines and on random texts.
    """
    try:
        from fastokens._native import Tokenizer as FastTokenizer
    except ImportError:
        return None
    try:
        fast = FastTokenizer.from_file(str(path))
    except Exception:  # noqa: BLE001 - it raises its own errors for what it does not know
        return None

    def encode(text: str) -> bytes:
        return array("i", fast.encode(text, add_special_tokens=False).ids).tobytes()

    try:
        agrees = all(_encode_slowly(tokenizer, text) == encode(text) for text in make_probes())
    except Exception:  # noqa: BLE001 - as above
        return None
    return encode if agrees else None


def make_probes() -> list[str]:
    """Return the texts that both have to encode alike, the same ones each time."""
    rng = random.Random(0)
    mixed = [
        "".join(chr(rng.randrange(*rng.choice(_RANGES))) for _ in range(rng.randint(1, 80))) for _ in range(_PROBES)
    ]
    return [PROBE, *PROBE.split("\n"), *mixed]


def _encode_slowly(tokenizer: Tokenizer, text: str) -> bytes:
    return array("i", tokenizer.encode(text, add_special_tokens=False).ids).tobytes()
