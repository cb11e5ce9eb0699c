"""Stops are exact however a text is cut; decoding one by one equals decoding the whole."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from actune.agents.engines.stopping import Output, TextStops
from actune.render.dialects import Stops
from actune.render.tokenizer import TextTokenizer

WORD = "Observation:"
NAMES = ("phi-3-mini-4k", "mistral-v3", "minimind", "qwen3", "qwen2.5")


def stops(*, tokens=(), words=(), texts=()) -> Stops:
    return Stops(tokens=frozenset(tokens), words=tuple(words), texts=tuple(texts))


def run(pieces, wanted: Stops) -> tuple[str, str | None, list[str]]:
    finder = TextStops(wanted)
    given_out = []
    for piece in pieces:
        given_out.append(finder.feed(piece))
        if finder.reason:
            break
    if finder.reason is None:
        given_out.append(finder.finish())
    return "".join(given_out), finder.reason, given_out


def cut_whole(text: str, wanted: Stops) -> tuple[str, str | None]:
    """The same by looking at every beginning of the text."""
    for end in range(1, len(text) + 1):
        found = [(end - len(t), end - len(t), "text") for t in wanted.texts if text[:end].endswith(t)]
        for word in wanted.words:
            start = end - len(word)
            if text[:end].endswith(word) and (start == 0 or text[start - 1] == "\n"):
                found.append((start - 1, end, "word"))
        if found:
            _, cut, reason = min(found)
            return text[:cut], reason
    return text, None


def cut_anywhere(text: str, places) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


pieces_of_stops = st.lists(
    st.sampled_from(["\n", "Ob", "servation:", WORD, "<", "|end|", "<|end|>", "a", "好", "🦊", " ", "aab", "aa", "b"]),
    max_size=14,
).map("".join)


@given(
    text=pieces_of_stops,
    places=st.lists(st.integers(0, 200), max_size=12),
    texts=st.lists(st.sampled_from(["<|end|>", "aab", "ab", "b\n", "\n\n", "🦊好"]), max_size=3, unique=True),
    words=st.lists(st.sampled_from([WORD, "aa", "<"]), max_size=2, unique=True),
)
@settings(max_examples=400, deadline=None)
def test_a_text_ends_where_its_first_stop_is_complete_however_it_is_cut(text, places, texts, words):
    wanted = stops(words=words, texts=texts)
    found, reason, _ = run(cut_anywhere(text, places), wanted)
    assert (found, reason) == cut_whole(text, wanted)


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("Thought: x\nObservation: made up", "Thought: x\nObservation:", "word"),
        ("Observation: made up", "Observation:", "word"),
        ("no Observation: here\n Observation: nor here", "no Observation: here\n Observation: nor here", None),
        ("an answer<|end|> and more", "an answer", "text"),
        ("an answer<|en", "an answer<|en", None),
    ],
)
def test_words_count_at_line_starts_and_stay_texts_count_anywhere_and_go(text, found, reason):
    wanted = stops(words=[WORD], texts=["<|end|>"])
    assert run([text], wanted)[:2] == (found, reason)
    assert run(text, wanted)[:2] == (found, reason)


def test_only_what_may_become_a_stop_text_is_held_back():
    given_out = run(["a <", "|e", "x\nObserv", "ation", ": glued"], stops(words=[WORD], texts=["<|end|>"]))[2]
    assert given_out == ["a ", "", "<|ex\nObserv", "ation", ":"]


def byte_fallback() -> TextTokenizer:
    """A tokenizer as Llama 2 has it: blanks as ▁, unknown characters as bytes, the first blank of a text dropped."""
    texts = ["<unk>", "<s>", "</s>", *[f"<0x{value:02X}>" for value in range(256)]]
    texts += ["▁", "▁▁", "a", "▁a", "Observation", ":", ":{", "好", "▁好", "b", "e", "�"]
    vocabulary = {text: index for index, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TextTokenizer(tokenizer, {})


FALLBACK = byte_fallback()


def check_stream(tokenizer: TextTokenizer, prompt, ids) -> None:
    stream = tokenizer.stream(prompt)
    pieces = [stream.push(token) for token in ids]
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    text = "".join(pieces)
    assert whole.startswith(before)
    assert whole[len(before) :] == text + stream.finish()


ends = st.sampled_from([1, FALLBACK.token_id("a"), FALLBACK.token_id("▁"), FALLBACK.token_id(":")])


@given(
    prompt=st.lists(st.integers(1, 270), max_size=12),
    end=ends,
    ids=st.lists(
        st.one_of(st.integers(1, 270), st.integers(259, 270), st.sampled_from([13, 235, 163, 171])), max_size=30
    ),
)
@settings(max_examples=400, deadline=None)
def test_any_ids_are_decoded_one_by_one_as_at_once_with_byte_tokens(prompt, end, ids):
    check_stream(FALLBACK, [*prompt, end], ids)
    check_stream(FALLBACK, [], ids)


def test_a_newline_byte_at_the_end_of_the_prompt_is_not_read_with_broken_bytes_of_the_output():
    newline, broken = FALLBACK.token_id("<0x0A>"), FALLBACK.token_id("<0xE5>")
    stream = FALLBACK.stream([1, FALLBACK.token_id("a"), newline])
    assert stream.push(broken) + stream.push(FALLBACK.token_id("▁a")) + stream.finish() == "� a"


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_ids_are_decoded_one_by_one_as_at_once_with_bytes(tokenizer_folder: Path, data):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    ids = data.draw(st.lists(st.integers(0, 479), max_size=80))
    check_stream(tokenizer, tokenizer.encode(data.draw(st.text(max_size=8))), ids)


@given(text=st.text(st.sampled_from("a 好天气🦊👩‍👩‍👧é\nObservation:{}\t�"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_character_is_given_out_as_soon_as_its_last_byte_is_there(tokenizer_folder: Path, text):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    stream, given_out = tokenizer.stream(), ""
    ids = tokenizer.encode(text)
    for count, token in enumerate(ids, start=1):
        given_out += stream.push(token)
        assert given_out == tokenizer.decode(ids[:count]).removesuffix("�")


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_a_token_costs_the_same_late_in_a_text(tokenizer_folder: Path, kind):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder) if kind == "bytes" else byte_fallback()
    decoded, decode = [], tokenizer.decode
    chance = random.Random(3)
    ids = [chance.randrange(3, 260) for _ in range(3000)]
    tokenizer.decode = lambda some: decoded.append(len(some)) or decode(some)
    stream = tokenizer.stream([5])
    text = "".join(stream.push(token) for token in ids) + stream.finish()
    assert text == (decode([5, *ids])[len(decode([5])) :])
    assert sum(decoded) < 200 * len(ids)


def test_a_stop_word_glued_to_other_characters_ends_the_output_there(tokenizer_folder: Path):
    ids = [FALLBACK.token_id(text) for text in ("a", "<0x0A>", "Observation", ":{", "a")]
    pieces = []
    output = Output(FALLBACK.stream([1]), stops(words=[WORD]), on_text=pieces.append)
    ended = [output.push(token) for token in ids]
    assert ended[:4] == [False, False, False, True]
    output = Output(FALLBACK.stream([1]), stops(words=[WORD]), on_text=pieces.append)
    pieces.clear()
    assert [output.push(token) for token in ids[:4]].index(True) == 3
    assert (output.finish(), output.reason, output.count) == ("a\nObservation:", "word", 4)
    assert "".join(pieces) == "a\nObservation:"


def test_a_stop_token_has_no_text_and_ends_an_unfinished_character(tokenizer_folder: Path):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    end = tokenizer.token_id("<|im_end|>")
    broken = next(ids for ids in [tokenizer.encode("鱼")] if len(ids) > 1)[0]
    output = Output(tokenizer.stream(), stops(tokens=[end]))
    assert [output.push(token) for token in (*tokenizer.encode("a"), broken, end)] == [False, False, True]
    assert (output.finish(), output.reason, output.count) == ("a�", "token", 3)


def test_a_stop_that_the_last_byte_completes_counts():
    newline, word = FALLBACK.token_id("<0x0A>"), FALLBACK.token_id("a")
    output = Output(FALLBACK.stream([1]), stops(tokens=[2], texts=["\n"]))
    assert [output.push(token) for token in (word, newline, 2)] == [False, False, True]
    assert (output.finish(), output.reason) == ("a", "text")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_streamed_pieces_are_the_text_under_any_tokens_and_stops(tokenizer_folder: Path, data):
    tokenizer = TextTokenizer.from_folder(tokenizer_folder)
    text = data.draw(
        st.lists(st.sampled_from(["\nObservation:", "好", "🦊", "</s>", "<", "a"]), max_size=8).map("".join)
    )
    ids = tokenizer.encode(text) if data.draw(st.booleans()) else [t for c in text for t in tokenizer.encode_after(c)]
    wanted = stops(tokens=[2], words=[WORD], texts=["</s>"])
    pieces = []
    output = Output(tokenizer.stream(), wanted, on_text=pieces.append)
    for token in ids:
        if output.push(token):
            break
    assert output.finish() == "".join(pieces) == cut_whole(text, wanted)[0]


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_real_tokenizers_stream_what_decoding_at_once_gives(shared: Path, name):
    tokenizer = TextTokenizer.from_folder(shared / "assets" / "tokenizers" / name)
    chance = random.Random(11)
    prompt = tokenizer.encode("<|user|>\nHello 杭州\n<|assistant|>\n")
    texts = [
        "Thought: 天气 🦊👩‍👩‍👧 é\n\nAction: x\nObservation:{",
        " leading blank",
        "\n  indented\n",
        "西湖醋鱼怎么做",
    ]
    for text in texts:
        check_stream(tokenizer, prompt, tokenizer.encode_after(text))
        check_stream(tokenizer, [], tokenizer.encode(text))
    size = max(tokenizer.encode("a 好🦊")) + 400
    for _ in range(40):
        ids = [chance.randrange(size) for _ in range(50)]
        stream = tokenizer.stream(prompt)
        text = "".join(stream.push(token) for token in ids) + stream.finish()
        before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
        if whole.startswith(before):
            assert text == whole[len(before) :]
