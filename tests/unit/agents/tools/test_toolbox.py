"""Toolbox: whatever a model or a tool does becomes an Observation; SPECs put together as they should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actune.agents.tools.loading import load_toolbox
from actune.agents.tools.toolbox import Tool, Toolbox, ToolFailure
from actune.core import api_list
from actune.core.errors import ConfigError
from actune.core.types import ToolCall, ToolSpec

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}


def call(name: str, arguments: object = "{}") -> ToolCall:
    return ToolCall(name=name, arguments=arguments if isinstance(arguments, str) else json.dumps(arguments))


def tool(name: str, function, *, schema=None, **flags) -> Tool:
    return Tool(
        spec=ToolSpec(name=name, parameters=schema or {"type": "object", "properties": {}}), call=function, **flags
    )


def box(*tools: Tool, **settings) -> Toolbox:
    return Toolbox([one.spec for one in tools], tools, **settings)


# --- one call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("晴 25°C", "晴 25°C"),
        ({"天气": "晴", "t": 25}, '{"天气": "晴", "t": 25}'),
        (None, "null"),
        (True, "true"),
        ([1, Path("a")], '[1, "a"]'),
        ("bad \ud800 half", "bad \\ud800 half"),
    ],
)
def test_the_observation_of_a_result(result, text):
    observation = box(tool("t", lambda _: result)).call(call("t"))
    assert (observation.text, observation.error) == (text, None)
    assert 0 <= observation.seconds < 5


def test_a_tool_gets_its_arguments():
    seen = []
    toolbox = box(tool("weather", seen.append, schema=CITY))
    assert toolbox.call(call("weather", {"city": "杭州", "days": 2})).error is None
    assert toolbox.call(call("weather", "{'city': 'Hangzhou'}")).error is None  # a Python literal, as in the reference
    assert seen == [{"city": "杭州", "days": 2}, {"city": "Hangzhou"}]


@pytest.mark.parametrize(
    ("wanted", "error", "parts"),
    [
        (call("wether", {"city": "x"}), "unknown-tool", ["'wether'", "weather", "other"]),
        (call("weather", "Hangzhou"), "arguments-unreadable", ["'Hangzhou'", "JSON object"]),
        (call("weather", "[1]"), "arguments-unreadable", ["JSON object"]),
        (call("weather", ""), "arguments-unreadable", ["JSON object"]),
        (call("weather", {}), "arguments-invalid", ["'city' is required"]),
        (call("weather", {"city": 5}), "arguments-invalid", ["city: 5 is not of type 'string'"]),
        (call("weather", {"city": "x", "days": "5"}), "arguments-invalid", ["days: '5' is not of type 'integer'"]),
        (call("weather", {"city": "x", "days": True}), "arguments-invalid", ["days: True"]),
    ],
)
def test_a_call_that_cannot_be_made_says_why(wanted, error, parts):
    made = []
    toolbox = box(tool("weather", made.append, schema=CITY), tool("other", made.append))
    observation = toolbox.call(wanted)
    assert observation.error == error
    assert all(part in observation.text for part in parts), observation.text
    assert not made


def test_several_problems_are_all_told_up_to_a_few():
    properties = {f"p{number}": {"type": "integer"} for number in range(9)}
    toolbox = box(tool("t", lambda _: "", schema={"type": "object", "properties": properties}))
    text = toolbox.call(call("t", dict.fromkeys(properties, "x"))).text
    assert text.count("is not of type") == 5
    assert "and 4 more" in text
    assert len(toolbox.call(call("t", {"p0": "x" * 100_000})).text) < 500


@pytest.mark.parametrize("error", [ValueError("no such city"), SystemExit(3), KeyboardInterrupt(), RecursionError()])
def test_what_a_tool_raises_is_an_observation(error):
    def fail(_):
        raise error

    observation = box(tool("t", fail)).call(call("t"))
    assert observation.error == "tool-failed"
    assert observation.text.startswith(type(error).__name__)
    assert "Traceback" not in observation.text


def test_results_that_are_not_whole_are_errors():
    circle: list = []
    circle.append(circle)

    class Nasty:
        def __str__(self):
            raise ValueError("no text")

    assert box(tool("t", lambda _: circle)).call(call("t")).error == "tool-failed"
    assert box(tool("t", lambda _: Nasty())).call(call("t")).error == "tool-failed"
    failure = box(tool("t", lambda _: ToolFailure("not-here", "gone"))).call(call("t"))
    assert (failure.text, failure.error) == ("gone", "not-here")


def test_long_output_is_cut_visibly():
    observation = box(tool("t", lambda _: "x" * 50_000), characters=100).call(call("t"))
    assert observation.text == "x" * 100 + "... [cut: 100 of 50,000 characters]"
    assert observation.error == "output-cut"
    exact = box(tool("t", lambda _: "x" * 100), characters=100).call(call("t"))
    assert (exact.text, exact.error) == ("x" * 100, None)


def test_a_slow_tool_is_left_behind():
    release = threading.Event()
    toolbox = box(tool("slow", lambda _: release.wait()), tool("quick", lambda _: "here"), seconds=0.1)
    slow, quick = toolbox.call_all([call("slow"), call("quick")])
    release.set()
    assert (slow.error, slow.text) == ("tool-timeout", "no answer within 0.1 s")
    assert 0.1 <= slow.seconds < 5
    assert (quick.error, quick.text) == (None, "here")


def test_calls_that_never_end_do_not_pile_up():
    release = threading.Event()
    started: list = []

    def stuck(_):
        started.append(1)
        release.wait()

    toolbox = box(tool("stuck", stuck), tool("quick", lambda _: "here"), seconds=0.05)
    errors = [toolbox.call(call("stuck")).error for _ in range(6)]
    assert errors == ["tool-timeout"] * 4 + ["tool-failed"] * 2
    assert toolbox.call(call("quick")).text == "here"
    release.set()
    until = time.monotonic() + 10
    while toolbox.call(call("stuck")).error is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert len(started) > 4  # it is called again once the others have ended


def test_never_two_at_a_time_holds_for_one_that_was_left_behind():
    release = threading.Event()
    toolbox = box(
        tool("stuck", lambda _: release.wait(), parallel=False),
        tool("other", lambda _: "x", parallel=False),
        seconds=0.05,
    )
    assert toolbox.call(call("stuck")).error == "tool-timeout"
    assert toolbox.call(call("other")).text == "an earlier call has not ended, and only one is made at a time"
    release.set()
    assert toolbox.call(call("other")).text == "x"


def test_fifty_megabytes_are_not_kept():
    import gc
    import weakref

    class Text(str):
        __slots__ = ("__weakref__",)

    made: list = []

    def big(_):
        text = Text("x" * 50_000_000)
        made.append(weakref.ref(text))
        return text

    observation = box(tool("big", big)).call(call("big"))
    assert observation.text.endswith("[cut: 20,000 of 50,000,000 characters]")
    gc.collect()
    assert made[0]() is None


def test_a_tool_may_have_a_time_limit_of_its_own():
    toolbox = box(tool("slow", lambda _: time.sleep(5), seconds=0.05), seconds=60)
    assert toolbox.call(call("slow")).text == "no answer within 0.05 s"


# --- several calls ----------------------------------------------------------------------------------------------------


def test_calls_run_side_by_side_and_keep_their_order():
    together = threading.Barrier(4, timeout=10)

    def meet(arguments):
        together.wait()
        time.sleep(0.02 * (4 - arguments["n"]))
        return str(arguments["n"])

    answers = box(tool("t", meet)).call_all([call("t", {"n": number}) for number in range(4)])
    assert [answer.text for answer in answers] == ["0", "1", "2", "3"]


def test_tools_that_do_not_allow_it_run_one_after_the_other():
    running, most = [], []

    def count(_):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return "x"

    box(tool("t", count, parallel=False)).call_all([call("t")] * 5)
    assert most == [1] * 5


def test_many_calls_at_once_are_all_made():
    answers = box(tool("t", lambda given: given["n"])).call_all([call("t", {"n": n}) for n in range(50)])
    assert [answer.text for answer in answers] == [str(n) for n in range(50)]


# --- what the conversation lists --------------------------------------------------------------------------------------


def test_a_call_is_held_to_what_the_conversation_lists():
    toolbox = box(tool("weather", lambda _: "sunny", schema=CITY), tool("other", lambda _: ""))
    listed = [
        ToolSpec(name="weather", parameters={"type": "object", "required": ["day"]}),
        ToolSpec(name="c", parameters={}),
    ]
    assert toolbox.call(call("weather", {"city": "x"}), listed).error == "arguments-invalid"
    assert toolbox.call(call("weather", {"day": 1}), listed).text == "sunny"
    assert toolbox.call(call("other"), listed).error == "unknown-tool"
    unanswered = toolbox.call(call("c"), listed)
    assert unanswered.error == "unknown-tool"
    assert unanswered.text.endswith("there are: weather")
    assert toolbox.call(call("weather", {"city": "x"}), ()).error == "unknown-tool"


def test_calls_of_several_conversations_are_each_held_to_their_own_list():
    toolbox = box(tool("t", lambda given: given))
    text, number = (
        [ToolSpec(name="t", parameters={"type": "object", "properties": {"a": {"type": kind}}})]
        for kind in ("string", "integer")
    )
    wanted = [(call("t", {"a": value}), listed) for value in ("x", 1) for listed in (text, number, [])]
    errors = [answer.error for answer in toolbox.call_each(wanted)]
    assert errors == [None, "arguments-invalid", "unknown-tool", "arguments-invalid", None, "unknown-tool"]


def test_an_api_list_is_held_to_what_it_can_express():
    listed = (
        {"name": "image", "description": "", "required": "True"},
        {"name": "kind", "description": "", "type": "string", "required": "False"},
        {"name": "when", "description": "", "type": "date or time", "required": "False"},
        {"name": "count", "description": "", "type": "int", "required": "False"},
    )
    schema = api_list.schema_of_list(listed)
    spec = ToolSpec(name="t", parameters=schema, parameter_list=listed)
    toolbox = Toolbox([spec], [Tool(spec=spec, call=lambda _: "ok")])
    assert toolbox.call(call("t", {"image": {"url": "x"}, "kind": [1], "when": 5, "extra": None})).text == "ok"
    assert toolbox.call(call("t", {"kind": "x"})).error == "arguments-invalid"
    assert toolbox.call(call("t", {"image": "x", "count": "many"})).error == "arguments-invalid"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense", "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "http://localhost:9/x.json"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"pattern": "("}}, "required": ["a"]},
        {"type": "object", "required": ["a"], "properties": 5},
    ],
)
def test_of_an_unusable_schema_the_required_names_are_checked(schema):
    toolbox = box(tool("t", lambda _: "ok", schema=schema))
    assert toolbox.call(call("t", {})).error == "arguments-invalid"
    assert toolbox.call(call("t", {"a": "x"})).text in (
        "ok",
        "the arguments of 't' do not fit: a: 'x' is not of type 'object'",
    )


# --- SPECs ------------------------------------------------------------------------------------------------------------

PYTHON = '''
def weather(city: str) -> str:
    """The weather of a city."""
    return "python " + city

def clock() -> str:
    """The time."""
    return "python noon"
'''


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(PYTHON, encoding="utf-8")
    row = {"name": "weather", "arguments": {"city": "Rome"}, "observation": "recorded"}
    (tmp_path / "seen.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    spec = ToolSpec(
        name="weather", description="From a list.", parameters={"type": "object", "properties": {"city": {}}}
    )
    (tmp_path / "api.txt").write_text(api_list.write_system("", [spec]), encoding="utf-8")
    (tmp_path / "functions.json").write_text(json.dumps([spec.describe()]), encoding="utf-8")
    return tmp_path


def test_no_spec_is_no_tools():
    toolbox = load_toolbox(())
    assert (toolbox.specs, toolbox.open_ended) == ((), False)
    assert toolbox.call(call("x")).text.endswith("there are: none")
    toolbox.close()


def test_the_first_describes_the_last_answers(files: Path):
    python, record = str(files / "tools.py"), f"record:{files / 'seen.jsonl'}"
    rome = call("weather", {"city": "Rome"})
    for specs, text, description in (
        ([python], "python Rome", "The weather of a city."),
        ([python, record], "recorded", "The weather of a city."),
        ([record, python], "python Rome", ""),
        ([str(files / "api.txt"), record], "recorded", "From a list."),
        ([str(files / "functions.json"), python], "python Rome", "From a list."),
    ):
        toolbox = load_toolbox(specs)
        assert toolbox.call(rome).text == text
        assert toolbox.specs[0].description == description
    assert load_toolbox([python, record]).call(call("weather", {"city": "Bonn"})).error == "not-recorded"
    assert load_toolbox([python, record]).call(call("clock")).text == "python noon"


@pytest.mark.parametrize(
    "specs", [["tools.py", "manual"], ["manual:tools.py"], ["api.txt", "manual"], ["manual:functions.json"]]
)
def test_a_person_answers_described_tools(files: Path, specs):
    asked = []

    def ask(wanted: ToolCall) -> str:
        asked.append((wanted.name, threading.current_thread()))
        return "typed"

    placed = [spec.replace("tools.py", str(files / "tools.py")) for spec in specs]
    placed = [spec.replace("api.txt", str(files / "api.txt")) for spec in placed]
    placed = [spec.replace("functions.json", str(files / "functions.json")) for spec in placed]
    toolbox = load_toolbox(placed, ask=ask)
    answers = toolbox.call_all([call("weather", {"city": "Rome"}), call("nothing"), call("weather", {"city": "Bonn"})])
    assert [answer.error for answer in answers] == [None, "unknown-tool", None]
    assert answers[0].text == "typed"
    assert asked == [("weather", threading.current_thread())] * 2


def test_manual_alone_answers_what_the_conversation_lists():
    toolbox = load_toolbox(["manual"], ask=lambda wanted: f"typed for {wanted.name}")
    assert (toolbox.specs, toolbox.open_ended) == ((), True)
    assert toolbox.call(call("anything", {"a": 1})).text == "typed for anything"
    listed = [ToolSpec(name="weather", parameters=CITY)]
    assert toolbox.call(call("weather", {"city": "x"}), listed).text == "typed for weather"
    assert toolbox.call(call("anything"), listed).error == "unknown-tool"


def test_what_the_terminal_raises_passes():
    def ask(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_toolbox(["manual"], ask=ask).call(call("x"))


def test_tools_after_manual_answer_for_themselves(files: Path):
    toolbox = load_toolbox(["manual", str(files / "tools.py")], ask=lambda _: "typed")
    assert toolbox.call(call("clock")).text == "python noon"
    assert toolbox.call(call("x"), [ToolSpec(name="x", parameters={})]).text == "typed"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("mcp.json", '{"mcpServers": {"a": {"command": "no-such-program"}}}', "no program"),
        ("bad.json", "[", "no JSON"),
        ("none.json", "[]", "no tool"),
        ("wrong.json", '[{"name": 5}]', "name"),
        ("text.txt", "Be kind.", "no API list"),
        ("tools.toml", "", "not known"),
        ("seen.jsonl", "{}", "record:"),
    ],
)
def test_specs_that_cannot_be_loaded_say_why(tmp_path: Path, name, content, part):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_toolbox([str(tmp_path / name)])
    assert name in str(error.value)
    assert part in str(error.value)


def test_missing_files_and_missing_answers(files: Path):
    with pytest.raises(ConfigError, match="there is no file"):
        load_toolbox(["nowhere.py"])
    with pytest.raises(ConfigError, match="there is no file"):
        load_toolbox(["record:nowhere.jsonl"])
    with pytest.raises(ConfigError, match="nobody answers the tools weather"):
        load_toolbox([str(files / "api.txt")])
    with pytest.raises(ConfigError, match="nobody answers the tools clock"):
        load_toolbox(_extra(files))
    with pytest.raises(ConfigError, match="nobody is there"):
        load_toolbox(["manual"])


def _extra(files: Path) -> list[str]:
    spec = ToolSpec(name="clock", parameters={"type": "object", "properties": {}})
    (files / "more.json").write_text(json.dumps([spec.describe()]), encoding="utf-8")
    return [str(files / "more.json"), f"record:{files / 'seen.jsonl'}"]


# --- the process ------------------------------------------------------------------------------------------------------

NOISY = '''
import subprocess, sys, threading, time
print("printed while loading")

def stuck() -> str:
    """Never ends."""
    time.sleep(10_000)

def noisy() -> str:
    """Prints."""
    print("printed")
    sys.stdout.write("written")
    subprocess.run([sys.executable, "-c", "print('printed by a child')"])
    return "quiet"

def late() -> str:
    """Prints when nobody waits any more."""
    time.sleep(0.5)
    print("printed late")

def leave() -> str:
    """Leaves."""
    sys.exit(7)
'''
PROGRAM = """
import sys, time
from actune.agents.tools.loading import load_toolbox
from actune.core.types import ToolCall
toolbox = load_toolbox([sys.argv[1]], seconds=5.0)
stuck = load_toolbox([sys.argv[1]], seconds=0.2)
print("[")
for name in ("stuck", "late"):
    print(stuck.call(ToolCall(name=name, arguments="{}")).error)
for name in ("noisy", "leave"):
    print(toolbox.call(ToolCall(name=name, arguments="{}")).text)
time.sleep(0.6)
print("]")
assert "torch" not in sys.modules
"""


def test_the_process_is_not_harmed(tmp_path: Path):
    (tmp_path / "noisy.py").write_text(NOISY, encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "noisy.py")]
    # As at a user's: stdout into a pipe is buffered, and compiled copies are written where they are wanted.
    plain = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=plain)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["[", "tool-timeout", "tool-timeout", "quiet", "SystemExit: 7", "]", ""]
    for text in ("printed while loading", "printed\n", "written", "printed by a child", "printed late"):
        assert text in done.stderr
    assert not (tmp_path / "__pycache__").exists()


# --- anything at all --------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["weather", "echo", "gone", "", "weather "]) | st.text(max_size=20)
texts = st.text(alphabet=st.characters(codec=None), max_size=40) | json_values.map(json.dumps)
objects = st.dictionaries(st.sampled_from(["city", "days", "x"]), json_values, max_size=3).map(json.dumps)
deep = st.sampled_from(["[" * 100_000, '{"a":' * 50_000, "{'a':" * 500, "9" * 10_000, '{"city": 1e999}', "\x00"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(ToolCall, name=names, arguments=texts | objects | deep), max_size=3))
def test_no_call_raises_or_hangs(calls):
    toolbox = box(
        tool("weather", lambda given: given["city"].upper(), schema=CITY),
        tool("echo", lambda given: given),
        seconds=10.0,
    )
    for listed in (None, [ToolSpec(name="echo", parameters={"properties": {"x": {"type": "integer"}}})]):
        answers = toolbox.call_all(calls, specs=listed)
        assert len(answers) == len(calls)
        for wanted, answer in zip(calls, answers, strict=True):
            answer.text.encode("utf-8")
            assert len(answer.text) <= 20_100
            if wanted.name not in ("weather", "echo"):
                assert answer.error == "unknown-tool"
            assert answer.error not in ("tool-failed", "tool-timeout"), answer
