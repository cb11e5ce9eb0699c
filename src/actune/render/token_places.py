"""Where tokens begin in the text that they decode to, and in the one that they were made of."""

from __future__ import annotations

from collections.abc import Sequence

from actune.render.tokenizer import TextTokenizer

# What bytes that are no character decode to; ids before a text that tell whether its tokens were read right.
_UNKNOWN, _CONTEXT = "\ufffd", 8


class TokenPlaces:
    """Finds tokens in their text; what a token adds to a text is kept, whatever text it was in."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Read ids of one tokenizer."""
        self._tokenizer = tokenizer
        self._decode = tokenizer.decode
        self._pieces: dict[int, str] = {}
        # Some decoders cut a blank from the start of a text.
        self._letter = tokenizer.encode_after("a")
        self._letter_size = len(tokenizer.decode(self._letter))

    def locate(self, ids: Sequence[int], start: int) -> tuple[str, list[int]]:
        """Return the text of `ids[start:]`, and the character of it with which each of these tokens begins.

        A token that only goes on with a character begins with that character.
        """
        begins, pieces, run = [], [], []
        size = 0
        for token in ids[start:]:
            piece = self._pieces.get(token) or self._piece(token)
            if _UNKNOWN in piece:  # bytes that are no characters alone
                begins.append(size + self._count_whole(run))
                run.append(token)
                continue
            if run:
                pieces.append(self._beside(run))
                size += len(pieces[-1])
                run = []
            begins.append(size)
            pieces.append(piece)
            size += len(piece)
        text = "".join([*pieces, self._beside(run)])
        context = list(ids[max(0, start - _CONTEXT) : start])
        if self._decode([*context, *ids[start:]]) == self._decode(context) + text:
            return text, begins
        return self._locate_slowly(ids, start)

    def _piece(self, token: int) -> str:
        """Return the text of a token inside a text."""
        self._pieces[token] = piece = self._beside([token])
        return piece

    def _count_whole(self, run: Sequence[int]) -> int:
        """Return how many characters the bytes of some tokens complete."""
        values = self._tokenizer.byte_tokens()
        if all(token in values for token in run):  # in one run with bytes that are none, decoders know no character
            return len(bytes(values[token] for token in run).decode("utf-8", errors="ignore"))
        return len(self._beside(run).rstrip(_UNKNOWN))

    def _beside(self, ids: Sequence[int]) -> str:
        """Return what ids add to a text."""
        return self._decode([*self._letter, *ids])[self._letter_size :] if ids else ""

    def _locate_slowly(self, ids: Sequence[int], start: int) -> tuple[str, list[int]]:
        """As `locate`, token by token: some characters are made of several, and decoders look at what is beside one."""
        stream, values = self._tokenizer.stream(ids[:start]), self._tokenizer.byte_tokens()
        size, begins, pieces, run = 0, [], [], b""
        for token in ids[start:]:
            # A run of byte tokens is decoded when it has ended.
            begins.append(size + len(run.decode("utf-8", errors="ignore")))
            run = run + bytes([values[token]]) if token in values else b""
            pieces.append(stream.push(token))
            size += len(pieces[-1])
        return "".join([*pieces, stream.finish()]), begins


def move_to(text: str, begins: Sequence[int], written: str) -> list[int] | None:
    """Return where tokens begin in the text they were made of, by where they begin in the text that they decode to.

    Some tokenizers add a blank behind a control token. None where the two differ in more than blanks.
    """
    if text == written:
        return list(begins)
    places, at = [], 0
    for character in text:
        while at < len(written) and written[at] != character and written[at].isspace() and not character.isspace():
            at += 1
        places.append(at)
        if at < len(written) and written[at] == character:
            at += 1
        elif not character.isspace():
            return None
    if written[at:].strip():
        return None
    places.append(len(written))
    return [places[begin] for begin in begins]
