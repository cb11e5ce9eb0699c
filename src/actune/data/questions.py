"""What the users of a row ask, in a form in which equal questions are equal."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from actune.core.types import Conversation


def question_of(row: Conversation) -> str:
    """Return what the users of a row say, without case, blanks, signs and width: equal questions, equal text."""
    spoken = "\n".join(message.content for message in row.messages if message.role == "user")
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", spoken).casefold()).strip()


def question_key(row: Conversation) -> bytes:
    """Return a digest of 16 bytes of `question_of`."""
    return hashlib.blake2b(question_of(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
