"""From texts that a setting names to ids of the vocabulary."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from actune.core.errors import ConfigError
from actune.render.tokenizer import TextTokenizer


def find_tokens(tokenizer: TextTokenizer, texts: Sequence[str], setting: str) -> tuple[int, ...]:
    """Return the ids of tokens given by their texts, sorted, each once.

    Raises:
        ConfigError: a text is no token of the vocabulary, or one that no text is ever encoded to.
    """
    found: set[int] = set()
    for text in texts:
        token = tokenizer.token_id(text)
        if token is None:
            close = difflib.get_close_matches(text, sorted(tokenizer.special_tokens), n=3)
            raise ConfigError(
                f"{setting}: {text!r} is no token of this model's vocabulary",
                fix=(f"did you mean {', '.join(close)}? " if close else "")
                + "New tokens are added to a model's folder with transformers: add_tokens of the tokenizer, "
                "resize_token_embeddings of the model, save_pretrained of both",
            )
        if tokenizer.encode(text) != [token]:
            raise ConfigError(
                f"{setting}: {text!r} is a token, but the text is not encoded as that token alone",
                fix="name an added token, such as a marker of the chat template",
            )
        found.add(token)
    return tuple(sorted(found))
