"""Parser specs as they are written: the rules of the servers, anchors, what cannot be said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.types import Message, ToolCall
from actune.render.native import learn_format
from actune.render.native_calls import Tail
from actune.render.response_patterns import Unsayable, find_edges, none_of
from actune.render.response_template import build_react_templates, build_templates
from actune.render.response_trials import Trial, compare

UNSAYABLE = {
    "json then name": "before its name",
    "name on a line": "nothing marks where calls begin",
}


@pytest.fixture(scope="module")
def built(tokenizer_folder: Path, native_kit: ModuleType) -> dict:
    """Candidates of every form, and one whose prompt opens the reasoning."""
    templates = {name: native_kit.make_template(answer) for name, answer in native_kit.ANSWERS.items()}
    templates["opened"] = native_kit.make_template(native_kit.OPENED, opened="<think>\\n")
    templates["apart"] = native_kit.make_template(native_kit.APART)
    found = {}
    for name, template in templates.items():
        renderer = native_kit.make_renderer(tokenizer_folder, template)
        found[name] = build_templates(learn_format(renderer), renderer)
    return found


def test_forms_without_expression_have_a_reason(built: dict):
    for name, words in UNSAYABLE.items():
        assert not built[name].specs
        assert words in built[name].reason
    assert built["apart"].specs == ()
    assert built["apart"].reason


def test_all_others_have_specs(built: dict):
    assert {name for name, found in built.items() if not found.specs} == {*UNSAYABLE, "apart"}


def test_servers_accept_the_fields(built: dict, tokenizer_folder: Path, native_kit: ModuleType):
    # vLLM and SGLang route these three fields and no others; texts have to stream as they are.
    renderer = native_kit.make_renderer(tokenizer_folder, native_kit.make_template(native_kit.ANSWERS["json in tags"]))
    for spec in [*build_react_templates(renderer), *(spec for found in built.values() for spec in found.specs)]:
        assert spec["defaults"] == {"role": "assistant"}
        assert set(spec["fields"]) <= {"thinking", "tool_calls", "content"}
        assert len({"start_anchor", "start_anchor_pattern"} & set(spec)) == 1
        for name in ("thinking", "content"):
            field = spec["fields"].get(name, {"content": "text"})
            assert field["content"] == "text"
            assert not {"transform", "join", "repeats"} & set(field)
        json.dumps(spec)


def test_anchor_stands_before_reasoning_that_the_prompt_opens(built: dict):
    spec = built["opened"].specs[0]
    assert spec["start_anchor"] == "<|im_start|>assistant\n"
    assert spec["fields"]["thinking"] == {"open": "<think>", "close": "</think>", "content": "text"}


def test_a_call_that_nothing_ends_is_closed_by_literals(built: dict):
    # A server puts a stop token back only where it is a literal closer.
    closers = built["name then json"].specs[0]["fields"]["tool_calls"]["close"]
    assert closers == ["[CALL]", "<|im_end|>"]


def test_edges_inside_a_block():
    edges = find_edges("<calls><call>", Tail("</call>\n<call>", "</call>\n</calls>"), ["<end>"])
    assert edges.closes == ("</call>",)
    assert edges.rest == ("</calls>",)
    assert re.fullmatch(edges.opens, "<calls>\n<call>")
    assert re.fullmatch(edges.opens, "\n<call>")
    with pytest.raises(Unsayable, match="between two calls"):
        find_edges("<calls>", Tail("", "</calls>"), ["<end>"])


@pytest.mark.parametrize("text", ["", "  ", "A", "Act", "Actions:", "Final", "x", "Thought", "{}", "晴"])
def test_text_that_begins_with_no_marker(text: str):
    assert re.match(rf"\s*+{none_of(['Thought:', 'Action:', 'Action Input:', 'Final Answer:'])}", text)


@pytest.mark.parametrize("text", ["Action:", " Action: x", "Action Input: {}", "\nThought:\n", "Final Answer: 1"])
def test_text_that_begins_with_a_marker(text: str):
    assert not re.match(rf"\s*+{none_of(['Thought:', 'Action:', 'Action Input:', 'Final Answer:'])}", text)


@pytest.mark.parametrize("text", ["", "A", "Act", "Final"])
def test_the_beginning_of_a_marker_is_none_for_parsers_that_do_not_ask_for_more(text: str):
    pattern = rf"\s*+{none_of(['Action:', 'Final Answer:'], at_end=False)}"
    assert not re.match(pattern, text)
    assert re.match(pattern, text + "x")


def test_what_comes_back_changed_is_named():
    call = ToolCall(name="f", arguments='{"n": 1, "none": null}')
    trial = Trial(prompt="", text="", message=Message(role="assistant", content=" hi\n", tool_calls=(call,)), tools=())

    def read(arguments: object, content: str = "hi", thinking: str = "") -> str | None:
        calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
        return compare(trial, {"content": content, "thinking": thinking, "tool_calls": calls})

    assert read({"n": 1}) is None
    assert "are read as" in str(read({"n": "1"}))
    assert "are read as" in str(read({"n": True}))
    assert "are read as" in str(read('{"n": 1}'))
    assert "reasoning and text" in str(read({"n": 1}, content="", thinking="hi"))
    assert "are read as []" in str(compare(trial, {"content": "hi"}))
