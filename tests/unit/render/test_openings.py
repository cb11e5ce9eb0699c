"""Prompts that the text with the answer does not begin with: what is trained then, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actune.core.errors import RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.encoder import Encoder

SOURCE = Source(file="x.jsonl", line=1)
FIND = ToolSpec(
    name="find", description="Finds.", parameters={"type": "object", "properties": {"what": {"type": "string"}}}
)
ASK, AGAIN = Message(role="user", content="Where is it?"), Message(role="user", content="And now?")
REPLY = Message(role="assistant", content="There it is.")
THINKING = Message(role="assistant", content="There it is.", reasoning="I saw it.")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="find", arguments=json.dumps({"what": "it"})),))
RESULT = Message(role="tool", content="found it")

HEAD = (
    "{%- for t in tools or [] %}{{- t | tojson }}{%- endfor %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
)
BODY = "{{- m.content }}{%- for c in m.tool_calls or [] %}{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{%- endfor %}"
TAIL = "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n"
END = "' }}{%- endif %}"
THOUGHT = "{%- if m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"


def encoder_of(template: str, tmp_path: Path, tokenizer_folder: Path, **options: object) -> Encoder:
    path = tmp_path / "template.jinja"
    path.write_text(template, encoding="utf-8")
    return Encoder.from_folder(tokenizer_folder, dialect="chat", chat_template=path, **options)  # pyrefly: ignore


def row(*messages: Message, tools: tuple[ToolSpec, ...] = ()) -> Conversation:
    return Conversation(messages=messages, tools=tools, source=SOURCE)


def pairs(encoder: Encoder, conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.turn.prompt[-60:], turn.turn.completion) for turn in encoder.encode_turns(conversation)]


def test_an_empty_reasoning_block_of_the_prompt_is_no_target(tmp_path: Path, tokenizer_folder: Path):
    encoder = encoder_of(HEAD + BODY + TAIL + "<think>\\n\\n</think>\\n\\n" + END, tmp_path, tokenizer_folder)
    assert encoder.renderer.profile.opens == "empty-reasoning"
    found = pairs(encoder, row(ASK, CALL, RESULT, REPLY, AGAIN, REPLY, tools=(FIND,)))
    assert all(prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n") for prompt, _ in found)
    assert [completion for _, completion in found] == [
        '<tool_call>{"name": "find", "arguments": {"what": "it"}}</tool_call><|im_end|>',
        "There it is.<|im_end|>",
        "There it is.<|im_end|>",
    ]


def test_reasoning_behind_an_empty_block_is_refused(tmp_path: Path, tokenizer_folder: Path):
    template = (
        HEAD
        + "{%- if m.role == 'assistant' %}"
        + THOUGHT
        + "{%- endif %}"
        + BODY
        + TAIL
        + "<think>\\n\\n</think>\\n\\n"
    )
    encoder = encoder_of(template + END, tmp_path, tokenizer_folder)
    assert pairs(encoder, row(ASK, REPLY))[0][1] == "There it is.<|im_end|>"
    with pytest.raises(RenderError, match="ends the reasoning at once") as caught:
        encoder.encode(row(ASK, THINKING))
    assert caught.value.code == "prompt-no-prefix"
    assert "--template_variables" in str(caught.value.fix)


def test_a_prompt_that_begins_reasoning(tmp_path: Path, tokenizer_folder: Path):
    """With reasoning the target goes on in it; without, the template says how to end it, or the row is refused."""
    reasoned = "{%- if m.role == 'assistant' %}{%- if m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>' }}"
    closing = reasoned + "{%- else %}{{- '</think>' }}{%- endif %}{%- endif %}"
    silent = reasoned + "{%- endif %}{%- endif %}"
    for between, expected in ((closing, "</think>There it is.<|im_end|>"), (silent, None)):
        encoder = encoder_of(HEAD + between + BODY + TAIL + "<think>\\n" + END, tmp_path, tokenizer_folder)
        assert encoder.renderer.profile.opens == "reasoning"
        assert pairs(encoder, row(ASK, THINKING))[0][1] == "I saw it.\n</think>There it is.<|im_end|>"
        if expected is not None:
            assert pairs(encoder, row(ASK, REPLY))[0][1] == expected
            continue
        with pytest.raises(RenderError, match="the prompt opens reasoning") as caught:
            encoder.encode(row(ASK, REPLY))
        assert caught.value.code == "prompt-no-prefix"


def test_reasoning_that_no_answer_shows_is_no_opening(tmp_path: Path, tokenizer_folder: Path):
    encoder = encoder_of(HEAD + BODY + TAIL + "<think>\\n" + END, tmp_path, tokenizer_folder)
    assert encoder.renderer.profile.opens == "unknown"
    with pytest.raises(RenderError, match="no answer begins with"):
        encoder.encode(row(ASK, REPLY))


def test_reasoning_removed_once_the_answer_is_there(tmp_path: Path, tokenizer_folder: Path):
    """The prompt keeps the thought of a step, the text with the final answer does not: the answer is found behind it."""
    shown = "{%- if m.role == 'assistant' and (m.tool_calls and not messages[-1].content or loop.last or add_generation_prompt) %}"
    encoder = encoder_of(HEAD + shown + THOUGHT + "{%- endif %}" + BODY + TAIL + END, tmp_path, tokenizer_folder)
    acting = Message(role="assistant", reasoning="I look.", tool_calls=CALL.tool_calls)
    turns = encoder.encode_turns(row(ASK, acting, RESULT, THINKING, tools=(FIND,)))
    assert "I look." in turns[1].turn.prompt
    assert turns[1].turn.completion == "<think>\nI saw it.\n</think>\n\nThere it is.<|im_end|>"


def test_a_system_text_that_stands_before_the_last_question(tmp_path: Path, tokenizer_folder: Path):
    """As Mistral's templates do: with an answer behind the question the system text is gone, the prompt has it."""
    template = (
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' }}"
        "{%- if loop.last and messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
        "{{- m.content + '<|im_end|>\\n' }}"
        "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    encoder = encoder_of(template, tmp_path, tokenizer_folder)
    turns = encoder.encode_turns(row(Message(role="system", content="Be kind."), ASK, REPLY, AGAIN, REPLY))
    assert [turn.turn.prompt.count("Be kind.") for turn in turns] == [1, 1]
    assert [turn.turn.completion for turn in turns] == ["There it is.<|im_end|>"] * 2
    tree = encoder.encode(row(Message(role="system", content="Be kind."), ASK, REPLY, AGAIN, REPLY))
    assert tree.has_branches


def test_a_header_that_stands_there_in_any_case(tmp_path: Path, tokenizer_folder: Path):
    template = HEAD + BODY + "{{- '<|im_end|>\\n' }}{%- endfor %}{{- '<|im_start|>assistant\\n<think>\\n</think>\\n' }}"
    encoder = encoder_of(template, tmp_path, tokenizer_folder)
    assert pairs(encoder, row(ASK, REPLY, AGAIN, REPLY))[1][1] == "There it is.<|im_end|>"


def test_calls_without_ids_get_some_where_the_template_wants_them(tmp_path: Path, tokenizer_folder: Path):
    strict = (
        "{{- m.content }}{%- for c in m.tool_calls or [] %}"
        "{%- if c.id is not defined or c.id | length != 9 %}{{- raise_exception('id') }}{%- endif %}"
        "{{- '<tool_call>' + ({'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson) }}"
        "{{- '</tool_call>' }}{%- endfor %}"
    )
    encoder = encoder_of(
        HEAD + strict + "{%- if m.role == 'tool' %}{{- ' ' + m.tool_call_id }}{%- endif %}" + TAIL + END,
        tmp_path,
        tokenizer_folder,
    )
    assert encoder.renderer.profile.call_ids
    turns = encoder.encode_turns(row(ASK, CALL, RESULT, CALL, RESULT, REPLY, tools=(FIND,)))
    assert turns[1].turn.completion.count("call00002") == 1
    assert turns[2].turn.prompt.count("call00001") == turns[2].turn.prompt.count("call00002") == 2


def test_variables_reach_the_template(tmp_path: Path, tokenizer_folder: Path):
    template = (
        HEAD
        + BODY
        + TAIL
        + "' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '') + '"
        + END
    )
    assert encoder_of(template, tmp_path, tokenizer_folder).renderer.profile.opens == ""
    encoder = encoder_of(template, tmp_path, tokenizer_folder, variables={"enable_thinking": False})
    assert encoder.renderer.profile.opens == "empty-reasoning"
