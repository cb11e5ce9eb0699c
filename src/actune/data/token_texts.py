"""The text of every token of a sequence, quickly: known texts are put together and compared with the decoded whole."""

from __future__ import annotations

from collections.abc import Sequence

from actune.render.tokenizer import TextTokenizer

_CONTEXT = 16
"""Ids before a sequence that are decoded with it: decoders treat the start of a text differently."""


class TokenTexts:
    """Splits decoded text by tokens, for one tokenizer."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Know no text yet; each is learnt where it first occurs."""
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def split(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        """Return the text that each of `ids` adds after the ids `before`.

        A token that is only a part of a character adds nothing, the last part adds the character. Joined the texts
        are what decoding adds, whatever the tokenizer's decoder does.
        """
        context = list(before[-_CONTEXT:])
        texts = [self._guess(context, ids, index) for index in range(len(ids))]
        if self._decode(context, ids) == "".join(texts):
            return texts
        stream = self._tokenizer.stream(list(before))
        texts = [stream.push(token) for token in ids]
        if texts and (rest := stream.finish()):
            texts[-1] += rest
        return texts

    def _guess(self, context: Sequence[int], ids: Sequence[int], index: int) -> str:
        """Return the text that a token had where it first occurred: nearly always the one that it has here."""
        text = self._known.get(ids[index])
        if text is None:
            near = [*context, *ids[max(0, index - _CONTEXT) : index]][-_CONTEXT:]
            text = self._known[ids[index]] = self._tokenizer.stream(near).push(ids[index])
        return text

    def _decode(self, context: Sequence[int], ids: Sequence[int]) -> str | None:
        """Return the text that ids add, None where it is not what is decoded after the text before them."""
        start = self._tokenizer.decode(context) if context else ""
        whole = self._tokenizer.decode([*context, *ids])
        return whole[len(start) :] if whole.startswith(start) else None
