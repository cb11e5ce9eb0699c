"""Outputs read back: what a template writes of any message is that message again; any other text never crashes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actune.core.errors import DataError
from actune.core.types import Message, ToolCall
from actune.render.chat import ChatRenderer
from actune.render.native import NativeFormat, learn_format

ESCAPED = [
    "json in tags",
    "json list with ids",
    "name then json",
    "json then name",
    "name as key",
    "python call",
    "python list",
]
RAW = ["tag per parameter", "key and value tags"]
SINGLE = ["bare json", "name on a line", "channels"]
BARE = [*SINGLE, "python list"]  # no text beside a call
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

# Pieces that formats are made of, and anything else that can be printed.
PIECES = st.sampled_from([
    "<tool_call>", "</tool_call>", "[TOOL_CALLS] [", "[CALL]", "[ID]", "[ARGS]", "<calls>", "<in>", "</in>", "<to>", "</to>",
    "functools[", "<function=", "<parameter=", "</parameter>", "</function>", "<call>", "<k>", "</k><v>", "</v>", "<py>[",
    "(", ")]</py>", "<|ch|>", "<|go|>", "think", "final", "to=", " json", "<think>", "</think>", '{"name": "get_weather"',
    ', "arguments": {', '"city"', ": ", ", ", "}", "]", '"', "'", "\\", "\n", " ", "get_weather", "city", "days", "3", "null",
])  # fmt: skip
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
OUTPUTS = st.lists(st.one_of(PIECES, WORDS), max_size=14).map("".join)
TEXTS = st.lists(st.one_of(st.sampled_from(['"', "'", "\\", "\n", "{", "}", "[", "]", "``", "é", "杭州", "1", ", ", "= "]), WORDS),
                 max_size=6).map("".join)  # fmt: skip
# Text outside of calls and in values without escapes: nothing that could be a marker.
MILD = TEXTS.map(lambda text: text.replace("<", "(").replace("|", "/").replace("[", "(").strip())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(-1e6, 1e6))


def arguments_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    deep = st.recursive(st.one_of(LEAVES, TEXTS), lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=5)  # fmt: skip
    return st.fixed_dictionaries({}, optional={
        "city": texts, "days": st.integers(), "more": st.dictionaries(TEXTS, deep, max_size=3),
        "flags": st.lists(deep, max_size=3), "sure": st.booleans(), "note": st.none(),
    })  # fmt: skip


CALLS = st.tuples(st.sampled_from(["get_weather", "look-up.v2"]), arguments_of(st.one_of(TEXTS, PIECES)))
MILD_CALLS = st.tuples(st.sampled_from(["get_weather", "look-up.v2"]), arguments_of(MILD))


@pytest.fixture(scope="module")
def learnt(tokenizer_folder: Path, native_kit: ModuleType) -> dict[str, tuple[ChatRenderer, NativeFormat]]:
    found = {}
    for name, answer in native_kit.ANSWERS.items():
        renderer = native_kit.make_renderer(tokenizer_folder, native_kit.make_template(answer))
        found[name] = (renderer, learn_format(renderer))
    return found


def check(learnt: dict, kit: ModuleType, form: str, content: str, reasoning: str, calls: list) -> None:
    renderer, known = learnt[form]
    made = tuple(
        ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False), id=f"number{at}x")
        for at, (name, arguments) in enumerate(calls)
    )
    thinks = reasoning if form in ("json in tags", "name then json", *RAW, "channels") else ""
    text = kit.write_output(renderer, Message(role="assistant", content=content, reasoning=thinks, tool_calls=made))
    read = known.parse(text, kit.TOOLS)
    assert [(call.name, call.parse_arguments()) for call in read.tool_calls] == calls
    assert (read.content, read.reasoning) == (content if not calls or form not in BARE else "", thinks)


@pytest.mark.parametrize("form", ESCAPED)
@QUICK
@given(content=MILD, reasoning=MILD, calls=st.lists(CALLS, max_size=3))
def test_any_message_comes_back(learnt, native_kit, form, content, reasoning, calls):
    check(learnt, native_kit, form, content or "Well.", reasoning, calls)


@pytest.mark.parametrize("form", RAW)
@QUICK
@given(content=MILD, reasoning=MILD, calls=st.lists(MILD_CALLS, max_size=3))
def test_values_without_escapes_come_back(learnt, native_kit, form, content, reasoning, calls):
    check(learnt, native_kit, form, content or "Well.", reasoning, calls)


@pytest.mark.parametrize("form", SINGLE)
@QUICK
@given(content=MILD, reasoning=MILD, calls=st.lists(CALLS, max_size=1))
def test_formats_with_one_call_come_back(learnt, native_kit, form, content, reasoning, calls):
    check(learnt, native_kit, form, "Well: " + content, reasoning, calls)


@settings(parent=QUICK, max_examples=300)
@given(text=OUTPUTS)
def test_any_text_is_a_message_or_an_unreadable_call(learnt, native_kit, text):
    for _, known in learnt.values():
        for tools in (native_kit.TOOLS, ()):
            try:
                read = known.parse(text, tools)
            except DataError as error:
                assert error.code == "call-unreadable"  # noqa: PT017 - either outcome is right
                continue
            assert all(isinstance(call.parse_arguments(), dict) and call.name for call in read.tool_calls)
            if not read.tool_calls and not read.reasoning:
                assert read.content in text
