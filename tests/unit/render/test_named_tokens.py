from __future__ import annotations

import pytest

from actune.core.errors import ConfigError
from actune.render.named_tokens import find_tokens
from actune.render.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return TextTokenizer.from_folder(tokenizer_folder)


def test_ids_are_sorted_and_each_is_there_once(tokenizer):
    texts = ["<think>", "<|im_end|>", "<think>"]
    assert find_tokens(tokenizer, texts, "x") == tuple(sorted({tokenizer.token_id(text) for text in texts}))
    assert find_tokens(tokenizer, [], "x") == ()


def test_what_is_no_token_is_an_error_with_the_nearest(tokenizer):
    with pytest.raises(ConfigError, match=r"^x: '<\|im_ends\|>' is no token") as caught:
        find_tokens(tokenizer, ["<think>", "<|im_ends|>"], "x")
    assert "did you mean <|im_end|>" in caught.value.fix


def test_a_token_that_its_text_is_not_encoded_as_is_an_error(tokenizer):
    # The vocabulary writes a blank as another character; that character is encoded as its bytes.
    assert tokenizer.token_id("\u0120") is not None
    with pytest.raises(ConfigError, match="not encoded as that token alone"):
        find_tokens(tokenizer, ["\u0120"], "x")
