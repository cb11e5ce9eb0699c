"""Parts of answers: whatever a message holds, they are the whole answer in order, and each piece stands in its own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actune.core import react
from actune.core.parts import PARTS, PartWeights
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.encoder import Encoder

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
SOURCE = Source(file="x", line=1)
FORMS = ("json in tags", "json list with ids", "name then json", "json then name", "name as key", "python call",
         "tag per parameter", "key and value tags")  # fmt: skip
THINKS = ("json in tags", "name then json", "tag per parameter", "key and value tags")
# No marks of a format or of ReAct, which would be read as such.
MILD = st.text(st.sampled_from("ab :\"'\\\n{}0é杭😀"), max_size=10).map(str.strip)
ARGUMENTS = st.fixed_dictionaries({}, optional={"city": MILD, "days": st.integers(), "sure": st.booleans()})
CALLS = st.lists(st.tuples(st.sampled_from(["get_weather", "look-up.v2"]), ARGUMENTS), max_size=3)
WEIGHTS = st.builds(PartWeights, **{part: st.sampled_from([0.0, 0.5, 1.0, 3.0]) for part in PARTS})


@pytest.fixture(scope="module")
def encoders(tokenizer_folder: Path, native_kit: ModuleType) -> dict[str, Encoder]:
    templates = {form: native_kit.make_template(native_kit.ANSWERS[form]) for form in FORMS}
    return {form: Encoder(native_kit.make_renderer(tokenizer_folder, text)) for form, text in templates.items()}


def make_calls(calls: list) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False), id=f"number{at}x")
        for at, (name, arguments) in enumerate(calls)
    )


def split(encoder: Encoder, row: Conversation) -> list[tuple[str, str]]:
    """(part, text) of the last answer; they are all of it."""
    dialect, index = encoder.dialect_of(row), len(row.messages) - 1
    text = dialect.completion(row, index, dialect.prompt(row, index))
    spans = dialect.find_parts(row, index, text)
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(text)
    assert all(one.part != two.part for one, two in pairwise(spans))
    return [(span.part, text[span.start : span.end]) for span in spans]


@pytest.mark.parametrize("form", FORMS)
@QUICK
@given(content=MILD, reasoning=MILD, calls=CALLS)
def test_pieces_of_native_answers_stand_in_their_parts(encoders, native_kit, form, content, reasoning, calls):
    thinks = reasoning if form in THINKS else ""
    answer = Message(role="assistant", content=content or "Well.", reasoning=thinks, tool_calls=make_calls(calls))
    row = Conversation(messages=(Message(role="user", content="?"), answer), tools=native_kit.TOOLS, source=SOURCE)
    found = split(encoders[form], row)
    assert found[-1] == ("stop", "<|im_end|>")
    said = "thought" if calls else "final_answer"
    assert thinks in "".join(text for part, text in found if part == "thought")
    assert answer.content in "".join(text for part, text in found if part == said)
    for name, _ in calls:
        assert any(part == "action" and name in text for part, text in found)
    inputs = iter([text for part, text in found if part == "action_input"])
    for _, arguments in calls:
        if arguments:
            shown = next(text for text in inputs if all(key in text for key in arguments))
            for value in arguments.values():
                shapes = {str(value), json.dumps(value), json.dumps(value, ensure_ascii=False)}
                assert any(shape in shown for shape in shapes)


@QUICK
@given(
    content=MILD,
    reasoning=MILD,
    calls=CALLS.map(lambda calls: calls[:1]),
    weights=WEIGHTS,
    own=st.sampled_from([0.5, 2]),
)
def test_weights_of_tokens_are_those_of_part_times_message(tokenizer_folder, content, reasoning, calls, weights, own):
    answer = Message(
        role="assistant",
        content="" if calls else content or "Well.",
        reasoning=reasoning,
        tool_calls=make_calls(calls),
        weight=own,
    )
    tool = ToolSpec(name="get_weather", parameters={"type": "object"})
    row = Conversation(
        messages=(Message(role="user", content="?"), answer), tools=(tool,), style="react", source=SOURCE
    )
    encoder = Encoder.from_folder(tokenizer_folder, weights=weights)
    (turn,) = encoder.encode_turns(row)
    wanted: list[float] = []  # of each byte: the tokenizer's tokens are whole bytes
    for span in react.find_parts(turn.turn.completion.removesuffix("<|im_end|>")):
        size = len(turn.turn.completion[span.start : span.end].encode())
        wanted += [weights.of(span.part) * own] * size
    wanted += [weights.stop * own] * (len(turn.turn.completion.encode()) - len(wanted))
    at, found = 0, []
    for token in turn.ids[turn.start :]:
        found.append(wanted[at])
        text = encoder.renderer.tokenizer.token_text(token)
        at += len(text)  # byte-level: one character stands for one byte
    assert at == len(wanted)
    assert np.array_equal(turn.token_weights(), np.array(found, dtype=np.float32))
