"""A chat template that writes ReAct text from OpenAI's tools and calls, for servers that know nothing of the dialect.

The model's own template shows tools its own way, which a model trained on ReAct text has never seen. A server that is given
this one (`--chat-template`) sends what was trained: the API list in the system text, steps and observations in one turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from actune.core import api_list, react
from actune.core.errors import DataError, RenderError
from actune.core.types import Message, ToolSpec
from actune.core.types import Style as Dialect
from actune.exporting.ollama.probes import list_cases, write_prompt
from actune.exporting.ollama.shape import Chat, InexpressibleError, cut, learn_shape
from actune.render.chat import ChatRenderer
from actune.render.template import ChatTemplate

FILE = "react_template.jinja"
_TOOL = ToolSpec(name="zqtool", description="zqdescribed", parameters={"type": "object", "properties": {}})
_TEMPLATE = """\
{{%- set ns = namespace(open=false, after_tool=false, closed=-1) -%}}
{{%- for message in messages -%}}
{{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) -%}}
{{%- set ns.closed = loop.index0 -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- set first = messages[0].content if messages and messages[0].role == 'system' else '' -%}}
{{%- if tools -%}}
{{{{- {system_begin} -}}}}{{%- if first -%}}{{{{- first + '\\n\\n' -}}}}{{%- endif -%}}{{{{- {header} -}}}}
{{%- for tool in tools -%}}
{{%- set function = tool.function if tool.function is defined else tool -%}}
{{%- set schema = function.parameters or {{}} -%}}
{{{{- loop.index ~ '. ' ~ function.name ~ ': ' ~ ((function.description ~ ' ') if function.description else '') ~ {label} -}}}}
{{%- for name, entry in (schema.properties or {{}}).items() -%}}
{{{{- ('' if loop.first else ', ') ~ '{{"name": ' ~ (name | tojson) ~ ', "description": ' ~ ((entry.description or '') | tojson) -}}}}
{{{{- ', "required": "' ~ ('True' if name in (schema.required or []) else 'False') ~ '"' -}}}}
{{%- for key, value in entry.items() if key != 'description' -%}}{{{{- ', ' ~ (key | tojson) ~ ': ' ~ (value | tojson) -}}}}{{%- endfor -%}}
{{{{- '}}' -}}}}
{{%- endfor -%}}
{{{{- ']\\n\\n' -}}}}
{{%- endfor -%}}
{{{{- {before_names} -}}}}
{{%- for tool in tools -%}}
{{{{- ('' if loop.first else ', ') ~ (tool.function.name if tool.function is defined else tool.name) -}}}}
{{%- endfor -%}}
{{{{- {after_names} ~ {system_end} -}}}}
{{%- elif messages and messages[0].role == 'system' -%}}
{{{{- {system_begin} ~ first ~ {system_end} -}}}}
{{%- else -%}}
{{{{- {head} -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{%- if message.role == 'user' -%}}
{{%- if ns.open -%}}{{{{- {assistant_end} -}}}}{{%- endif -%}}
{{%- set ns.open = false -%}}
{{{{- {user_begin} ~ message.content ~ {user_end} -}}}}
{{%- elif message.role == 'assistant' -%}}
{{{{- '\\n' if ns.open and ns.after_tool else ({prompt} if loop.index0 > ns.closed else {assistant_begin}) -}}}}
{{%- set thought = message.reasoning_content or message.reasoning or message.thinking or '' -%}}
{{%- if message.tool_calls -%}}
{{%- set thought = message.content or thought -%}}
{{%- if thought -%}}{{{{- 'Thought: ' ~ thought ~ '\\n' -}}}}{{%- endif -%}}
{{%- set call = message.tool_calls[0].function -%}}
{{{{- 'Action: ' ~ call.name ~ '\\nAction Input: ' -}}}}
{{{{- (call.arguments if call.arguments is string else call.arguments | tojson) ~ '\\n{stop}' -}}}}
{{%- set ns.open = true -%}}
{{%- else -%}}
{{%- if tools and thought -%}}{{{{- 'Thought: ' ~ thought ~ '\\n' -}}}}{{%- endif -%}}
{{{{- ('Final Answer: ' if tools else '') ~ (message.content or '') ~ {assistant_end} -}}}}
{{%- set ns.open = false -%}}
{{%- endif -%}}
{{%- elif message.role == 'tool' -%}}
{{{{- ' ' ~ message.content -}}}}
{{%- endif -%}}
{{%- set ns.after_tool = message.role == 'tool' -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '\\n' if ns.open and ns.after_tool else {prompt} -}}}}{{%- endif -%}}
"""


def build_react_template(renderer: ChatRenderer, dialect: Dialect) -> tuple[str | None, str]:
    """Return (Jinja text, ""), or (None, why there is none): every case has to give the prompt of training."""
    try:
        chat = learn_shape(renderer).chat
    except InexpressibleError as reason:
        return None, str(reason)
    if chat.system is None:
        return None, "the chat template shows no system text"
    text = _fill(chat, "zh" if dialect == "react_zh" else "en")
    template = ChatTemplate(text, variables={}, now=None)
    for case in list_cases(dialect):
        try:
            wanted = write_prompt(case, renderer, dialect)
        except (RenderError, DataError):
            continue
        got = template.render(_to_dicts(case.messages), tools=[tool.describe() for tool in case.tools], prompt=True)
        if got != wanted:
            return None, f"{case.name} is written otherwise than in training"
    return text, ""


def _fill(chat: Chat, language: api_list.Language) -> str:
    header, rest = api_list.write_system("", (_TOOL,), language).split("1. zqtool: ", 1)
    label, footer = rest.split("[]\n\n", 1)
    before_names, after_names = cut(footer, "zqtool")
    system = chat.system or ("", "")
    literals = {
        "system_begin": system[0],
        "system_end": system[1],
        "header": header,
        "label": label.removeprefix("zqdescribed ") + "[",
        "before_names": before_names,
        "after_names": after_names,
        "head": chat.head,
        "user_begin": chat.user[0],
        "user_end": chat.user[1],
        "assistant_begin": chat.assistant[0],
        "assistant_end": chat.assistant[1],
        "prompt": chat.prompt,
    }
    quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in literals.items()}
    return _TEMPLATE.format(**quoted, stop=react.STOP_WORD)


def _to_dicts(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Return messages as servers give them to templates: arguments as an object."""
    found: list[dict[str, object]] = []
    for message in messages:
        entry: dict[str, object] = {"role": message.role, "content": message.content}
        if message.reasoning:
            entry["reasoning_content"] = message.reasoning
        if message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.parse_arguments()}}
                for call in message.tool_calls
            ]
        found.append(entry)
    return found
