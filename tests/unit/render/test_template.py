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
    call = {"id": "abc123DEF", "type": "function", "function": {"name": "f", "arguments": {"city": "杭州", "n": 3}}}
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    agent = [
        *MESSAGES[:2],
        {"role": "assistant", "content": "", "reasoning_content": "r", "thinking": "r", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "abc123DEF", "name": "f"},
        MESSAGES[2],
    ]
    files = sorted((shared / "assets" / "chat_templates").glob("*.jinja"))
    assert len(files) > 100
    rendered = 0
    for file in files:
        text = file.read_text(encoding="utf-8")
        for messages, tools in ((MESSAGES[:2], None), (MESSAGES, None), (agent, [tool])):
            got = _attempt(_render_ours, text, messages, tools)
            want = _attempt(_render_theirs, chat_utils, text, messages, tools)
            assert got == want, file.name
            rendered += want is not None
    assert rendered > len(files)


def _render_ours(text: str, messages: list, tools: list | None) -> str:
    return ChatTemplate(text, variables=VARIABLES).render(messages, tools=tools, prompt=True)


def _render_theirs(chat_utils, text: str, messages: list, tools: list | None) -> str:
    copies = [json.loads(json.dumps(messages))]
    rendered, _ = chat_utils.render_jinja_template(
        copies, tools=tools, chat_template=text, add_generation_prompt=True, **VARIABLES
    )
    return rendered[0]


def _attempt(call, *args) -> str | None:
    try:
        return call(*args)
    except Exception:  # noqa: BLE001 - a template may fail in any way
        return None
