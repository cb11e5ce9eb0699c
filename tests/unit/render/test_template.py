from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from actune.core.errors import RenderError
from actune.render.template import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "杭州天气?"},
    {"role": "assistant", "content": "晴。"},
]


VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def render(text: str, **variables: str) -> str:
    return ChatTemplate(text, variables=variables).render(MESSAGES, tools=None, prompt=True)


def test_variables_and_generation_prompt_are_there():
    text = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}{{ add_generation_prompt }}"
    )
    assert render(text, bos_token="<s>") == "<s>system:Be brief.;user:杭州天气?;assistant:晴。;True"


def test_json_is_written_without_escapes():
    assert render("{{ messages[1] | tojson }}") == '{"role": "user", "content": "杭州天气?"}'
    assert render("{{ {'a': '<b>'} | tojson }}") == '{"a": "<b>"}'


def test_generation_tags_of_trainers_are_transparent():
    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert render(text) == "Be brief.杭州天气?晴。"


def test_the_date_can_be_frozen():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", variables={}, now=datetime.date(2024, 2, 1))
    assert template.render(MESSAGES, tools=None, prompt=True) == "01 Feb 2024"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{% for %}", "template-invalid"),
        ("{{ raise_exception('no') }}", "template-refuses"),
        ("{{ messages.append(1) }}", "template-refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "template-refuses"),
        ("{{ messages[0].missing.deeper }}", "template-refuses"),
    ],
)
def test_bad_templates_are_refused(text: str, code: str):
    with pytest.raises(RenderError) as caught:
        render(text)
    assert caught.value.code == code


@pytest.mark.shared
def test_every_real_template_renders_as_transformers_does(shared: Path):
    """Same text, or both refuse: plain chats and tool conversations over the whole collection."""
    chat_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    conversations = _conversations()
    files = sorted((shared / "assets" / "chat_templates").glob("*.jinja"))
    assert len(files) > 100
    rendered = 0
    for file in files:
        text = file.read_text(encoding="utf-8")
        for messages, tools, prompt in conversations:
            got = _attempt(_render_ours, text, messages, tools, prompt)
            want = _attempt(_render_theirs, chat_utils, text, messages, tools, prompt)
            assert got == want, file.name
            rendered += want is not None
    assert rendered > 4 * len(files)


def _conversations() -> list[tuple[list, list | None, bool]]:
    """Return messages, tools and whether a generation prompt follows: chats, calls, reasoning, lists of blocks."""
    function = {"name": "f", "arguments": {"city": "杭州", "n": 3, "on": [True, None, 1.5], "of": {"a": "<b>"}}}
    calls = [{"id": f"abc123DE{i}", "type": "function", "function": function} for i in range(2)]
    text = [{**calls[0], "function": {"name": "f", "arguments": json.dumps(function["arguments"])}}]
    properties = {
        "city": {"type": "string", "description": "where", "enum": ["a", "b"]},
        "days": {"type": ["integer", "null"], "default": 3},
        "of": {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string"}}},
            "required": ["a"],
        },
    }
    tools = [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {
            "type": "function",
            "function": {
                "name": "g",
                "description": 'd\nwith "lines"',
                "parameters": {"type": "object", "properties": properties, "required": ["city"]},
                "return": {"type": "string"},
            },
        },
    ]

    def results(made: list) -> list:
        return [{"role": "tool", "content": "sunny", "tool_call_id": one["id"], "name": "f"} for one in made]

    def answer(made: list, **more: str) -> dict:
        return {"role": "assistant", "content": "", "tool_calls": made, **more}

    thought = {"reasoning_content": "r", "thinking": "r"}
    last = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nFine.  "}
    one = [*MESSAGES[:2], answer(calls[:1], **thought), *results(calls[:1]), MESSAGES[2]]
    two = [*MESSAGES[1:2], answer(calls, **thought), *results(calls), {**MESSAGES[2], **thought}, *MESSAGES[1:2], last]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    return [
        (MESSAGES[:2], None, True),
        (MESSAGES, None, True),
        (one, tools[:1], True),
        (one, tools, False),
        (two, tools, True),
        (two[:4], tools, True),
        ([*MESSAGES[:2], answer(text), *results(text)], tools, True),
        ([*MESSAGES[1:], *MESSAGES[1:2], last, *MESSAGES[1:2]], None, True),
        ([*blocks, *MESSAGES[2:]], None, False),
        ([*MESSAGES, *MESSAGES], tools, True),
        ([], None, True),
    ]


def _render_ours(text: str, messages: list, tools: list | None, prompt: bool) -> str:
    return ChatTemplate(text, variables=VARIABLES).render(messages, tools=tools, prompt=prompt)


def _render_theirs(chat_utils, text: str, messages: list, tools: list | None, prompt: bool) -> str:
    copies = [json.loads(json.dumps(messages))]
    rendered, _ = chat_utils.render_jinja_template(
        copies, tools=tools, chat_template=text, add_generation_prompt=prompt, **VARIABLES
    )
    return rendered[0]


def _attempt(call, *args) -> str | None:
    try:
        return call(*args)
    except Exception:  # noqa: BLE001 - a template may fail in any way
        return None
