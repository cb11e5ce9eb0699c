from __future__ import annotations

from pathlib import Path

import pytest

from actune.core.errors import RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.encoder import Encoder

SOURCE = Source(file="x.jsonl", line=1)
FIND = ToolSpec(
    name="find",
    description="Finds a thing.",
    parameters={"type": "object", "properties": {"what": {"type": "string"}, "deep": {"type": "boolean"}}},
)
# Parts of a template; each test leaves out or changes one of them.
HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TOOL_LIST = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
CALLS = "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
FAITHFUL = TOOL_LIST + HEAD + "{{ m.content }}" + CALLS + TAIL


def row(*messages: Message, tools: tuple[ToolSpec, ...] = (FIND,)) -> Conversation:
    return Conversation(messages=messages, tools=tools, source=SOURCE)


def ask(text: str = "Where is it?") -> Message:
    return Message(role="user", content=text)


def answer(text: str = "There it is.") -> Message:
    return Message(role="assistant", content=text)


def calls(*arguments: str, content: str = "") -> Message:
    return Message(
        role="assistant", content=content, tool_calls=tuple(ToolCall(name="find", arguments=a) for a in arguments)
    )


def result(text: str) -> Message:
    return Message(role="tool", content=text)


def encoder_of(template: str, tmp_path: Path, tokenizer_folder: Path) -> Encoder:
    path = tmp_path / "template.jinja"
    path.write_text(template, encoding="utf-8")
    return Encoder.from_folder(tokenizer_folder, chat_template=path)


PARALLEL = row(
    ask(),
    calls('{"what": "left box"}', '{"what": "right box"}'),
    result("first result"),
    result("second one"),
    answer(),
)
DEEP = row(ask(), calls('{"what": "box", "deep": true}'), result("a box"), answer())
MOVED = row(
    Message(role="system", content="Be kind."), ask(), calls('{"what": "box"}'), result("a box"), answer(), ask("And?"),
    answer("No."),
)  # fmt: skip
BESIDE = row(ask(), calls('{"what": "box"}', content="Let me see."), result("a box"), answer())


@pytest.mark.parametrize("conversation", [PARALLEL, DEEP, MOVED, BESIDE])
def test_a_faithful_template_passes(tmp_path: Path, tokenizer_folder: Path, conversation: Conversation):
    assert encoder_of(FAITHFUL, tmp_path, tokenizer_folder).encode_turns(conversation)


@pytest.mark.parametrize(
    ("before", "after", "conversation", "code", "field"),
    [
        # Only the first of several calls is written.
        ("in m.tool_calls or []", "in (m.tool_calls or [])[:1]", PARALLEL, "call-lost", "messages[1].tool_calls[1]"),
        # All calls carry the arguments of the first.
        (
            "{{ c.function | tojson }}",
            "{{ {'name': c.function.name, 'arguments': m.tool_calls[0].function.arguments} | tojson }}",
            PARALLEL, "arguments-lost", "messages[1].tool_calls[1].arguments",
        ),
        # A second result in a row is swallowed.
        (
            "{{ m.content }}",
            "{% if m.role != 'tool' or loop.previtem.role != 'tool' %}{{ m.content }}{% endif %}",
            PARALLEL, "observation-lost", "messages[3].content",
        ),
        # Only strings are written.
        (
            "{{ c.function | tojson }}",
            "{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v if v is string }}{% endfor %}",
            DEEP, "arguments-lost", "messages[1].tool_calls[0].arguments",
        ),
        # Short chats lack the system text; the last prompt has it.
        (
            "{{ m.content }}",
            "{% if m.role != 'system' or messages | length > 5 %}{{ m.content }}{% endif %}",
            MOVED, "system-lost", "messages[0].content",
        ),
        # Calls are dropped from the history.
        (
            "{% for c in m.tool_calls or [] %}",
            "{% for c in (m.tool_calls or []) if m == messages[-1] %}",
            DEEP, "history-lost", "messages[1]",
        ),
        # Earlier answers are dropped.
        (
            "{{ m.content }}",
            "{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}",
            row(ask(), answer(), ask("And then?"), answer("Nothing."), tools=()), "history-lost", "messages[1]",
        ),
    ],
)  # fmt: skip
def test_what_a_template_loses_is_named(
    tmp_path: Path, tokenizer_folder: Path, before: str, after: str, conversation: Conversation, code: str, field: str
):
    assert before in FAITHFUL
    encoder = encoder_of(FAITHFUL.replace(before, after), tmp_path, tokenizer_folder)
    with pytest.raises(RenderError) as caught:
        encoder.encode_turns(conversation)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.fix


def test_text_that_stands_after_the_results_in_the_history_is_no_loss(tmp_path: Path, tokenizer_folder: Path):
    late = (
        TOOL_LIST
        + HEAD
        + "{% if m.role == 'assistant' and m.tool_calls and not loop.last %}"
        + CALLS
        + "{% else %}{{ m.content }}"
        + CALLS
        + "{% endif %}{% if m.role == 'tool' %} ({{ loop.previtem.content }}){% endif %}"
        + TAIL
    )
    assert encoder_of(late, tmp_path, tokenizer_folder).encode_turns(BESIDE)


def test_reasoning_inside_the_content_may_leave_the_history(tmp_path: Path, tokenizer_folder: Path):
    template = FAITHFUL.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
    conversation = row(ask(), answer("<think>hm</think>Yes."), ask("And?"), answer("No."), tools=())
    assert encoder_of(template, tmp_path, tokenizer_folder).encode(conversation).has_branches


def test_marks_of_control_tokens_in_an_answer_are_refused(tokenizer_folder: Path):
    with pytest.raises(RenderError) as caught:
        Encoder.from_folder(tokenizer_folder).encode(row(ask(), answer("a \U000f0001 b"), tools=()))
    assert caught.value.code == "mark-inside"


@pytest.mark.parametrize("fault", ["{{ 1 // 0 }}", "{{ range(10 ** 12) | list }}", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_on_a_row_names_the_message(tmp_path: Path, tokenizer_folder: Path, fault: str):
    template = FAITHFUL.replace("{{ m.content }}", "{% if m.content == 'bad' %}" + fault + "{% endif %}{{ m.content }}")
    with pytest.raises(RenderError) as caught:
        encoder_of(template, tmp_path, tokenizer_folder).encode(row(ask(), answer(), ask("bad"), answer(), tools=()))
    assert (caught.value.code, caught.value.field) == ("template-refuses", "messages[3]")


def test_a_template_made_for_tools_only_serves_rows_with_tools(tmp_path: Path, tokenizer_folder: Path):
    template = "{% if not tools %}{{ raise_exception('tools are required') }}{% endif %}" + FAITHFUL
    encoder = encoder_of(template, tmp_path, tokenizer_folder)
    assert encoder.encode_turns(PARALLEL)[0].turn.completion.endswith("</tool_call><|im_end|>")
    with pytest.raises(RenderError) as caught:
        encoder.encode_turns(row(ask(), answer(), tools=()))
    assert (caught.value.code, caught.value.field) == ("template-refuses", "messages[1]")
