"""Which format a file is in, and formats of other packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from actune.core.errors import ConfigError, DataError
from actune.core.types import Conversation, Message, Source
from actune.formats import registry

SOURCE = Source(file="rows.jsonl", line=1)


def talk(*turns: tuple[str, str], **extra: object) -> dict:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns], **extra}


def chat(*roles: str) -> dict:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


REACT = talk(("system", "Use:\nAction: a\nAction Input: b"), ("human", "q"), ("gpt", "a"))


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([chat("user", "assistant")], "openai"),
        ([chat("user", "assistant"), chat("user", "tool_call", "tool_response", "assistant")], "swift"),
        ([talk(("user", "q"), ("assistant", "a"))], "ms-agent"),
        ([REACT], "ms-agent"),
        ([REACT, talk(("human", "q"), ("gpt", "a"))], "ms-agent"),
        ([talk(("human", "q"), ("gpt", "a"))], "sharegpt"),
        ([talk(("human", "q"), ("gpt", "a")), talk(("human", "q"), ("function_call", "{}"))], "sharegpt"),
        ([talk(("user", "q"), ("assistant", "a"), tools="[]")], "sharegpt"),
        ([{"query": "q", "response": "r", "tag": "zh"}], "query-response"),
        ([{"instruction": "i", "input": "", "output": "o"}], "alpaca"),
        ([{"text": "x", "meta": {}}], "text"),
        ([{"text": "x", "query": "q", "response": "r"}], "query-response"),
        ([{"junk": 1}, {"instruction": "i", "output": "o"}], "alpaca"),
    ],
)
def test_detection(rows, name):
    assert registry.detect_format(rows) == name


def test_rows_of_two_formats_are_refused():
    with pytest.raises(ConfigError, match=r"openai \(row 1\), .*alpaca \(row 2\)"):
        registry.detect_format([chat("user", "assistant"), {"instruction": "i", "output": "o"}])


def test_an_unknown_shape_names_its_keys_and_the_formats():
    with pytest.raises(ConfigError) as caught:
        registry.detect_format([{"mesages": [], "z": 1}])
    assert "'mesages' (did you mean 'messages'?), 'z'" in caught.value.message
    assert "query-response" in str(caught.value.fix)


def test_an_unknown_name_suggests_one():
    with pytest.raises(ConfigError, match="did you mean 'ms-agent'"):
        registry.get("ms_agnt")


def test_every_format_writes_and_says_whether_it_holds_calls():
    assert [name for name in registry.names() if registry.get(name).write is None] == ["trace", "toolbench"]
    text = [name for name in registry.names() if registry.get(name).calls_as_text]
    assert text == ["ms-agent", "query-response", "alpaca"]


class Notes:
    """A format as another package would provide it."""

    @staticmethod
    def detect(row):
        return "note" in row

    @staticmethod
    def read(row, source):
        return Conversation(messages=(Message(role="assistant", content=row["note"]),), source=source)


@pytest.fixture
def added(monkeypatch):
    def add(value: str) -> None:
        point = EntryPoint(name="notes", value=value, group=registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
        registry._added.cache_clear()
        registry.get.cache_clear()

    yield add
    monkeypatch.undo()
    registry._added.cache_clear()
    registry.get.cache_clear()


def test_a_format_of_another_package(added, monkeypatch):
    monkeypatch.setitem(sys.modules, "actune_test_notes", type(sys)("actune_test_notes"))
    monkeypatch.setattr(sys.modules["actune_test_notes"], "Notes", Notes, raising=False)
    added("actune_test_notes:Notes")
    assert registry.names()[-1] == "notes"
    assert registry.detect_format([{"note": "hi"}]) == "notes"
    assert registry.read_row({"note": "hi"}, SOURCE, "notes").messages[0].content == "hi"


def test_a_broken_format_of_another_package_is_named(added):
    added("no_such_module_here:Notes")
    with pytest.raises(ConfigError, match="notes"):
        registry.get("notes")


def test_a_row_nested_too_deeply_is_a_data_error():
    value: object = "x"
    for _ in range(100_000):
        value = [value]
    raw = {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": value}}]}]}
    with pytest.raises(DataError):
        registry.read_row(raw, SOURCE, "openai")


def test_importing_the_registry_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'pandas', 'pyarrow', 'datasets', 'pydantic'}"
    code = f"import sys, actune.formats.registry as r; [r.get(n) for n in r.names()]; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
