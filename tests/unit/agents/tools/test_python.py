"""Tools from a Python file: schemas from signatures, descriptions from docstrings, arguments as the annotations say."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from actune.agents.tools.docstrings import join_lines
from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.python import load_python
from actune.agents.tools.toolbox import Toolbox
from actune.core.api_list import read_system, write_system
from actune.core.errors import ConfigError
from actune.core.types import ToolCall

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "fire_alarm"
# The system text of the reference recipe's fire alarm.
REFERENCE = """\
Answer the following questions as best you can. You have access to the following APIs:
1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize whether \
there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize fire", \
"required": "True"}]

2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the building's \
administraters. Parameters: []

3. call_police: Call this tool to interact with the police calling API. This API will call 110 to catch the thief. \
Parameters: []

4. call_fireman: Call this tool to interact with the fireman calling API. This API will call 119 to extinguish the \
fire. Parameters: []

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[fire_recognition, fire_alert, call_police, call_fireman]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""


def load(tmp_path: Path, source: str, name: str = "tools.py") -> Toolbox:
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    return load_toolbox([str(path)])


def one(tmp_path: Path, source: str):
    (spec,) = load(tmp_path, source).specs
    return spec


def call(toolbox: Toolbox, name: str, **arguments):
    return toolbox.call(ToolCall(name=name, arguments=json.dumps(arguments)))


# --- which functions --------------------------------------------------------------------------------------------------


def test_public_functions_of_the_file_are_tools_in_order(tmp_path: Path):
    source = '''
import functools
from os.path import join
from json import *

class Weather:
    pass

def second() -> str:
    """B."""
    return "b"

def _hidden() -> str:
    return ""

@functools.cache
def first(city: str) -> str:
    """A."""
    return "a " + city

async def third() -> str:
    """C."""
    import asyncio
    await asyncio.sleep(0)
    return "c"

lambda_ = None
'''
    toolbox = load(tmp_path, source)
    assert [spec.name for spec in toolbox.specs] == ["second", "first", "third"]
    assert call(toolbox, "first", city="x").text == "a x"
    assert call(toolbox, "third").text == "c"


def test_all_says_which(tmp_path: Path):
    (tmp_path / "actune_test_helper.py").write_text(
        'def imported() -> str:\n    "I."\n    return "i"\n', encoding="utf-8"
    )
    source = (
        "from actune_test_helper import imported\n__all__ = ['imported', 'b', 'LIMIT']\nLIMIT = 5\n"
        "def a() -> str: 'A.'\ndef b() -> str: 'B.'\n"
    )
    assert [spec.name for spec in load(tmp_path, source).specs] == ["imported", "b"]
    with pytest.raises(ConfigError, match="__all__ names 'gone'"):
        load(tmp_path, "__all__ = ['gone']")
    with pytest.raises(ConfigError, match="no list of names"):
        load(tmp_path, "__all__ = 5")


# --- schemas ----------------------------------------------------------------------------------------------------------

TYPES = '''
from __future__ import annotations
import datetime, enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional
from pydantic import BaseModel, Field

@dataclass
class Place:
    """A place."""
    lat: float
    lon: float = 0.0

class Color(enum.Enum):
    RED = "red"

class Trip(BaseModel):
    title: str
    day: datetime.date

def f(a: str, b: int, c: float, d: bool, e: None, g: list[int], h: dict[str, float], i: Literal["x", "y"],
      j: Optional[int], k: int | str, m: Annotated[str, "Text of m."], n: Annotated[int, Field(description="N.", ge=1)],
      o: Place, p: list[Place], q: Trip, r: Any, s: Color, t: datetime.date, json: str = "j", schema: int = 5,
      u: Optional[str] = None, v: Place = Place(1.0), w: object = object()) -> str:
    """All types."""
    return "|".join([type(o).__name__, type(p[0]).__name__, type(q).__name__, type(s).__name__, type(t).__name__,
                     repr(k), repr(json), repr(schema), repr(v.lat)])
'''


def test_the_schema_says_what_the_signature_says(tmp_path: Path):
    spec = one(tmp_path, TYPES.replace(", w: object = object()", ""))
    properties = spec.parameters["properties"]
    place = {
        "type": "object", "description": "A place.", "required": ["lat"], "additionalProperties": False,
        "properties": {"lat": {"type": "number"}, "lon": {"type": "number", "default": 0.0}},
    }  # fmt: skip
    assert properties == {
        "a": {"type": "string"},
        "b": {"type": "integer"},
        "c": {"type": "number"},
        "d": {"type": "boolean"},
        "e": {"type": "null"},
        "g": {"type": "array", "items": {"type": "integer"}},
        "h": {"type": "object", "additionalProperties": {"type": "number"}},
        "i": {"type": "string", "enum": ["x", "y"]},
        "j": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "k": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "m": {"type": "string", "description": "Text of m."},
        "n": {"type": "integer", "minimum": 1, "description": "N."},
        "o": place,
        "p": {"type": "array", "items": place},
        "q": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "day": {"type": "string", "format": "date"}},
            "required": ["title", "day"],
        },
        "r": {},
        "s": {"type": "string", "enum": ["red"]},
        "t": {"type": "string", "format": "date"},
        "json": {"type": "string", "default": "j"},
        "schema": {"type": "integer", "default": 5},
        "u": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "v": place | {"default": {"lat": 1.0, "lon": 0.0}},
    }
    assert spec.parameters["required"] == [name for name in properties if name not in ("json", "schema", "u", "v")]
    assert list(spec.parameters) == ["type", "properties", "required"]
    json.dumps(spec.describe())


def test_arguments_become_what_the_annotations_say(tmp_path: Path):
    toolbox = load(tmp_path, TYPES)
    given = {
        "a": "", "b": 1, "c": 2, "d": True, "e": None, "g": [1], "h": {"x": 1}, "i": "x", "j": None, "k": "5", "m": "",
        "n": 1, "o": {"lat": 1}, "p": [{"lat": 2}], "q": {"title": "t", "day": "2024-01-01"}, "r": [], "s": "red",
        "t": "2024-02-29",
    }  # fmt: skip
    assert call(toolbox, "f", **given).text == "Place|Place|Trip|Color|date|'5'|'j'|5|1.0"
    for wrong in (
        {"b": "5"}, {"b": True}, {"d": "true"}, {"c": "2"}, {"i": "z"}, {"n": 0}, {"o": {"lat": 1, "x": 2}}, {"k": 1.5},
        {"t": "2023-02-29"}, {"q": {"title": "t"}}, {"g": "1"}, {"g": ["1"]}, {"s": "blue"}, {"extra": 1},
    ):  # fmt: skip
        observation = call(toolbox, "f", **(given | wrong))
        assert observation.error == "arguments-invalid", (wrong, observation)
        assert next(iter(wrong)) in observation.text


def test_a_type_that_contains_itself_keeps_its_definition(tmp_path: Path):
    source = '''
from dataclasses import dataclass
@dataclass
class Node:
    value: int
    next: "Node | None" = None
def f(node: Node) -> int:
    """F."""
    return node.next.value
'''
    toolbox = load(tmp_path, source)
    assert "$defs" in toolbox.specs[0].parameters
    assert call(toolbox, "f", node={"value": 1, "next": {"value": 2}}).text == "2"
    assert call(toolbox, "f", node={"value": 1, "next": {"value": "2"}}).error == "arguments-invalid"


def test_titles_go_and_parameters_called_title_stay(tmp_path: Path):
    spec = one(tmp_path, 'def f(title: str, default: dict = {"title": "x"}) -> str:\n    """F."""\n')
    assert spec.parameters["properties"]["title"] == {"type": "string"}
    assert spec.parameters["properties"]["default"]["default"] == {"title": "x"}


# --- docstrings -------------------------------------------------------------------------------------------------------

GOOGLE = """Give the weather.

    It is a forecast
    of several days.

    Args:
        city: The city,
            in Chinese.
        days (int): How many.

    Returns:
        A text.
    """
NUMPY = """Give the weather.

    It is a forecast
    of several days.

    Parameters
    ----------
    city : str
        The city,
        in Chinese.
    days : int
        How many.
    """
SPHINX = """Give the weather.

    It is a forecast
    of several days.

    :param city: The city,
        in Chinese.
    :param int days: How many.
    :returns: A text.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX])
def test_three_styles_of_docstrings(tmp_path: Path, text):
    spec = one(tmp_path, f'def f(city: str, days: int = 1) -> str:\n    """{text}"""\n')
    assert spec.description == "Give the weather. It is a forecast of several days."
    assert spec.parameters["properties"]["city"]["description"] == "The city, in Chinese."
    assert spec.parameters["properties"]["days"]["description"] == "How many."


def test_an_annotation_comes_before_the_docstring(tmp_path: Path):
    source = (
        "from typing import Annotated\nfrom pydantic import Field\n"
        "def f(a: Annotated[str, 'mine'], b: Annotated[str, Field(description='own')], c: Annotated[int, Field(ge=1)]):\n"
        '    """F.\n\n    Args:\n        a: doc\n        b: doc\n        c: doc\n    """\n'
    )
    properties = one(tmp_path, source).parameters["properties"]
    assert [properties[name]["description"] for name in "abc"] == ["mine", "own", "doc"]


def test_no_docstring_is_no_description(tmp_path: Path):
    spec = one(tmp_path, "def f() -> str: ...")
    assert (spec.description, spec.parameters) == ("", {"type": "object", "properties": {}})


def test_lines_join_with_blanks_only_where_words_need_them():
    assert join_lines("one\ntwo\n\nthree") == "one two three"
    assert join_lines("查询天气，\n返回文本。") == "查询天气，返回文本。"
    assert join_lines("城市\nname") == "城市 name"
    assert join_lines("Units:\n- C\n- F\n1. x") == "Units:\n- C\n- F\n1. x"


# --- what cannot be a tool --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "part"),
    [
        ("\n\ndef f(a, b: int): ...", 3, "a has no annotation"),
        ("def f(*args: int): ...", 1, "*args"),
        ("def f(**more: int): ...", 1, "**more"),
        ("def f(a: int, /): ...", 1, "cannot be given by name"),
        ("def f(a: int):\n    yield a", 1, "yield"),
        ("def f(a: 'Nowhere'): ...", 1, "Nowhere"),
        ("import threading\ndef f(a: threading.Thread): ...", 2, "cannot be given as JSON"),
        ('def f(a: int):\n    """F.\n\n    Args:\n        b: text\n    """', 1, "describes b"),
        ("from pydantic import Field\ndef f(a: int = Field(3)): ...", 2, "Annotated"),
        ("x = 1\nraise ValueError('why')", 2, "ValueError: why"),
        ("import sys\n\nsys.exit(4)", 3, "SystemExit: 4"),
        ("def f(:\n", 1, "invalid syntax"),
        ("import nowhere_at_all", 1, "nowhere_at_all"),
        ("def g():\n    return 1 / 0\nx = g()", 2, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_its_line(tmp_path: Path, source, line, part):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, source)
    assert f"tools.py:{line}:" in str(error.value)
    assert part in str(error.value)
    assert error.value.fix


def test_a_file_without_tools_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no public function"):
        load(tmp_path, "x = 1")


def test_a_changed_file_is_read_anew(tmp_path: Path):
    assert call(load(tmp_path, "def f() -> str: return 'one'"), "f").text == "one"
    assert call(load(tmp_path, "def f() -> str: return 'two'"), "f").text == "two"


def test_a_file_may_ask_for_one_call_at_a_time(tmp_path: Path):
    (tmp_path / "tools.py").write_text("PARALLEL = False\ndef f() -> str: ...", encoding="utf-8")
    assert [tool.parallel for tool in load_python(tmp_path / "tools.py")] == [False]


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_fire_alarm_is_the_reference_byte_for_byte():
    assert write_system("", load_toolbox([str(EXAMPLE / "tools.py")]).specs) == REFERENCE


@pytest.mark.shared
def test_the_reference_says_the_same(shared: Path):
    path = shared / "design" / "REFERENCE.zh.md"
    if not path.is_file():
        pytest.skip("the text of the reference is not here")
    assert f"```text\n{REFERENCE}\n```" in path.read_text(encoding="utf-8")


def test_both_languages_have_the_same_tools():
    english, chinese = (load_toolbox([str(EXAMPLE / name)]) for name in ("tools.py", "tools_zh.py"))
    assert [spec.name for spec in english.specs] == [spec.name for spec in chinese.specs]
    block = read_system(write_system("", chinese.specs, "zh"))
    assert block is not None
    assert [spec.description for spec in block.tools] == [spec.description for spec in chinese.specs]
    assert chinese.specs[0].parameters["properties"] == {"image": {"description": "需要识别的图片"}}


@pytest.mark.parametrize(
    ("tools", "record"), [("tools.py", "observations.jsonl"), ("tools_zh.py", "observations.zh.jsonl")]
)
def test_the_record_holds_what_the_tools_say(tools, record):
    live = load_toolbox([str(EXAMPLE / tools)])
    replayed = load_toolbox([str(EXAMPLE / tools), f"record:{EXAMPLE / record}"])
    rows = [json.loads(line) for line in (EXAMPLE / record).read_text(encoding="utf-8").splitlines()]
    assert {row["name"] for row in rows} == {spec.name for spec in live.specs}
    for row in rows:
        wanted = ToolCall(name=row["name"], arguments=json.dumps(row["arguments"]))
        assert live.call(wanted).text == replayed.call(wanted).text == row["observation"]


ASYNC = '''
import asyncio

seen = []
PARALLEL = False

async def forever() -> str:
    """Never ends."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise

async def own() -> str:
    """Its own time limit."""
    raise TimeoutError("the other side is slow")

async def look() -> list:
    """What was seen."""
    return seen
'''


def test_an_async_function_is_cancelled_by_ctrl_c(tmp_path: Path):
    (tmp_path / "tools.py").write_text(ASYNC, encoding="utf-8")
    toolbox = load_toolbox([str(tmp_path / "tools.py")], seconds=60.0)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        toolbox.call(ToolCall(name="forever", arguments="{}"))
    until = time.monotonic() + 10
    while toolbox.call(ToolCall(name="look", arguments="{}")).text != '["cancelled"]' and time.monotonic() < until:
        time.sleep(0.01)
    assert toolbox.call(ToolCall(name="look", arguments="{}")).text == '["cancelled"]'


def test_an_async_function_is_cancelled_at_its_time_limit(tmp_path: Path):
    (tmp_path / "tools.py").write_text(ASYNC, encoding="utf-8")
    toolbox = load_toolbox([str(tmp_path / "tools.py")], seconds=0.3)
    errors = [toolbox.call(ToolCall(name=name, arguments="{}")) for name in ("forever", "own", "look")]
    assert [(one.error, one.text) for one in errors] == [
        ("tool-timeout", "no answer within 0.3 s"),
        ("tool-failed", "TimeoutError: the other side is slow"),
        (None, '["cancelled"]'),
    ]
