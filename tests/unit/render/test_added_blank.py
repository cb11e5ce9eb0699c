"""Tokenizers that put a blank before what follows a control token: what the model wrote is read without it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

from actune.render.tokenizer import TextTokenizer

PROMPT = "<s>ask[/INST]"


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """A tokenizer built as those of Llama 2 and Mistral are."""
    built = Tokenizer(models.BPE(byte_fallback=False))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    text = ["Action: look", " Thought: I look", "Final Answer: two  blanks", "ask\n"]
    built.train_from_iterator(text, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    built.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "[/INST]")])
    return TextTokenizer(built, {})


def read(tokenizer: TextTokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    stream = tokenizer.stream_answer(prompt)
    return "".join(stream.push(one) for one in ids) + stream.finish()


@pytest.mark.parametrize("answer", ["Action: look", " Action: look", "  Final Answer: two", "look  look", "A"])
def test_an_answer_is_read_as_it_is_encoded(tokenizer: TextTokenizer, answer: str):
    ids, start = tokenizer.encode_turn(PROMPT, answer)
    assert read(tokenizer, ids[:start], ids[start:]) == answer
    again, _ = tokenizer.encode_turn(PROMPT, read(tokenizer, ids[:start], ids[start:]))
    assert again == ids


def test_only_the_first_blank_behind_a_control_token_is_left_out(tokenizer: TextTokenizer):
    ids, start = tokenizer.encode_turn(f"{PROMPT}Thought:", " I look")  # goes on inside a text
    assert 0 < start < len(ids)
    assert read(tokenizer, ids[:start], ids[start:]) == " I look"


def test_byte_level_tokenizers_add_none(tokenizer_folder):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    for answer in ("Action", " Action"):
        ids, start = tokenizer.encode_turn("<|im_start|>", answer)
        assert read(tokenizer, ids[:start], ids[start:]) == answer
