"""Safe repairs: what they make of a bad row, and everything that they leave alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.differences import find_difference
from actune.core.types import Conversation, Source
from actune.data.checks.repairs import repair_row
from actune.data.checks.rewrite import rewrite_row
from actune.data.checks.rules import find_problems
from actune.formats import registry

PAGE = Path(__file__).resolve().parents[3] / "docs" / "checks.md"
MENDED = {
    "arguments-python-literal", "arguments-encoded-twice", "argument-null", "argument-encoded", "call-id-missing",
}  # fmt: skip
LITERAL = "Thought:look\nAction: weather\nAction Input:  {'city': 'Rome'}\nObservation: sunny\nFinal Answer: Sunny."


def read(raw: dict, name: str = "openai") -> Conversation:
    name = "ms-agent" if "conversations" in raw else name
    return registry.read_row(json.loads(json.dumps(raw)), Source(file="x.jsonl", line=1), name)


def test_a_repaired_row_says_what_its_corrected_twin_says(rows: ModuleType):
    for code, (bad, good) in rows.TABLE.items():
        row, repairs = repair_row(read(bad))
        if code in MENDED:
            assert {repair.code for repair in repairs} == {code}
            assert find_difference(row, read(good)) is None, code
            assert find_problems(row) == [], code
        else:
            assert (row, repairs) == (read(bad), ()), code
        assert repair_row(row) == (row, ())
        assert repair_row(read(good)) == (read(good), ())


def test_the_page_says_which_findings_are_repaired():
    table = re.findall(r"^\| `([a-z-]+)` \|.*\| fix[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == MENDED | {"duplicate-row"}


def test_every_repair_names_place_before_and_after(rows: ModuleType):
    arguments = {"city": "Rome", "days": None, "hours": "[6]", "unit": None}
    _, repairs = repair_row(read(rows.calls(rows.call(repr(arguments)))))
    place = "messages[1].tool_calls[0].arguments"
    assert [(one.code, one.field, one.before, one.after) for one in repairs] == [
        ("arguments-python-literal", place, repr(arguments), json.dumps(arguments)),
        ("argument-null", f"{place}.days", "null", None),
        ("argument-null", f"{place}.unit", "null", None),
        ("argument-encoded", f"{place}.hours", '"[6]"', "[6]"),
    ]


def test_null_stays_where_it_may_mean_something(rows: ModuleType):
    """Required, allowed, or of a tool that nobody described."""
    for tools in (
        rows.with_schema(city={"type": ["string", "null"]}),
        [rows.tool(parameters={"type": "object"})],
        [rows.tool(parameters={"type": "object", "properties": {"city": rows.CITY}, "required": ["city"]})],
        [rows.tool(parameters={"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"city": rows.CITY}}}})],
    ):
        row = read(rows.calls(rows.call({"city": None}), tools=tools))
        assert repair_row(row) == (row, ())


def test_nested_padding_is_removed(rows: ModuleType):
    item = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}
    tools = rows.with_schema(items={"type": "array", "items": item})
    given = {"items": [{"a": "x", "b": None}, {"a": None, "b": 1}]}
    row, repairs = repair_row(read(rows.calls(rows.call(given), tools=tools)))
    assert json.loads(row.messages[1].tool_calls[0].arguments) == {"items": [{"a": "x"}, {"a": None, "b": 1}]}
    assert [one.field.rpartition("arguments")[2] for one in repairs] == [".items[0].b"]


UNCERTAIN = {
    "key twice": '{"city": "A", "city": "B", "days": null}',
    "no number": '{"city": "A", "days": null, "hours": [NaN]}',
    "key twice in a literal": "{'city': 'A', 'city': 'B'}",
    "key twice in text": json.dumps('{"city": "A", "city": "B"}'),
    "key twice in a value": '{"city": "A", "hours": "[{\\"a\\": 1, \\"a\\": 2}]"}',
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_what_is_not_certain_stays(rows: ModuleType, case: str):
    """A key that stands twice, a number that JSON does not have: writing the arguments anew would choose."""
    row = read(rows.calls(rows.call(UNCERTAIN[case])))
    assert find_problems(row)
    assert repair_row(row) == (row, ())


def test_numbers_keep_their_digits(rows: ModuleType):
    tools = rows.with_schema(
        a={"type": "number"}, b={"type": "array", "items": {"type": "number"}}, c={"type": "string"}
    )
    row, _ = repair_row(read(rows.calls(rows.call('{"a": 1.10, "b": "[1e5, -0]", "c": null}'), tools=tools)))
    assert row.messages[1].tool_calls[0].arguments == '{"a": 1.10, "b": [1e5, -0]}'


def test_a_value_that_does_not_fit_when_decoded_stays(rows: ModuleType):
    row, repairs = repair_row(read(rows.calls(rows.call({"city": "A", "days": None, "hours": '["six"]'}))))
    assert json.loads(row.messages[1].tool_calls[0].arguments) == {"city": "A", "hours": '["six"]'}
    assert [one.code for one in repairs] == ["argument-null"]


def test_react_text_keeps_its_layout(rows: ModuleType):
    raw = rows.react(LITERAL)
    row, (repair,) = repair_row(read(raw))
    again = rewrite_row(raw | {"tags": ["a"]}, row, registry.get("ms-agent"))
    expected = LITERAL.replace("{'city': 'Rome'}", '{"city": "Rome"}')
    assert again == {
        **raw,
        "tags": ["a"],
        "conversations": [*raw["conversations"][:2], {"from": "assistant", "value": expected}],
    }
    assert (repair.before, repair.after) == ("{'city': 'Rome'}", '{"city": "Rome"}')


def test_ids_go_by_the_order_that_readers_take(rows: ModuleType):
    first, second = rows.call(id="b"), rows.call({"city": "Rome"}, id="a")
    raw = rows.row(
        rows.user(), rows.asks(first, second), rows.result("x", tool_call_id="a"), rows.result("y"), rows.says()
    )
    row, repairs = repair_row(read(raw))
    assert [message.tool_call_id for message in row.messages[2:4]] == ["a", "b"]
    assert [(one.field, one.before, one.after) for one in repairs] == [("messages[3].tool_call_id", None, "b")]
    assert find_difference(row, read(raw)) is None


def test_other_keys_of_a_row_stay(rows: ModuleType):
    bad, good = rows.TABLE["arguments-python-literal"]
    raw = {"source": "web", **bad, "score": 0.5, "functions": None}
    row, _ = repair_row(read(raw))
    again = rewrite_row(raw, row, registry.get("openai"))
    assert list(again) == ["source", "messages", "tools", "score"]
    assert (again["source"], again["score"]) == ("web", 0.5)
    assert find_difference(read(again), read(good)) is None
