"""Templates from outside: what they may not do ends in an error, soon and without much memory; honest ones are unchanged."""

from __future__ import annotations

import resource
import threading
import time

import pytest

from actune.core.errors import RenderError
from actune.render.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello"}]

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a call block without an end": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
    "loops over loops": "{% for a in range(9999) %}{% for b in range(9999) %}{{ a ~ b }}{% endfor %}{% endfor %}",
}
HUGE = {
    "repeated text": "{{ 'x' * 10 ** 10 }}",
    "a repeated list": "{{ [1] * 10 ** 10 }}",
    "a tower of powers": "{{ 10 ** (10 ** 10) }}",
    "a shifted product": "{% set ns = namespace(n=10) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
    "old format": "{{ '%1000000000d' % 1 }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "new format": "{{ '{:>1000000000}'.format(1) }}",
    "nested format": "{{ '{:>{w}}'.format(1, w=1000000000) }}",
    "center filter": "{{ 'x' | center(10 ** 10) }}",
    "padding": "{{ 'x'.ljust(10 ** 10) }}{{ 'x'.zfill(10 ** 10) }}",
    "indent": "{{ 'a\\nb' | indent(10 ** 9) }}",
    "indented JSON": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "replaced text": "{% set a = 'a' * 99999 %}{{ a.replace('a', a) }}",
    "replace filter": "{% set a = 'a' * 99999 %}{{ a | replace('a', a) }}",
    "joined text": "{% set a = 'a' * 99999 %}{{ (a | list) | join(a) }}",
    "a joining method": "{% set a = 'a' * 99999 %}{{ a.join(a) }}",
    "doubled text": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "added text": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "doubled lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "lists within lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "lists within lists as JSON": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
    "placeholder text": "{{ lipsum(n=10000000) }}",
    "batches": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "slices": "{{ [1] | slice(10 ** 9) | list }}",
    "kept texts": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['x' * 99999 ~ i] %}{% endfor %}{{ ns.l | length }}",
    "much output": "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "expanded tabs": "{{ ('\\t' * 99999).expandtabs(10 ** 9) }}",
}  # fmt: skip
FORBIDDEN = {
    "a class": "{{ ''.__class__ }}{{ ''.__class__.__mro__ }}",
    "an attribute filter": "{{ '' | attr('__class__') }}{% if '' | attr('__class__') %}{{ ('' | attr('__class__')).mro() }}{% endif %}",
    "a mapped attribute": "{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | list | tojson }}",
    "a format attribute": "{{ '{0.__class__.__mro__}'.format('') }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('true') }}",
    "a changed list": "{{ messages.append(1) }}",
    "a changed dict": "{{ messages[0].update(a=1) }}",
    "a popped message": "{{ messages.pop() }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "a parent": "{% extends 'x' %}",
}  # fmt: skip


def run(text: str) -> tuple[RenderError | str, float, int]:
    """Render a template in a thread of its own; returns the error or text, processor seconds and bytes of memory it added."""
    outcome: list[tuple[RenderError | str, float]] = []

    def work() -> None:
        begin = time.thread_time()
        try:
            found: RenderError | str = ChatTemplate(text, variables={}).render(MESSAGES, tools=None, prompt=True)
        except RenderError as error:
            found = error
        outcome.append((found, time.thread_time() - begin))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # kilobytes on Linux
    assert outcome, "it does not end"
    return *outcome[0], peak


@pytest.mark.parametrize("name", ENDLESS | HUGE)
def test_too_much_ends_in_an_error(name: str):
    found, seconds, peak = run((ENDLESS | HUGE)[name])
    assert isinstance(found, RenderError), found[:100]
    assert found.code in ("template-too-costly", "template-refuses", "template-invalid")
    assert len(found.message) < 2000
    assert found.fix
    assert seconds < 5
    assert peak < 1 << 30


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_gives_nothing_away(name: str):
    found, _, _ = run(FORBIDDEN[name])
    assert isinstance(found, RenderError) or found == "", found


@pytest.mark.parametrize(
    "text",
    [
        "{{ '(' * 3 }}" + "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
        "{{ " + "-" * 20000 + "1 }}",
        "{{ [" * 4000 + "] }}" * 4000,
    ],
)
def test_text_that_breaks_a_compiler_is_no_template(text: str):
    found, seconds, _ = run(text)
    assert isinstance(found, RenderError) or found.strip() in ("((((1", "(((1", "1", "-1"), found[:50]
    assert seconds < 5


def test_a_template_can_be_used_again_after_an_error():
    template = ChatTemplate(
        "{% if messages | length > 1 %}{{ 'x' * 10 ** 10 }}{% endif %}{{ messages[0].content }}", variables={}
    )
    for _ in range(3):
        assert template.render(MESSAGES, tools=None, prompt=False) == "hello"
        with pytest.raises(RenderError):
            template.render(MESSAGES * 2, tools=None, prompt=False)


def test_honest_work_on_large_rows_is_done():
    text = (
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}"
    )
    template = ChatTemplate(text, variables={})
    content = "words and 字 " * 900_000
    tools = [{"type": "function", "function": {"name": f"tool{n}", "description": "x" * 500}} for n in range(500)]
    many = [{"role": "user", "content": f"message {n}"} for n in range(1000)]
    assert (
        template.render([{"role": "user", "content": content}], tools=None, prompt=False) == "<user>" + content.strip()
    )
    shown = template.render(many, tools=tools, prompt=False)
    assert shown.count("tool") == 500
    assert shown.endswith("<user>message 999")


def test_the_same_objects_are_written_alike_and_others_are_not_mixed_up():
    template = ChatTemplate(
        "{% for m in messages %}{{ m.args | tojson }}{{ {'a': m.content} | tojson }}{% endfor %}", variables={}
    )
    for number in range(300):
        messages = [{"role": "user", "content": str(number), "args": {"n": number}} for _ in range(2)]
        expected = f'{{"n": {number}}}{{"a": "{number}"}}' * 2
        assert template.render(messages, tools=None, prompt=False) == expected
