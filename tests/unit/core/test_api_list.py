from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core import api_list
from actune.core.errors import DataError
from actune.core.types import ToolSpec

# The reference recipe's own prompt for its fire-alarm scenario (two of its four entries).
FIRE = (
    "Answer the following questions as best you can. You have access to the following APIs:\n"
    "1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize "
    'whether there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize '
    'fire", "required": "True"}]\n\n'
    "2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the "
    "building's administraters. Parameters: []\n\n"
    "Use the following format:\n\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[fire_recognition, fire_alert]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n"
    "Begin!"
)


def test_reference_system_text_is_read_and_written_back():
    block = api_list.read_system(FIRE)
    assert block is not None
    assert [tool.name for tool in block.tools] == ["fire_recognition", "fire_alert"]
    schema = block.tools[0].parameters
    assert schema["required"] == ["image"]
    assert schema["properties"]["image"] == {"description": "The input image to recognize fire"}
    assert api_list.write_system(block.system, block.tools) == FIRE


def test_own_system_text_stands_before_the_block():
    block = api_list.read_system("You are a robot.\n\n" + FIRE)
    assert block is not None
    assert block.system == "You are a robot."
    assert api_list.write_system(block.system, block.tools).endswith(FIRE)


def test_both_languages_share_one_grammar():
    block = api_list.read_system(FIRE)
    assert block is not None
    chinese = api_list.write_system("", block.tools, "zh")
    again = api_list.read_system(chinese)
    assert again is not None
    assert (again.language, again.tools) == ("zh", block.tools)
    for marker in ("Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:"):
        assert f"\n{marker}" in chinese


def test_unescaped_quotes_in_a_list_are_read_and_reported():
    broken = FIRE.replace("The input image to recognize fire", 'The image, "" if none')
    block = api_list.read_system(broken)
    assert block is not None
    assert block.repaired == ("fire_recognition",)
    assert block.tools[0].parameters["properties"]["image"]["description"] == 'The image, "" if none'
    assert len(block.tools) == 2


@pytest.mark.parametrize("damage", ["Parameters: [{", "Parameters: 7", "no list"])
def test_unreadable_list_is_an_error(damage: str):
    with pytest.raises(DataError) as caught:
        api_list.read_system(FIRE.replace("Parameters: []", damage))
    assert caught.value.code == "api-list-unreadable"


def test_text_without_api_list_has_no_tools():
    assert api_list.read_system("You are helpful.") is None


def test_types_and_flags_of_lists_become_json_schema():
    schema = api_list.schema_of_list(
        [
            {"name": "a", "description": "d", "required": True, "type": "int"},
            {"name": "b", "required": "false", "schema": {"type": "array", "items": {"type": "string"}}},
        ]
    )
    assert schema["required"] == ["a"]
    assert schema["properties"]["a"]["type"] == "integer"
    assert schema["properties"]["b"] == {"type": "array", "items": {"type": "string"}}


NAMES = st.text(alphabet="abcxyz_", min_size=1, max_size=8)
TEXT = st.text(alphabet="ab 中文\n{}:[]\"'", max_size=30).map(str.strip)


@given(
    st.lists(
        st.tuples(NAMES, TEXT, st.dictionaries(NAMES, TEXT, max_size=3)),
        min_size=1,
        max_size=3,
        unique_by=lambda t: t[0],
    )
)
def test_written_tools_are_read_back(specs: list[tuple[str, str, dict[str, str]]]):
    tools = [
        ToolSpec(
            name=name,
            description=description,
            parameters={
                "type": "object",
                "properties": {key: {"description": text, "type": "string"} for key, text in properties.items()},
                "required": list(properties)[:1],
            },
        )
        for name, description, properties in specs
    ]
    text = api_list.write_system("", tools)
    block = api_list.read_system(text)
    assert block is not None
    assert api_list.write_system(block.system, block.tools) == text
    assert [(t.name, t.description) for t in block.tools] == [(t.name, t.description) for t in tools]
    for got, want in zip(block.tools, tools, strict=True):
        assert got.parameters["properties"] == want.parameters["properties"]
