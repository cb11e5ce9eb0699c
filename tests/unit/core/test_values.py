from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.core.errors import ActuneError, ConfigError, DataError
from actune.core.types import ToolCall
from actune.core.values import read_literal, read_value, read_variables

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_and_python_literals_give_the_same_value(value: object):
    assert read_value(json.dumps(value)) == value
    assert read_value(json.dumps(value, ensure_ascii=False)) == value
    assert read_literal(repr(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "one" "two"}',  # Python would join them; in data they are unescaped quotes
        "{'a': {1, 2}}",
        "{1: 2}",
        "__import__('os').system('true')",
        "{'a': b'bytes'}",
        "{'a': 1e999}",
        "(1, 2)",
        "{'a'",
        "",
        "[" * 10_000,
    ],
)
def test_anything_else_is_no_value(text: str):
    assert read_literal(text) is None


@pytest.mark.parametrize("text", ["[1]", '"text"', "7", "city=Hangzhou", "{broken"])
def test_arguments_must_be_an_object(text: str):
    with pytest.raises(DataError) as caught:
        ToolCall(name="f", arguments=text).parse_arguments()
    assert caught.value.code == "arguments-unreadable"
    assert "'f'" in caught.value.message


def test_arguments_keep_their_text_and_parse_as_python_too():
    call = ToolCall(name="f", arguments="{'on': True, 'n': None}")
    assert call.parse_arguments() == {"on": True, "n": None}
    assert call.arguments == "{'on': True, 'n': None}"


@pytest.mark.parametrize("kind", ActuneError.__subclasses__())
def test_errors_survive_pickling(kind: type[ActuneError]):
    import pickle

    error = kind("what", fix="do", **_places(kind))
    again = pickle.loads(pickle.dumps(error))  # our own object, to cross a process boundary
    assert type(again) is kind
    assert str(again) == str(error) == "what\n  fix: do"
    assert vars(again) == vars(error)


def _places(kind: type[ActuneError]) -> dict[str, str]:
    return {"code": "c", "field": "f"} if kind.__name__ in ("DataError", "RenderError") else {}


def test_variables_of_a_template_are_json_or_text():
    given = ["enable_thinking=false", "level=3", "name=Ada Lovelace", 'more={"a": [1]}', "empty=", "sum=a=b"]
    assert read_variables(given) == {
        "enable_thinking": False, "level": 3, "name": "Ada Lovelace", "more": {"a": [1]}, "empty": "", "sum": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["enable_thinking", "=1", "a b=1", "messages=[]", "tools=1"])
def test_variables_that_are_none_are_refused(pair: str):
    with pytest.raises(ConfigError, match="template_variables"):
        read_variables([pair])
