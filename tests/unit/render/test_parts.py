"""Loss weights of parts: where the parts of an answer are, and which weight each token gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from actune.core.errors import RenderError
from actune.core.parts import PartWeights, Span, read_weights
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.encoder import Encoder
from actune.render.parts import weigh_tokens
from actune.render.token_places import TokenPlaces, move_to
from actune.render.tokenizer import TextTokenizer
from actune.render.tree import TokenTree

SOURCE = Source(file="x.jsonl", line=1)
ASKED = Message(role="user", content="杭州天气?")
CITY, DAYS = '{"city": "杭州"}', '{"days": 3}'
ONE = (ToolCall(name="get_weather", arguments=CITY, id="call00001"),)
TWO = (*ONE, ToolCall(name="look-up.v2", arguments=DAYS, id="call00002"))
DISTINCT = read_weights(["thought=0.5", "action=2", "action_input=3", "final_answer=5", "stop=7"])

# What stands in each part, by form; marks lead to a part, or close a call.
CALLED = {
    "json in tags": [
        ("thought", "<think>\nHm.\n</think>\n\nI look."),
        ("action", '\n<tool_call>\n{"name": "get_weather'),
        ("action_input", '", "arguments": {"city": "杭州"}}\n</tool_call>'),
        ("action", '\n<tool_call>\n{"name": "look-up.v2'),
        ("action_input", '", "arguments": {"days": 3}}\n</tool_call>'),
    ],
    "json list with ids": [
        ("thought", "I look."),
        ("action", '[TOOL_CALLS] [{"name": "get_weather'),
        ("action_input", '", "arguments": {"city": "杭州"}, "id": "call00001"}'),
        ("action", ', {"name": "look-up.v2'),
        ("action_input", '", "arguments": {"days": 3}, "id": "call00002"}]'),
    ],
    "name then json": [
        ("thought", "<think>\nHm.\n</think>\n\nI look."),
        ("action", "[CALL]get_weather"),
        ("action_input", '[ID]call00001[ARGS]{"city": "杭州"}'),
        ("action", "[CALL]look-up.v2"),
        ("action_input", '[ID]call00002[ARGS]{"days": 3}'),
    ],
    "json then name": [
        ("thought", "I look."),
        ("action_input", '<calls><in>{"city": "杭州"}'),
        ("action", "</in><to>get_weather</to>"),
        ("action_input", '<in>{"days": 3}'),
        ("action", "</in><to>look-up.v2</to></calls>"),
    ],
    "name as key": [
        ("thought", "I look."),
        ("action", 'functools[{"get_weather'),
        ("action_input", '": {"city": "杭州"}}'),
        ("action", ', {"look-up.v2'),
        ("action_input", '": {"days": 3}}]'),
    ],
    "tag per parameter": [
        ("thought", "<think>\nHm.\n</think>\n\nI look."),
        ("action", "\n<tool_call>\n<function=get_weather"),
        ("action_input", ">\n<parameter=city>\n杭州\n</parameter>\n</function>\n</tool_call>"),
        ("action", "\n<tool_call>\n<function=look-up.v2"),
        ("action_input", ">\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"),
    ],
    "key and value tags": [
        ("thought", "<think>\nHm.\n</think>\n\nI look."),
        ("action", "<call>get_weather"),
        ("action_input", "<k>city</k><v>杭州</v></call>"),
        ("action", "<call>look-up.v2"),
        ("action_input", "<k>days</k><v>3</v></call>"),
    ],
    "python call": [
        ("action", "<py>[get_weather"),
        ("action_input", '(city="杭州")'),
        ("action", ", look-up.v2"),
        ("action_input", "(days=3)]</py>"),
        ("thought", "I look."),
    ],
    "python list": [
        ("action", "[get_weather"),
        ("action_input", '(city="杭州")'),
        ("action", ", look-up.v2"),
        ("action_input", "(days=3)]"),
    ],
}
SINGLE = {
    "bare json": [("action", '{"name": "get_weather'), ("action_input", '", "parameters": {"city": "杭州"}}')],
    "name on a line": [("action", "get_weather"), ("action_input", '\n{"city": "杭州"}')],
    "channels": [
        ("thought", "<|ch|>think<|go|>Hm."),
        ("action", "<|ch|>to=get_weather"),
        ("action_input", ' json<|go|>{"city": "杭州"}'),
    ],
}
THINKS = ("json in tags", "name then json", "tag per parameter", "key and value tags", "channels")


def row_of(answer: Message, tools: tuple[ToolSpec, ...] = ()) -> Conversation:
    return Conversation(messages=(ASKED, answer), tools=tools, source=SOURCE)


def encoder_of(folder: Path, kit: ModuleType, answer: str, **options) -> Encoder:
    return Encoder(kit.make_renderer(folder, kit.make_template(answer)), **options)


def parts_of(encoder: Encoder, row: Conversation) -> list[tuple[str, str]]:
    """(part, text) of the last answer."""
    text = encoder.encode_turns(row)[-1].turn.completion
    spans = encoder.dialect_of(row).find_parts(row, len(row.messages) - 1, text)
    return [(span.part, text[span.start : span.end]) for span in spans]


@pytest.mark.parametrize("form", [*CALLED, *SINGLE])
def test_parts_of_calls_in_every_form(tokenizer_folder: Path, native_kit: ModuleType, form: str):
    encoder = encoder_of(tokenizer_folder, native_kit, native_kit.ANSWERS[form])
    content = "" if form in SINGLE or form == "python list" else "I look."
    answer = Message(
        role="assistant",
        reasoning="Hm." if form in THINKS else "",
        content=content,
        tool_calls=TWO if form in CALLED else ONE,
    )
    wanted = [*(CALLED | SINGLE)[form], ("stop", "<|im_end|>")]
    assert parts_of(encoder, row_of(answer, native_kit.TOOLS)) == wanted


def test_every_form_has_its_parts(native_kit: ModuleType):
    assert set(CALLED) | set(SINGLE) == set(native_kit.ANSWERS)


def test_a_call_without_arguments_and_an_answer_without_calls(tokenizer_folder: Path, native_kit: ModuleType):
    encoder = encoder_of(tokenizer_folder, native_kit, native_kit.ANSWERS["tag per parameter"])
    bare = Message(role="assistant", tool_calls=(replace(ONE[0], arguments="{}"), TWO[1]))
    assert parts_of(encoder, row_of(bare, native_kit.TOOLS))[:2] == [
        (
            "action",
            "\n<tool_call>\n<function=get_weather>\n</function>\n</tool_call>\n<tool_call>\n<function=look-up.v2",
        ),
        ("action_input", ">\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"),
    ]
    said = Message(role="assistant", reasoning="Hm.", content="Sunny in get_weather.")
    wanted = [
        ("thought", "<think>\nHm."),
        ("final_answer", "\n</think>\n\nSunny in get_weather."),
        ("stop", "<|im_end|>"),
    ]
    for tools in (native_kit.TOOLS, ()):
        assert parts_of(encoder, row_of(said, tools)) == wanted
    assert parts_of(encoder, row_of(Message(role="assistant", content="")))[0] == ("stop", "<|im_end|>")


def test_marks_that_begin_alike_are_not_torn(tokenizer_folder: Path, native_kit: ModuleType):
    answer = (
        "{{- m.content }}{%- if m.tool_calls %}{{- '<calls>' }}{%- for c in m.tool_calls %}{{- '\\n<call name=' + "
        "c.function.name + '>' + (c.function.arguments | tojson) }}{%- endfor %}{{- '\\n</calls>' }}{%- endif %}"
    )
    encoder = encoder_of(tokenizer_folder, native_kit, answer)
    assert parts_of(encoder, row_of(Message(role="assistant", tool_calls=TWO), native_kit.TOOLS))[1:3] == [
        ("action_input", '>{"city": "杭州"}\n'),
        ("action", "<call name=look-up.v2"),
    ]


def weighed(encoder: Encoder, row: Conversation) -> Iterator[tuple[str, float]]:
    """(text of a token, its weight) of all completions."""
    for turn in encoder.encode_turns(row):
        weights = turn.token_weights()
        assert len(weights) == len(turn.ids) - turn.start
        yield from zip(
            [encoder.renderer.tokenizer.decode([one]) for one in turn.ids[turn.start :]], weights.tolist(), strict=True
        )


def react_row(**more) -> Conversation:
    call = Message(role="assistant", reasoning="I look.", tool_calls=(ToolCall(name="weather", arguments='{"c": 1}'),))
    answer = Message(role="assistant", reasoning="I know.", content="Sunny.", **more)
    tool = ToolSpec(name="weather", description="d", parameters={"type": "object", "properties": {"c": {}}})
    messages = (ASKED, call, Message(role="tool", content="sunny"), answer)
    return Conversation(messages=messages, tools=(tool,), style="react", source=SOURCE)


def test_tokens_have_the_weight_of_their_part_and_message(tokenizer_folder: Path):
    encoder = Encoder.from_folder(tokenizer_folder, weights=DISTINCT)
    seen: dict[float, str] = {}
    for text, weight in weighed(encoder, react_row(weight=10.0)):
        seen[weight] = seen.get(weight, "") + text
    assert seen == {
        0.5: "Thought: I look.\n",
        2.0: "Action: weather\n",
        3.0: 'Action Input: {"c": 1}\n',
        7.0: "Observation:",
        5.0: "Thought: I know.\n",
        50.0: "Final Answer: Sunny.",
        70.0: "<|im_end|>",
    }


def same_layout(one: TokenTree, two: TokenTree) -> bool:
    names = ("input_ids", "positions", "end")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_weights_change_nothing_but_weights(tokenizer_folder: Path):
    plain = Encoder.from_folder(tokenizer_folder).encode(react_row())
    ones = Encoder.from_folder(tokenizer_folder, weights=PartWeights()).encode(react_row())
    for name in TokenTree.__slots__[:-1]:
        assert getattr(plain, name).tobytes() == getattr(ones, name).tobytes()
    other = Encoder.from_folder(tokenizer_folder, weights=DISTINCT).encode(react_row())
    assert same_layout(plain, other)
    assert plain.target_ids.tobytes() == other.target_ids.tobytes()
    assert set(plain.target_weights) == {1.0}
    scaled = Encoder.from_folder(tokenizer_folder, weights=read_weights(["assistant=2"])).encode(react_row())
    assert (scaled.target_weights == 2 * plain.target_weights).all()


def test_parts_of_weight_0_are_no_targets(tokenizer_folder: Path):
    encoder = Encoder.from_folder(tokenizer_folder, weights=read_weights(["thought=0", "final_answer=0"]))
    tree = encoder.encode(react_row(train=False))
    assert encoder.renderer.tokenizer.decode(tree.target_ids) == 'Action: weather\nAction Input: {"c": 1}\nObservation:'
    answer = row_of(Message(role="assistant", content="Sunny."))
    assert encoder.renderer.tokenizer.decode(encoder.encode(answer).target_ids) == "<|im_end|>"
    with pytest.raises(RenderError, match="weighed 0") as caught:
        Encoder.from_folder(tokenizer_folder, weights=read_weights(["stop=0", "final_answer=0"])).encode(answer)
    assert caught.value.code == "nothing-trained"
    assert "--loss_weights" in str(caught.value.fix)


def test_what_cannot_be_told_apart_is_refused(tokenizer_folder: Path, native_kit: ModuleType):
    renderer = native_kit.make_renderer(tokenizer_folder, native_kit.make_template(native_kit.APART))
    row = row_of(Message(role="assistant", content="I look.", tool_calls=ONE), native_kit.TOOLS)
    allowed = {"allow_loss": ["reading", "call", "arguments", "content"]}
    Encoder(renderer, **allowed).encode(row)  # nothing to tell apart
    Encoder(renderer, weights=read_weights(["assistant=2"]), **allowed).encode(row)
    with pytest.raises(RenderError) as caught:
        Encoder(renderer, weights=DISTINCT, **allowed).encode(row)
    assert (caught.value.code, caught.value.field) == ("parts-unknown", "messages[1]")


def test_a_token_belongs_to_the_part_of_its_first_character():
    spans = [
        Span(start=0, end=3, part="thought"),
        Span(start=3, end=9, part="action"),
        Span(start=9, end=9, part="stop"),
    ]
    assert weigh_tokens([0, 2, 3, 8], spans, DISTINCT).tolist() == [0.5, 0.5, 2.0, 2.0]
    assert weigh_tokens([], [], DISTINCT).tolist() == []
    assert weigh_tokens([0], [], DISTINCT).tolist() == [7.0]


def bytes_tokenizer() -> TextTokenizer:
    """Characters without a token are bytes; a blank is put before a text and cut from what is decoded."""
    letters = ["▁", *"abc:"]
    vocabulary = {"<unk>": 0} | {f"<0x{value:02X}>": 1 + value for value in range(256)}
    vocabulary |= {letter: 257 + at for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return TextTokenizer(tokenizer, {})


def test_tokens_are_found_where_characters_are_made_of_several(tokenizer_folder: Path):
    fallback = bytes_tokenizer()
    ids = fallback.encode("a:杭州\nb 州")
    places = TokenPlaces(fallback)
    text, begins = places.locate([*fallback.encode("c"), *ids], 1)
    assert text == "a:杭州\nb 州"
    assert begins == [0, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 7, 7]
    assert places._locate_slowly([*fallback.encode("c"), *ids], 1) == (text, begins)
    split = TextTokenizer.from_folder(tokenizer_folder)
    ids = split.encode("Thought: 鼹鼠 😀\nAction: 鼹")
    places = TokenPlaces(split)
    text, begins = places.locate(ids, 0)
    assert text == "Thought: 鼹鼠 😀\nAction: 鼹"
    assert places._locate_slowly(ids, 0) == (text, begins)
    for token, begin in zip(ids, begins, strict=True):
        piece = split.decode([token])
        assert "\ufffd" in piece or text.startswith(piece, begin)


@pytest.mark.parametrize(
    ("text", "written", "moved"),
    [
        ("ab", "ab", [0, 1, 2]),
        (" a b", "a b", [0, 0, 1, 2, 3]),
        ("\n\na", "\na", [0, 1, 1, 2]),
        ("ab", "a  b", [0, 3, 4]),
        ("a ", "a", [0, 1, 1]),
        ("a", "a\n", [0, 2]),
        ("é", "e\u0301", None),
        ("a", "ab", None),
        ("ab", "a", None),
    ],
)
def test_blanks_that_a_tokenizer_adds_move_nothing(text: str, written: str, moved: list[int] | None):
    assert move_to(text, range(len(text) + 1), written) == moved


def test_a_blank_before_the_first_marker_hides_no_part(tmp_path: Path, tokenizer_folder: Path):
    """Tokenizers made with SentencePiece put a blank behind a control token: `Action:` then decodes as ` Action:`."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_folder / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    config["pre_tokenizer"]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '<|im_end|>' + m.content + '<|im_end|>' }}{%- endfor %}"
    )
    template += "{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_end|>' }}{%- endif %}"
    (tmp_path / "t.jinja").write_text(template)
    encoder = Encoder.from_folder(tmp_path, chat_template=tmp_path / "t.jinja", weights=DISTINCT)
    row = react_row()
    call = replace(row.messages[1], reasoning="")
    seen: dict[float, str] = {}
    for text, weight in weighed(encoder, replace(row, messages=(ASKED, call, *row.messages[2:]))):
        seen[weight] = seen.get(weight, "") + text
    assert seen[2.0].strip() == "Action: weather"
    assert seen[5.0].strip() == "Final Answer: Sunny."
