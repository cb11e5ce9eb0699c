"""Chat templates written for the tests of native calls, one per form, and what a model emits under them."""

from __future__ import annotations

from pathlib import Path

from actune.core.types import Conversation, Message, Source, ToolSpec
from actune.render.chat import ChatRenderer
from actune.render.dialects import ChatDialect
from actune.render.tokenizer import ChatTemplates, TextTokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "more": {"type": "object"},
        "flags": {"type": "array"},
        "sure": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
    },
}
TOOLS = tuple(ToolSpec(name=name, description="d", parameters=SCHEMA) for name in ("get_weather", "look-up.v2"))

_LOOP = "{%- for c in m.tool_calls or [] %}"
_NAME, _ARGS = "c.function.name", "c.function.arguments"
_OBJECT = "({'name': " + _NAME + ", 'arguments': " + _ARGS + "} | tojson)"
_TAGS = _LOOP + "{{- '\\n<tool_call>\\n' + " + _OBJECT + " + '\\n</tool_call>' }}{%- endfor %}"
_ITEMS = "{%- for k, v in " + _ARGS + ".items() %}"
_PLAIN = "{{- m.content }}"
_THINK = "{%- if m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
# What is written of an answer, by form.
ANSWERS = {
    "json in tags": _THINK + _PLAIN + _TAGS,
    "json list with ids": _PLAIN
    + "{%- if m.tool_calls %}{{- '[TOOL_CALLS] [' }}"
    + _LOOP
    + "{{- ({'name': " + _NAME + ", 'arguments': " + _ARGS + ", 'id': c.id} | tojson) }}"
    + "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']' }}{%- endif %}",
    "name then json": _THINK
    + _PLAIN
    + _LOOP
    + "{{- '[CALL]' + " + _NAME + " + '[ID]' + c.id + '[ARGS]' + (" + _ARGS + " | tojson) }}{%- endfor %}",
    "json then name": _PLAIN
    + "{%- if m.tool_calls %}{{- '<calls>' }}"
    + _LOOP
    + "{{- '<in>' + (" + _ARGS + " | tojson) + '</in><to>' + " + _NAME + " + '</to>' }}{%- endfor %}"
    + "{{- '</calls>' }}{%- endif %}",
    "name as key": _PLAIN
    + "{%- if m.tool_calls %}{{- 'functools[' }}"
    + _LOOP
    + "{{- ({" + _NAME + ": " + _ARGS + "} | tojson) }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}"
    + "{{- ']' }}{%- endif %}",
    "bare json": "{%- if m.tool_calls %}{{- ({'name': m.tool_calls[0].function.name, 'parameters':"
    " m.tool_calls[0].function.arguments} | tojson) }}{%- else %}{{- m.content }}{%- endif %}",
    "tag per parameter": _THINK
    + _PLAIN
    + _LOOP
    + "{{- '\\n<tool_call>\\n<function=' + " + _NAME + " + '>\\n' }}"
    + _ITEMS
    + "{{- '<parameter=' + k + '>\\n' + (v if v is string else v | tojson) + '\\n</parameter>\\n' }}{%- endfor %}"
    + "{{- '</function>\\n</tool_call>' }}{%- endfor %}",
    "key and value tags": _THINK
    + _PLAIN
    + _LOOP
    + "{{- '<call>' + " + _NAME + " }}"
    + _ITEMS
    + "{{- '<k>' + k + '</k><v>' + (v if v is string else v | string) + '</v>' }}{%- endfor %}"
    + "{{- '</call>' }}{%- endfor %}",
    "python call": "{%- if m.tool_calls %}{{- '<py>[' }}"
    + _LOOP
    + "{{- " + _NAME + " + '(' }}"
    + _ITEMS
    + "{{- k + '=' + (v | tojson) }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ')' }}"
    + "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']</py>' }}{%- endif %}"
    + _PLAIN,
    "python list": "{%- if m.tool_calls %}{{- '[' }}"
    + _LOOP
    + "{{- " + _NAME + " + '(' }}"
    + _ITEMS
    + "{{- k + '=' + (v | tojson) }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ')' }}"
    + "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']' }}{%- else %}{{- m.content }}{%- endif %}",
    "name on a line": "{%- if m.tool_calls %}{%- set c = m.tool_calls[0] %}"
    "{{- " + _NAME + " + '\n' + (" + _ARGS + " | tojson) }}{%- else %}{{- m.content }}{%- endif %}",
    "channels": "{%- if m.reasoning_content %}{{- '<|ch|>think<|go|>' + m.reasoning_content + '<|ch|>' }}"
    "{%- else %}{{- '<|ch|>' }}{%- endif %}{%- if m.tool_calls %}{%- set c = m.tool_calls[0] %}"
    "{{- 'to=' + c.function.name + ' json<|go|>' + (c.function.arguments | tojson) }}"
    "{%- else %}{{- 'final<|go|>' + m.content }}{%- endif %}",
}  # fmt: skip
# The prompt ends inside the reasoning.
OPENED = "{{- (m.reasoning_content or '') + '\\n</think>\\n\\n' + m.content }}" + _TAGS
# Keys and values apart: no form reads that.
APART = _PLAIN + _LOOP + "{{- '<call>' + c.function.name + '|' + (c.function.arguments | list | join('|')) + '|' + (" \
    "c.function.arguments.values() | list | join('|')) + '</call>' }}{%- endfor %}"  # fmt: skip


def make_template(answer: str, *, opened: str = "") -> str:
    """Return a template with tools in front; `opened` is what the prompt writes of the answer."""
    return (
        "{%- for t in tools or [] %}{{- (t | tojson) + '\\n' }}{%- endfor %}"
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
        "{%- if m.role == 'assistant' %}{{- '" + opened + "' }}" + answer + "{%- else %}{{- m.content }}{%- endif %}"
        "{{- '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n" + opened + "' }}{%- endif %}"
    )


def make_renderer(folder: Path, template: str) -> ChatRenderer:
    """Return a renderer of a template with the tokenizer of a folder."""
    return ChatRenderer(
        TextTokenizer.from_folder(folder), ChatTemplates(plain=template, tools=template, origin="the test")
    )


def write_output(renderer: ChatRenderer, message: Message, tools: tuple[ToolSpec, ...] = TOOLS) -> str:
    """Return what a model emits for a message, as an engine returns it: without the stop."""
    dialect = ChatDialect(renderer)
    user = Message(role="user", content="?")
    conversation = Conversation(messages=(user, message), tools=tools, source=Source(file="x", line=1))
    text = dialect.completion(conversation, 1, dialect.prompt(conversation, 1))
    return text[: min(text.index(stop) for stop in renderer.profile.stops if stop in text)]
