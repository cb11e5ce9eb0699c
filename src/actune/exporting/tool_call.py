"""One tool call through an exported folder, as a stranger makes it: its tokenizer, its template, its parser, its weights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils.chat_parsing import parse_response

from actune.core.errors import DataError, ModelError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.core.types import Style as Dialect
from actune.exporting.react_template import FILE
from actune.render.chat import ChatRenderer
from actune.render.dialects import ChatDialect, ReactDialect
from actune.render.dialects import Dialect as Writer
from actune.render.readback import find_difference
from actune.render.tokenizer import read_json, strip_marks

_TOOL = ToolSpec(
    name="get_weather",
    description="Weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Name of the city"}},
        "required": ["city"],
    },
)
_QUESTION = Message(role="user", content="What is the weather in Hangzhou?")
_CALL = Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments='{"city": "Hangzhou"}'),))
_TOKENS = 96

Generate = Callable[[Sequence[int], Sequence[str]], str]
"""From prompt ids and stop texts to the greedy output, which ends with its stop where it came to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What came of the call: its text, who wrote it, and what transformers' parser and our own dialect read of it.

    `prompt` says which template gave the prompt. `parsed` is None where no response_template is stored.
    """

    text: str
    generated: bool
    prompt: str
    call: ToolCall
    parsed: bool


def make_call(
    folder: Path, renderer: ChatRenderer, dialect: Dialect, generate: Generate, rows: Sequence[Conversation] = ()
) -> Exchange:
    """Render a question with a tool, let the model answer, and read its call; without one, read a written call.

    The model is asked the question, then those of `rows`, until it makes a call.

    Raises:
        ModelError: prompt ids differ from those of training, or the two parsers read a call differently.
    """
    loaded = _load(folder)
    writer = _writer(renderer, dialect)
    asked = Conversation(
        messages=(_QUESTION, _CALL), tools=(_TOOL,), source=Source(file="probe", line=1), style=dialect
    )
    prompt = writer.prompt(asked, 1)
    shown = _check_prompt(loaded, folder, dialect, strip_marks(prompt), renderer.tokenizer.encode(prompt))
    stops = [*renderer.profile.stops, *writer.stops().words]
    for conversation in (asked, *rows):
        place = next((at for at, one in enumerate(conversation.messages) if one.tool_calls), None)
        if place is None or conversation.style != dialect:
            continue
        given = writer.prompt(conversation, place)
        text = generate(renderer.tokenizer.encode(given), stops)
        call = _read(writer, renderer, text, conversation.tools)
        if call is not None and call.name in {tool.name for tool in conversation.tools}:
            parsed = _check_parser(folder, text, strip_marks(given), call, conversation.tools)
            return Exchange(text=text, generated=True, prompt=shown, call=call, parsed=parsed)
    text = writer.completion(asked, 1, prompt)
    call = _read(writer, renderer, text, asked.tools)
    if call is None or call.name != _TOOL.name:
        raise ModelError(f"a call written as in training is not read back: {text!r}", fix="report the chat template")
    parsed = _check_parser(folder, text, strip_marks(prompt), call, asked.tools)
    return Exchange(text=text, generated=False, prompt=shown, call=call, parsed=parsed)


def _load(folder: Path) -> Any:  # noqa: ANN401 - a tokenizer of transformers
    try:
        with redirect_stderr(io.StringIO()):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"the exported tokenizer is not loaded: {type(error).__name__}: {error}") from error


def _writer(renderer: ChatRenderer, dialect: Dialect) -> Writer:
    if dialect == "chat":
        return ChatDialect(renderer)
    return ReactDialect(renderer, "zh" if dialect == "react_zh" else "en")


def _check_prompt(loaded: Any, folder: Path, dialect: Dialect, prompt: str, ids: Sequence[int]) -> str:  # noqa: ANN401
    """Compare the prompt that the folder's own files give with that of training; return which template it was."""
    options: dict[str, Any] = {"tools": [_TOOL.describe()], "add_generation_prompt": True, "return_dict": False}
    messages = [{"role": _QUESTION.role, "content": _QUESTION.content}]
    if dialect == "chat":
        which, got = "the chat template", list(loaded.apply_chat_template(messages, **options))
    elif (folder / FILE).is_file():
        options["chat_template"] = (folder / FILE).read_text(encoding="utf-8")
        which, got = FILE, list(loaded.apply_chat_template(messages, **options))
    else:  # no template writes it: the text as a client sends it
        which, got = "the text of training", list(loaded(prompt, add_special_tokens=False)["input_ids"])
    if got != list(ids):
        place = next((at for at, (a, b) in enumerate(zip(ids, got, strict=False)) if a != b), min(len(ids), len(got)))
        raise ModelError(
            f"the prompt of the exported folder ({which}) is not that of training: from token {place} on it has "
            f"{got[place : place + 5]} instead of {list(ids[place : place + 5])}",
            fix="template variables of the run (--template_variables) or its date have to be given at inference too",
        )
    return which


def _read(writer: Writer, renderer: ChatRenderer, text: str, tools: Sequence[ToolSpec]) -> ToolCall | None:
    for stop in sorted(renderer.profile.stops, key=len, reverse=True):
        text = text.removesuffix(stop)
    try:
        calls = writer.parse(text, tools).tool_calls
    except DataError:
        return None
    return calls[0] if calls else None


def _check_parser(folder: Path, text: str, prompt: str, call: ToolCall, tools: Sequence[ToolSpec]) -> bool:
    spec = read_json(folder / "tokenizer_config.json").get("response_template")
    if not isinstance(spec, dict):
        return False
    try:
        read = parse_response(text, spec, prefix=prompt, tools=[tool.describe() for tool in tools])
        function = read["tool_calls"][0]["function"]
        arguments = function["arguments"]
    except Exception as error:
        raise ModelError(
            f"transformers' parser does not read the call {text!r}: {type(error).__name__}: {error}",
            fix="servers will not either; export the run's own tokenizer, or report the chat template",
        ) from error
    same = ToolCall(name=call.name, arguments=call.arguments)
    got = Message(role="assistant", tool_calls=(ToolCall(name=str(function["name"]), arguments=_as_text(arguments)),))
    difference = find_difference(got, Message(role="assistant", tool_calls=(same,)), tools)
    if difference is not None:
        raise ModelError(f"transformers' parser reads the call {text!r} otherwise: {difference[1]}", fix="report it")
    return True


def _as_text(arguments: Any) -> str:  # noqa: ANN401 - what a parser makes of arguments
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def greedy(model: Any, renderer: ChatRenderer) -> Generate:  # noqa: ANN401 - a model of transformers
    """Return a greedy generator for a loaded model: transformers' own, as a stranger would call it."""

    def generate(ids: Sequence[int], stops: Sequence[str]) -> str:
        ends = renderer.tokenizer.end_tokens()
        given = torch.tensor([list(ids)], device=model.device)
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=_TOKENS, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
        )
        with torch.no_grad():
            made = model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
        text = renderer.tokenizer.decode(made[0, len(ids) :].tolist())
        cuts = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    return generate
