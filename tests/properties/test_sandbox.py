"""Any expression that costs little renders as Jinja's sandbox renders it, or is refused by both."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable

import jinja2
import jinja2.sandbox
import pytest

from actune.render.template import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be brief.", "items": 1},
    {"role": "user", "content": "a <b> & 'ü' 25", "x": [1, {"y": None}]},
]
STOCK = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
ATOMS = (
    "messages", "messages[0]", "messages[1].x", "messages[1]['content']", "messages[-1]", "nothing", "none", "true",
    "''", "'a'", "'a b'", "'%s'", "'{}'", "'<b>'", "'ab12'", "0", "1", "2", "-1", "2.5", "[]", "[1, 2]", "['b', 'a']",
    "(1, 'a')", "{}", "{'a': 1}", "{1: [2]}", "[[1, 2], [3]]", "('<' | safe)", "m", "loop", "ns.a", "ns.b",
    "loop.index", "loop.last", "loop.length", "f", "range(3)", "m.role", "m.content", "m.items", "m['items']",
)  # fmt: skip
BINARY = ("+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or")
METHODS = (
    "split", "strip", "lower", "upper", "items", "keys", "values", "get", "join", "replace", "startswith", "index",
    "count", "format", "title", "center", "zfill", "splitlines", "rsplit", "partition", "encode", "copy", "cycle",
    "isdigit", "find", "rfind", "append", "update", "pop", "changed", "bit_length", "hex", "expandtabs", "endswith",
)  # fmt: skip
FILTERS = (
    "length", "trim", "string", "list", "join", "first", "last", "upper", "lower", "title", "default", "int", "float",
    "abs", "round", "sort", "unique", "reverse", "sum", "min", "max", "items", "dictsort", "tojson", "safe", "e",
    "indent", "replace", "batch", "slice", "center", "map", "select", "reject", "selectattr", "rejectattr", "groupby",
    "format", "wordcount", "truncate", "urlencode", "striptags", "xmlattr", "capitalize", "attr", "pprint", "escape",
)  # fmt: skip
TESTS = (
    "defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "callable", "odd", "even",
    "lower", "upper", "true", "boolean", "integer", "float", "escaped", "in [1, 'a']", "eq 1", "divisibleby 2",
    "filter", "test",
)  # fmt: skip


NAMES = ("role", "content", "a", "items", "first", "x", "y", "name")


def expression(pick: random.Random, depth: int) -> str:
    """Return an expression of Jinja, most of them with a value."""
    if depth == 0 or pick.random() < 0.15:
        return pick.choice(ATOMS)
    one, two, three = (expression(pick, depth - 1) for _ in range(3))
    given_ = ", ".join((one, two)[: pick.randrange(3)])
    start, stop = (pick.choice(("", "0", "1", "-1", "2")) for _ in range(2))
    text = pick.choice(("messages", "m.content", "m.role", "(m.content | list)", "m.x"))  # what is constant is folded
    return pick.choice(
        (
            f"({one} {pick.choice(BINARY)} {two})",
            f"({one} {pick.choice(BINARY)} {two})",
            f"({one} {pick.choice(('<', '=='))} {two} != {three})",
            f"({one} + {two} + {three})",
            f"('a' + {one} + 'b')",
            f"({one} if {two} else {three})",
            f"(not {one})",
            f"({one}).{pick.choice(NAMES)}",
            f"({one})[{two}]",
            f"({text})[{start}:{stop}]",
            f"({three}).{pick.choice(METHODS)}({given_})",
            f"({three}).{pick.choice(METHODS)}({given_})",
            f"({one} | {pick.choice(FILTERS)})",
            f"({one} | {pick.choice(FILTERS)}({two}))",
            f"({one} | map('{pick.choice(FILTERS)}') | list)",
            f"({one} is {pick.choice(TESTS)})",
            f"[{one}, {two}]",
            f"{{'k': {one}}}",
            f"f({given_})",
            f"dict(a={one})",
        )
    )


FRAME = (
    "{% macro f(a, b=2) %}<{{ a }}{{ b }}{{ varargs | length }}>{% endmacro %}{% set ns = namespace(a=1) %}"
    "{% for m in messages %}{% set ns.a = BODY %}{{ ns.a }}|{{ BODY }}|{% if BODY %}yes{% endif %}{% endfor %}"
    "{% for m in BODY %}{{ loop.index }}{{ loop.last }}{{ m }}{% else %}none{% endfor %}"
    "{% set x %}{{ BODY }}{% endset %}{{ x }}"
)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's compiler doubts some of them
@pytest.mark.parametrize("block", range(20))
def test_expressions_render_as_in_jinja(block: int):
    STOCK.filters["tojson"] = _tojson
    rendered = 0
    for seed in range(60 * block, 60 * block + 60):
        text = FRAME.replace("BODY", expression(random.Random(seed), 1 + seed % 3))
        want, got = _attempt(_render_stock, text), _attempt(_render, text)
        if want is None or " at 0x" not in want.lower():  # the address of an object
            assert got == want, text
        rendered += got is not None
    assert rendered >= 10


def _render(text: str) -> str:
    return ChatTemplate(text, variables={}).render(copy.deepcopy(MESSAGES), tools=None, prompt=True)


def _render_stock(text: str) -> str:
    return STOCK.from_string(text).render(messages=copy.deepcopy(MESSAGES))  # `indent` changes lists


def _attempt(call: Callable[[str], str], text: str) -> str | None:
    try:
        return call(text)
    except Exception:  # noqa: BLE001 - a template may fail in any way
        return None


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
