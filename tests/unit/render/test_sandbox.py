"""Templates that loop without end, make huge values or reach for Python end in an error; honest ones are not touched."""

from __future__ import annotations

import threading

import jinja2
import jinja2.ext
import jinja2.sandbox
import pytest

from actune.core.errors import RenderError
from actune.render import budget
from actune.render.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi there"}]
# Multiples of this number share one hash.
SAME = 2**61 - 1
DOUBLE = "{% set ns = namespace(x=[1], y=[1], t=(1,)) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
DOUBLE += "{% set ns.y = [ns.y, ns.y] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
TEXT = "{% set s = 'a' * 100000 %}{% set t = 'b' * 100000 %}"


def render(text: str, messages: list | None = None) -> str:
    return ChatTemplate(text, variables={}).render(messages or MESSAGES, tools=None, prompt=True)


def code_of(text: str) -> str:
    with pytest.raises(RenderError) as caught:
        render(text)
    assert len(str(caught.value)) < 1000
    return caught.value.code


def loops(count: int, body: str = "") -> str:
    return "{% for i in range(100000) %}" * count + body + "{% endfor %}" * count


def grows(change: str, start: str = "'xxxxxxxx'") -> str:
    return f"{{% set ns = namespace(x={start}) %}}" + loops(1, change)


ENDLESS = {
    "nested loops": loops(3),
    "output": loops(2, "{{ i }}"),
    "test of a loop": loops(1, "{% for x in range(100000) if false %}{% endfor %}"),
    "length of a filtered loop": loops(1, "{% for x in range(100000) if false %}{{ loop.length }}{% endfor %}"),
    "two calls a macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "two calls a caller": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}{% macro g(n) %}{% call f() %}"
    "{% if n < 60 %}{{ g(n + 1) }}{% endif %}{% endcall %}{% endmacro %}{{ g(0) }}",
    "two rounds a loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "macro in itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "call block in itself": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g(n) %}{% call f() %}{{ g(n) }}"
    "{% endcall %}{% endmacro %}{{ g(0) }}",
    "loop in itself": "{% for x in 'a' recursive %}{{ loop(x) }}{% endfor %}",
    "block in itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "loop over text": "{% for c in 'x' * 1000000 %}{% for d in 'x' * 1000000 %}{% endfor %}{% endfor %}",
    "filters": loops(1, "{% set x = range(100000) | map('string') | select | list %}"),
    "lists": loops(1, "{% set x = range(100000) | list %}"),
    "aggregates": loops(1, "{% set x = range(100000) | sum %}"),
    "sorting": loops(1, "{% set x = range(100000) | sort %}"),
    "membership": loops(1, "{% set x = 'a' in (range(100000) | reverse) %}"),
    "spread": "{% macro f() %}{{ varargs | length }}{% endmacro %}" + loops(1, "{{ f(*range(100000)) }}"),
    "comparison": "{% set a = 'x' * 9000000 %}{% set b = 'x' * 9000000 %}" + loops(1, "{{ a == b }}"),
    "search": "{% set a = 'x' * 9000000 %}" + loops(1, "{{ 'y' in a }}{{ a.find('y') }}{{ a.count('y') }}"),
    "paths of attributes": "{{ ([1] * 100000) | map(attribute='a.' * 1000) | list }}",
    "sent to a generator": "{% set g = [1] | map('string') %}" + loops(2, "{{ g.send(none) }}"),
    "dates": "{{ strftime_now('%c' * 1000000) }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_work_without_end_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budget, "WORK", 20_000_000)
    assert code_of(ENDLESS[name]) in ("template-too-costly", "template-refuses")


def test_the_real_limit_stops_a_loop_and_names_the_line():
    with pytest.raises(RenderError, match=r"line 2: more than [0-9,]+ units of work") as caught:
        render("{% set a = 1 %}\n" + loops(3))
    assert caught.value.code == "template-too-costly"
    assert caught.value.fix


HUGE = {
    "text times": "{{ 'x' * 10 ** 10 }}",
    "times text": "{{ 10 ** 10 * 'x' }}",
    "list times": "{{ [1] * 10 ** 10 }}",
    "bytes times": "{{ 'x'.encode() * 10 ** 10 }}",
    "power": "{% set x = 10 ** 100 %}{{ x ** x }}",
    "squares": grows("{% set ns.x = ns.x * ns.x %}", "10"),
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "percent precision": "{{ '%.1000000000f' % 1.0 }}",
    "percent name": "{{ '%(a(b))1000000000d' % {'a(b)': 1} }}",
    "percent text": TEXT + "{{ ('%(s)s' * 100000) % {'s': s} }}",
    "percent filter": "{{ '%1000000000d' | format(1) }}",
    "percent in a test": "{{ '%1000000000d' is odd }}",
    "percent in a select": "{{ ['%1000000000d'] | select('divisibleby', 3) | list }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format nested": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "format map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format many": TEXT + "{{ ('{0}' * 100000).format(s) }}",
    "format as a value": "{% set f = '{:>1000000000}'.format %}{{ f(1) }}",
    "center": "{{ 'x' | center(10 ** 10) }}",
    "padding": "{{ 'x'.ljust(2000000000) }}",
    "padding by item": "{{ 'x'['rjust'](2000000000) }}",
    "padding by filter": "{{ ('x' | attr('zfill'))(2000000000) }}",
    "padding by map": "{% for f in ['x'] | map(attribute='center') %}{{ f(2000000000) }}{% endfor %}",
    "padding bytes": "{{ 'x'.encode().center(2000000000) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "indent": "{{ 'x' | indent(10 ** 10, true) }}",
    "indent lines": "{{ ('x\n' * 100000) | indent(100000) }}",
    "indent with text": TEXT + "{{ ('x\n' * 100000) | indent(s) }}",
    "json indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "json separators": TEXT + "{{ ([1] * 100000) | tojson(separators=(s, ':')) }}",
    "replace filter": TEXT + "{{ s | replace('a', t) }}",
    "replace": TEXT + "{{ s.replace('', t) }}",
    "translate": TEXT + "{{ s.translate({97: t}) }}",
    "join filter": TEXT + "{{ range(100000) | join(s) }}",
    "join": TEXT + "{{ s.join(t) }}",
    "same text many times": TEXT + "{{ ([s] * 100000) | join }}",
    "sum": grows("{% set ns.x = ns.x + ns.x %}"),
    "sum of lists": grows("{% set ns.x = ns.x + ns.x %}", "[1]"),
    "tilde": grows("{% set ns.x = ns.x ~ ns.x %}"),
    "block": grows("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "macro": "{% macro f(a) %}{{ a }}{{ a }}{% endmacro %}" + grows("{% set ns.x = f(ns.x) %}"),
    "filter block": grows("{% set y %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = y %}"),
    "escapes": grows("{% set ns.x = (ns.x | e | string) ~ '&' %}", "'&'"),
    "escaped text": grows("{% set ns.x = ns.x + ns.x %}", "('&' | safe)"),
    "autoescape": "{% autoescape true %}" + grows("{% set ns.x = ns.x ~ ns.x %}") + "{% endautoescape %}",
    "quotes": grows("{% set ns.x = ns.x | tojson %}", "'\"'"),
    "kept texts": grows("{% set ns.x = [ns.x, 'x' * 1000000] %}"),
    "kept copies": "{% set d = dict.fromkeys(range(1000)) %}" + grows("{% set ns.x = [ns.x, d.copy()] %}"),
    "output of one text": TEXT + loops(1, "{{ s }}"),
    "batch": "{{ [1] | batch(10 ** 10, 'x') | list }}",
    "slice": "{{ [1] | slice(10 ** 10) | list }}",
    "round": "{{ 5 | round(10 ** 9, 'ceil') }}",
    "round up": "{{ 5 | round(-10 ** 9) }}",
    "round text": "{{ 'x' | round(9, 'ceil') }}",
    "digits": "{{ ('f' * 1000000) | int(base=16) }}",
    "to bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "from bytes": "{{ (1).from_bytes(('x' * 100000).encode(), 'big') }}",
    "words": "{{ lipsum(n=10 ** 7) }}",
    "long words": "{{ lipsum(n=1, min=10 ** 9, max=10 ** 9 + 1) }}",
    "range": "{{ range(10 ** 9) | list }}",
    "written twice each": DOUBLE + "{{ ns.x }}",
    "in text": DOUBLE + "{{ 'a' ~ ns.x }}",
    "as json": DOUBLE + "{{ ns.x | tojson }}",
    "printed": DOUBLE + "{{ ns.x | pprint }}",
    "compared": DOUBLE + "{{ ns.x == ns.y }}",
    "contained": DOUBLE + "{{ ns.x in [ns.y] }}",
    "tested": DOUBLE + "{{ [ns.x] | select('equalto', ns.y) | list }}",
    "found": DOUBLE + "{{ [ns.x].index(ns.y) }}",
    "sorted": DOUBLE + "{{ [ns.x, ns.y] | sort }}",
    "changed": DOUBLE + "{% for i in [ns.x, ns.y] %}{{ loop.changed(i) }}{% endfor %}",
    "key": DOUBLE + "{{ {ns.t: 1} }}",
    "looked up": DOUBLE + "{{ {1: 1}[ns.t] }}{{ {1: 1}.get(ns.t) }}",
    "missing": DOUBLE + "{{ {1: 1}[ns.x].y }}",
    "unique": DOUBLE + "{{ [ns.t] | unique | list }}",
    "raised": DOUBLE + "{{ raise_exception(ns.x) }}",
    "view": DOUBLE + "{{ {'a': ns.x}.items().mapping }}",
    "same hashes": f"{{{{ dict.fromkeys(range(0, 100000 * {SAME}, {SAME})) }}}}",
    "same hashes of a method": f"{{{{ {{}}.fromkeys(range(0, 100000 * {SAME}, {SAME})) }}}}",
    "same hashes in a filter": f"{{{{ range(0, 100000 * {SAME}, {SAME}) | unique | list }}}}",
    "same hashes in pairs": f"{{{{ dict(range(0, 100000 * {SAME}, {SAME}) | batch(2)) }}}}",
    "same hashes in the text": "{{ [" + ",".join(str(i * SAME) for i in range(4000)) + "] }}",
    "search from the right": "{{ ('a' * 9000000).rfind('a' * 1000 + 'b' + 'a' * 1000000) }}",
    "strip": "{{ ('a' * 9000000).strip('bcdefgh' * 100000 + 'a') }}",
    "tags": "{{ ('<!---->' * 1000000) | striptags }}",
    "links": "{{ ('a@' * 100000) | urlize }}",
    "codec": "{{ ('é' * 1000000).encode('punycode') }}",
    "codec of bytes": "{{ ('a' * 1000000).encode().decode('punycode') }}",
    "many words": "{{ ('a ' * 50000000).split() | length }}",
    "depth of a list": grows("{% set ns.x = [ns.x] %}") + "{{ ns.x }}",
    "depth of a key": grows("{% set ns.x = (ns.x,) %}") + "{{ {ns.x: 1} }}",
    "filters that read one another": grows("{% set ns.x = ns.x | map('string') %}"),
    "brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops in loops": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "macros in macros": "".join(f"{{% macro a{i}() %}}" for i in range(60)) + "{% endmacro %}" * 60,
    "negations": "{{ " + "-" * 5000 + "1 }}",
    "attributes": "{{ a" + ".a" * 5000 + " }}",
    "long sum": "{{ " + "1 - " * 5000 + "1 }}",
    "long integer": "{{ 0x" + "f" * 100000 + " }}",
    "long template": "{{ x }}" * 20000,
    "longer template": "a" * 2_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_huge_values_are_refused_before_they_are_made(name: str, monkeypatch: pytest.MonkeyPatch):
    if HUGE[name].startswith(DOUBLE):  # found by looking at each part as long as work is left
        monkeypatch.setattr(budget, "WORK", 20_000_000)
    assert code_of(HUGE[name]) in ("template-too-costly", "template-refuses", "template-invalid")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ '' | attr('__class__') }}",
        "{{ [''] | map(attribute='__class__') | list }}",
        "{{ ''['__class__'] }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0[__class__]}'.format('') }}",
        "{{ ''.__class__() }}",
        "{{ (messages | selectattr('__class__') | list) }}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages.append(1) }}",
        "{{ [1].clear() }}",
        "{% include 'a' %}",
        "{% include ['a', 'b'] ignore missing %}",
        "{% import 'a' as b %}",
        "{% from 'a' import b %}",
        "{% extends 'a' %}",
        "{{ 1e999 + 1 }}",
        "{{ [1] | map('!add', 2) | list }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_is_not_allowed_is_refused(text: str):
    assert code_of(text) == "template-refuses"


@pytest.mark.parametrize("text", ["{{ 1 | !add(2) }}", "{{ '!add' is filter or raise_exception('no') }}"])
def test_operations_cannot_be_named(text: str):
    assert code_of(text) in ("template-invalid", "template-refuses")


def test_long_errors_are_cut():
    with pytest.raises(RenderError) as caught:
        render("{{ raise_exception('x' * 10000000) }}")
    assert "xxx..." in caught.value.message


def test_an_error_lets_go_of_what_the_template_held():
    with pytest.raises(RenderError) as caught:
        render("{% macro f(x) %}{{ raise_exception('no') }}{% endmacro %}{{ f('kept' * 1000000) }}")
    cause, frames = caught.value.__cause__, []
    trace = cause.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    held = [value for frame in frames[2:] for value in frame.f_locals.values()]
    assert not any(isinstance(value, str) and len(value) > 1000 for value in held)


def test_a_template_renders_again_after_it_was_stopped():
    template = ChatTemplate(
        "{% for a in range(messages[0].content | length) %}{% for b in range(100000) %}{% for c in range(100000) %}"
        "{% endfor %}{% endfor %}{% endfor %}done",
        variables={},
    )
    with pytest.raises(RenderError):
        template.render(MESSAGES, tools=None, prompt=True)
    assert template.render([{"role": "user", "content": ""}], tools=None, prompt=True) == "done"


def test_renderings_at_the_same_time_have_budgets_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budget, "WORK", 2_000_000)
    template = ChatTemplate("{% for i in range(10000) %}{% endfor %}{{ messages[0].content }}", variables={})
    texts: list[str] = []

    def work(number: int) -> None:
        texts.extend(
            template.render([{"role": "user", "content": str(number)}], tools=None, prompt=True) for _ in range(20)
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == sorted(str(number) for number in range(8) for _ in range(20))


def test_an_interrupt_is_not_swallowed():
    class Interrupting(dict):
        def __getitem__(self, key: str) -> str:
            raise KeyboardInterrupt

    template = ChatTemplate("{{ tools[0]['a'] }}", variables={})
    with pytest.raises(KeyboardInterrupt):
        template.render(MESSAGES, tools=[Interrupting()], prompt=True)


def test_memory_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise MemoryError

    template = ChatTemplate("{{ raise_exception('a') }}", variables={})
    monkeypatch.setattr("actune.render.template._raise_exception", fail)
    template = ChatTemplate("{{ raise_exception('b') }}", variables={})
    with pytest.raises(RenderError, match="memory") as caught:
        template.render(MESSAGES, tools=None, prompt=True)
    assert caught.value.code == "template-too-costly"


def test_large_honest_rows_render():
    long = "one line of text\n" * 300_000
    messages = [{"role": "user", "content": long}, {"role": "assistant", "content": long}]
    text = "{% for m in messages %}{{ '<' + m.role + '>' + m.content.split('</think>')[-1] | trim + '\n' }}{% endfor %}"
    assert len(render(text, messages)) > 10_000_000
    assert len(render("{% for m in messages %}{{ m | tojson }}{% endfor %}", messages)) > 10_000_000


def test_templates_that_look_at_each_character_render(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budget, "WORK", 1_000_000)  # what the length of the conversation adds is enough
    messages = [{"role": "user", "content": "one line of text\n" * 20_000}]
    text = "{% for c in messages[0].content %}{{ c }}{% endfor %}"
    assert len(render(text, messages)) == 340_000


def test_text_that_is_added_to_a_thousand_times_renders():
    messages = [{"role": "user", "content": "word " * 1000}] * 1000
    text = (
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% endfor %}{{ ns.x }}"
    )
    assert len(render(text, messages)) == 5_000_000


def test_a_thousand_messages_that_look_at_one_another_render():
    messages = [{"role": "user", "content": "hi"}] * 1000
    text = (
        "{% for m in messages %}{% set ns = namespace(n=0) %}{% for o in messages %}"
        "{% if o.role == m.role and o.content != 'x' %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ ns.n }}"
        "{% endfor %}"
    )
    assert render(text, messages) == "1000" * 1000


HONEST = [
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
    "{{ loop.revindex }}{{ loop.previtem.role }}{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ x if x is number else loop(x) }}{{ loop.depth }}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}{{ ns.b }}|",
    "{% macro f(a, b='x', *c) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, z=4) }}",
    "{% macro f(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, z=4) }}",
    "{% macro f() %}<{{ caller(1) }}>{% endmacro %}{% call(x) f() %}{{ x }}{{ messages[0].role }}{% endcall %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{% set y | upper %}a{{ 1 }}b{% endset %}{{ y }}",
    "{% filter upper | trim %} a{{ 'b' }} {% endfilter %}{% with a=1, b=2 %}{{ a + b }}{% endwith %}",
    "{% block a %}{{ messages[0].role }}{% endblock %}{{ self.a() }}",
    "{% for m in messages %}{% block b scoped %}{{ m.role }}{{ loop.index }}{% endblock %}{% endfor %}",
    "{% autoescape true %}{{ '<a>' }}{{ '<' + '>' }}{{ ('<' | safe) + '>' }}{{ 'a' ~ '<' }}{{ ['<'] }}{% endautoescape %}",
    "{% macro f() %}{{ '<' }}{% endmacro %}{% autoescape true %}{{ f() }}{{ '&' }}{% endautoescape %}{{ f() }}",
    "{{ ('<' | safe) + '<' }}{{ ('<' | e) ~ '<' }}{{ '<' | e | upper }}{{ ('<%s>' | safe) % '<' }}{{ '<' | forceescape }}",
    "{{ ('a' | safe).join(['<', '>']) }}{{ ('{}' | safe).format('<') }}{{ ('<b>' | safe).striptags() }}",
    "{{ 1 + 2 * 3 ** 2 // 4 % 5 - 6 / 7 }}{{ -1 }}{{ +1 }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** -1 }}{{ 1.5 + true }}",
    "{{ 1 < 2 < 3 }}{{ 1 == 1.0 != 2 }}{{ 'a' in 'abc' }}{{ 1 not in [1] }}{{ 'a' in {'a': 1} }}{{ [1] == [1] }}",
    "{{ [1, 2] + [3] }}{{ (1,) + (2,) }}{{ [0] * 3 }}{{ 'ab' * 2 }}{{ 2 * 'ab' }}{{ 'a' 'b' }}{{ [1] * -1 }}",
    "{{ 'abc'[1] }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ messages[-1].role }}{{ messages[1:] }}{{ messages[9] }}|{{ {'a': 1}['a'] }}",
    "{{ x }}{{ x is defined }}{{ messages[0].x }}{{ messages[0]['x'] is none }}{{ messages[0].content.x }}|{{ x[0] }}",
    "{{ messages[0].items() | list }}{{ messages[0].get('role') }}{{ messages[0].keys() | list }}{{ messages[0].get('z', 1) }}",
    "{{ {'items': 1}.items is callable }}",
    "{{ {'items': 1}['items'] }}{{ {'_a': 1}._a }}{{ {'pop': 1}.pop is defined }}{{ [].append is defined }}",
    "{{ 'a b,c'.split() }}{{ 'a b,c'.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ 'abc'.split(sep='b', maxsplit=1) }}",
    "{{ ' x '.strip() }}{{ 'xax'.strip('x') }}{{ 'aXb'.lower() }}{{ 'a b'.title() }}{{ 'abc'.startswith(('a', 'b')) }}",
    "{{ 'abc'.replace('b', 'xx') }}{{ 'aaa'.replace('a', 'b', 1) }}{{ ','.join(['a', 'b']) }}{{ ','.join('ab') }}",
    "{{ 'a\tb'.expandtabs(4) }}{{ 'a'.center(5, '*') }}{{ '7'.zfill(3) }}{{ 'é'.encode() }}{{ 'a'.encode().decode() }}",
    "{{ '%s-%5.2f-%d%%' % ('a', 1.5, 3) }}{{ '%(a)s' % {'a': 1} }}{{ '%s' | format('x') }}{{ '%*d' % (5, 1) }}",
    "{{ '{} {a!r:>5} {0[0]}'.format('b', a='c') }}{{ '{a}'.format_map({'a': 1}) }}{{ '{0.role}'.format(messages[0]) }}",
    "{{ '  a\n b' | trim | indent(2) }}{{ 'a\n\nb' | indent(2, true, true) }}{{ 'a' | center(5) }}{{ 'a b' | title }}",
    "{{ [3, 1, 2] | sort }}{{ ['b', 'A'] | sort }}{{ [1, 2] | reverse | list }}{{ [1, 1] | unique | list }}{{ [1, 2] | sum }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | list }}{{ [1, 2, 3] | select('odd') | list }}",
    "{{ messages | groupby('role') }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1} | items | list }}{{ [1, 2, 3] | batch(2, 0) | list }}",
    "{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2] | first }}{{ [1, 2] | last }}{{ [1, 5] | max }}{{ [] | first }}|{{ [1] | random }}",
    "{{ '7' | int }}{{ 'x' | int(3) }}{{ 'ff' | int(base=16) }}{{ '1.5' | float }}{{ 2.567 | round(1) }}{{ 2.5 | round(0, 'ceil') }}",
    "{{ 'a' | default('b') }}{{ x | default('b') }}{{ '' | d('c', true) }}{{ [1] | string }}{{ none | string }}{{ 3 | abs }}",
    "{{ 'abc' | length }}{{ 'abc' | list }}{{ 'a b' | wordcount }}{{ 'abcdef' | truncate(5) }}{{ 'a b' | urlencode }}",
    "{{ '<b>x</b>' | striptags }}{{ 'a b c' | wordwrap(3) }}{{ {'a': 1} | xmlattr }}{{ 1000 | filesizeformat }}{{ [1] | pprint }}",
    "{{ messages is sequence }}{{ 'a' is string }}{{ 1 is number }}{{ {} is mapping }}{{ x is undefined }}{{ 4 is divisibleby 2 }}",
    "{{ 'a' is lower }}{{ 'trim' is filter }}{{ 'nope' is filter }}{{ 'odd' is test }}{{ 1 is in [1] }}{{ 1 is eq 1 }}{{ none is none }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('|') %}{{ j() }}{{ j() }}",
    "{{ dict(a=1) }}{{ dict([('a', 1)]) }}{{ dict.fromkeys([1, 2]) }}{{ {}.fromkeys([1]) }}{{ range(3) | list }}{{ range(1, 7, 2) | list }}",
    "{{ 'a' if x else 'b' }}{{ 'a' if messages }}{{ x or 'y' }}{{ 1 and 2 }}{{ not x }}{{ ('a' if x) is defined }}",
    "{{ [[1, 'a'], {'b': none}] }}{{ {'a': [true]} }}{{ (1, 'x') }}{{ {1: 2}.items() }}{{ {(1, 2): 3} }}{{ 'ä\u200b' }}{{ ['\u200b'] }}",
    "{% set a, b = [1, 2] %}{{ a }}{{ b }}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ messages.index(messages[1]) }}{{ [1, 1].count(1) }}{{ (5).bit_length() }}{{ (1.5).is_integer() }}{{ 'aab'.rfind('a') }}",
    "{{ none.x is defined }}",
    "{{ x.y }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' + x }}",
    "{{ messages + 'a' }}",
    "{{ 'a' | nofilter }}",
    "{{ x() }}",
    "{{ 'a'.nomethod() }}",
    "{{ [1] | tojson(indent=2) }}{{ messages | tojson | length > 0 }}{{ {'a': 1.5} | tojson }}{{ x | tojson }}",
]


def stock() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    import json

    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = lambda message: (_ for _ in ()).throw(jinja2.TemplateError(message))
    return environment


@pytest.mark.parametrize("text", HONEST)
def test_everything_else_renders_as_jinja_renders_it(text: str):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<Hi> & 'there'"},
        {"role": "user", "content": "ümläut"},
    ]
    try:
        want = stock().from_string(text).render(messages=messages)
    except Exception:  # noqa: BLE001 - a template may fail in any way
        want = None
    try:
        got = render(text, messages)
    except RenderError:
        got = None
    assert got == want


def test_the_honest_templates_above_are_not_all_refused():
    assert sum(_renders(text) for text in HONEST) >= len(HONEST) - 13


def _renders(text: str) -> bool:
    try:
        render(text, [{"role": "user", "content": "a"}] * 3)
    except RenderError:
        return False
    return True
