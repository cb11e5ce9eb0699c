from __future__ import annotations

import json

import pytest

from actune.core import react
from actune.core.errors import ConfigError, DataError
from actune.core.parts import PARTS, PartWeights, read_weights
from actune.core.types import Message, ToolCall


def split(text: str) -> list[tuple[str, str]]:
    return [(span.part, text[span.start : span.end]) for span in react.find_parts(text)]


def test_parts_that_are_not_named_keep_their_weight():
    assert read_weights([]) == PartWeights()
    assert read_weights([]).uniform == 1
    found = read_weights(["thought=0.5", "action-input = 2e1", "stop=0"])
    assert [found.of(part) for part in PARTS] == [0.5, 1, 20, 1, 0]
    assert found.uniform is None


def test_the_role_scales_every_part():
    found = read_weights(["assistant=2", "thought=0.25"])
    assert [found.of(part) for part in PARTS] == [0.5, 2, 2, 2, 2]
    assert read_weights(["assistant=3"]).uniform == 3


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["thought"], "not NAME=VALUE"),
        (["thoughts=1"], "did you mean thought?"),
        (["Final_Answers=1"], "did you mean final_answer?"),
        (["zzz=1"], "there are thought, action"),
        (["observation=1"], "the agent never writes"),
        (["user=0"], "the agent never writes"),
        (["stop=1", "stop=1"], "given twice"),
        (["stop=-1"], "finite number of 0 or more"),
        (["stop=nan"], "finite number of 0 or more"),
        (["stop=inf"], "finite number of 0 or more"),
        (["stop="], "finite number of 0 or more"),
        (["assistant=0"], "nothing would be trained"),
        ([f"{part}=0" for part in PARTS], "nothing would be trained"),
    ],
)
def test_wrong_weights_are_refused(pairs: list[str], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        read_weights(pairs)
    assert caught.value.fix


def test_parts_of_a_step_begin_at_their_markers():
    call = 'Thought: Action: is what I need\nAction: weather\nAction Input: {"a":\n1}\nObservation:'
    assert split(call) == [
        ("thought", "Thought: Action: is what I need\n"),
        ("action", "Action: weather\n"),
        ("action_input", 'Action Input: {"a":\n1}\n'),
        ("stop", "Observation:"),
    ]
    assert split("I look.\nAction: a\nAction Input: {}")[0] == ("thought", "I look.\n")
    assert split("Thought: done\nFinal Answer: 3\nThought: no marker that counts") == [
        ("thought", "Thought: done\n"),
        ("final_answer", "Final Answer: 3\nThought: no marker that counts"),
    ]
    assert split("Final Answer: 3") == [("final_answer", "Final Answer: 3")]
    assert split("Just text") == [("final_answer", "Just text")]
    assert split("") == []


def test_parts_of_what_is_no_step_are_refused():
    with pytest.raises(DataError):
        react.find_parts("Thought: only")


@pytest.mark.parametrize("reasoning", ["", "I think.\n\nTwice"])
def test_every_step_that_is_written_has_its_parts(reasoning: str):
    arguments = json.dumps({"city": "杭州\nObservation: no"}, ensure_ascii=False)
    step = Message(role="assistant", reasoning=reasoning, tool_calls=(ToolCall(name="w", arguments=arguments),))
    parts = dict(split(react.write_step(step)))
    assert parts["action"] == "Action: w\n"
    assert parts["action_input"] == f"Action Input: {arguments}\n"
    assert parts.get("thought", "") == (f"Thought: {reasoning}\n" if reasoning else "")
