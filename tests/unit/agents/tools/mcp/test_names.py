"""Names of tools that several servers bring: their own where that is clear, apart where not, the same in any order."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.agents.tools.mcp.names import name_tools

ALLOWED = re.compile(r"[A-Za-z0-9_-]{1,64}")


def test_a_tool_keeps_its_name_where_nobody_else_has_it():
    assert name_tools([("files", "read"), ("web", "fetch")]) == ["read", "fetch"]


def test_tools_of_the_same_name_carry_their_servers():
    assert name_tools([("files", "read"), ("web", "read"), ("web", "fetch")]) == ["files__read", "web__read", "fetch"]
    assert name_tools([("files", "read")], taken=["read"]) == ["files__read"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("get weather", "get_weather"),
        ("a.b/c", "a_b_c"),
        ("天气", "tool_"),
        ("查city", "city_"),
        ("x" * 80, "x" * 57 + "_"),
    ],
)
def test_odd_names_become_safe_ones(name, start):
    (safe,) = name_tools([("s", name)])
    assert safe.startswith(start)
    assert ALLOWED.fullmatch(safe)


def test_different_names_do_not_become_the_same():
    listed = [
        ("s", "天气"),
        ("s", "地图"),
        ("s", "a.b"),
        ("s", "a_b"),
        ("t", "a b"),
        ("s", "a__b"),
        ("a", "b"),
        ("c", "b"),
    ]
    names = name_tools(listed)
    assert len(set(names)) == len(names)


texts = st.text(alphabet="ab_.- 天气é", min_size=1, max_size=4) | st.text(min_size=1, max_size=90)


@given(st.lists(st.tuples(texts, texts), unique=True, max_size=8), st.sets(texts, max_size=2), st.randoms())
def test_names_are_safe_apart_and_independent_of_the_order(listed, taken, random):
    names = name_tools(listed, taken)
    assert all(ALLOWED.fullmatch(name) for name in names)
    assert len(set(names)) == len(names)
    shuffled = list(listed)
    random.shuffle(shuffled)
    assert dict(zip(listed, names, strict=True)) == dict(zip(shuffled, name_tools(shuffled, taken), strict=True))
