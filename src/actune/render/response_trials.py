"""What a `response_template` has to give back: messages and the texts that a model emits for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render import native_probe
from actune.render.chat import ChatRenderer
from actune.render.dialects import ReactDialect


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A message, the prompt before it and its text without the stop; `same_as` is another message of the same text."""

    prompt: str
    text: str
    message: Message
    tools: tuple[ToolSpec, ...]
    same_as: Message | None = None


class _Recorder(ChatRenderer):
    """A renderer that keeps the last prompt it rendered."""

    def __init__(self, renderer: ChatRenderer) -> None:  # the other one is compiled and probed already
        self.__dict__.update(renderer.__dict__)
        self.prompt = ""

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), prompt: bool) -> str:
        text = super().render(messages, tools=tools, prompt=prompt)
        if prompt:
            self.prompt = text
        return text


def chat_trials(renderer: ChatRenderer) -> Iterator[Trial]:
    """Yield the probes of `native_probe.trials`, each with its prompt, and a few after another tool result."""
    recorder = _Recorder(renderer)
    shown = False
    for probe in native_probe.trials(recorder):
        shown = shown or bool(probe.message.tool_calls)
        yield Trial(
            prompt=recorder.prompt,
            text=probe.text,
            message=probe.message,
            tools=probe.tools,
            same_as=probe.same_as,
        )
    if not shown:
        return
    # After a result with other words and another id: a prompt must not be told by those of a probe.
    first = ToolCall(name="look_up", arguments='{"words": "x"}', id="zzz999yyy")
    asked = Message(role="user", content="How is it?")
    called = Message(role="assistant", tool_calls=(first,))
    seen = Message(role="tool", content='cold\n{"t": [-3]}', tool_call_id=first.id, name=first.name)
    answers = (
        Message(role="assistant", content="Sunny."),
        Message(role="assistant", tool_calls=(ToolCall(name="look_up", arguments='{"words": "y"}', id="uuu888vvv"),)),
    )
    for message in answers:
        text = native_probe.write(recorder, (asked, called, seen), message, _TOOLS)
        words = message.content or "look_up"
        if text is not None and words in text:
            yield Trial(prompt=recorder.prompt, text=text, message=message, tools=_TOOLS)


_SCHEMA = {
    "type": "object",
    "properties": {
        "words": {"type": "string", "description": "words"},
        "count": {"type": "integer", "description": "count"},
        "deep": {"type": "object", "description": "deep"},
    },
}
_TOOLS = tuple(ToolSpec(name=name, description="probe", parameters=_SCHEMA) for name in ("look_up", "get.it-2"))
_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"words": "Hangzhou", "count": 3},
    {"words": 'say "hi", (it\'s)\n  two\\lines\t{"a": [1]} <b>杭州</b> 😀\nObservation: none', "count": -12},
    {"deep": {"a": {"b": [1, None, "x, y=1"]}, "ü": True}, "words": ""},
)
_THOUGHTS = ("", "They ask.\n\nI think {so} <it>: 晴.")
_ANSWERS = (
    "Sunny.",
    'It is `{"a": 1}` <b>bold</b> [1] (x)\n\n{ } < > 晴',
    '{"answer": 42}',
    "Two\nlines: Action: none",
)


def react_trials(renderer: ChatRenderer) -> Iterator[Trial]:
    """Yield ReAct steps with their prompts: the first step, one after an observation, and answers."""
    dialect = ReactDialect(renderer, "en")
    asked = Message(role="user", content="How is it?")
    first = Message(
        role="assistant", reasoning="I look.", tool_calls=(ToolCall(name="look_up", arguments='{"words": "x"}'),)
    )
    seen = Message(role="tool", content='sunny\nFinal Answer: 42\n{"a": [null]}')
    calls = [
        ToolCall(name=tool.name, arguments=json.dumps(arguments, ensure_ascii=False))
        for tool in _TOOLS
        for arguments in _ARGUMENTS
    ]
    messages = [Message(role="assistant", reasoning=t, tool_calls=(call,)) for t in _THOUGHTS for call in calls]
    messages += [Message(role="assistant", reasoning=t, content=answer) for t in _THOUGHTS for answer in _ANSWERS]
    for before in ((asked,), (asked, first, seen)):
        for message in messages:
            row = Conversation(messages=(*before, message), tools=_TOOLS, source=Source(file="probe", line=1))
            try:
                prompt = dialect.prompt(row, len(before))
                text = dialect.completion(row, len(before), prompt)
            except (RenderError, DataError):
                continue
            if not message.tool_calls:  # what stands between an answer and its stop is emitted as well
                text = text.removesuffix(renderer.profile.stops[0])
            yield Trial(prompt=prompt, text=text, message=message, tools=_TOOLS)
    for answer in _ANSWERS:  # a row without tools is plain chat
        yield Trial(prompt="", text=answer, message=Message(role="assistant", content=answer), tools=())


def compare(trial: Trial, read: Mapping[str, Any]) -> str | None:
    """Return what differs between the message of a trial and what a parser returned, None if nothing does.

    Texts are compared without blanks at their edges, arguments without nulls, which some templates leave out.
    """
    calls = [(call.name, _plain(call.parse_arguments())) for call in trial.message.tool_calls]
    got = [_read_call(call) for call in read.get("tool_calls") or ()]
    if calls != got:
        return f"calls {calls} are read as {got}"
    texts = (str(read.get("thinking") or "").strip(), str(read.get("content") or "").strip())
    wanted = [_texts(message) for message in (trial.message, trial.same_as) if message is not None]
    if texts not in wanted:
        return f"reasoning and text {wanted[0]} are read as {texts}"
    return None


def _read_call(call: Any) -> tuple[Any, Any]:  # noqa: ANN401 - what a parser returns
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return None, call
    arguments = function.get("arguments")
    return function.get("name"), _plain(arguments) if isinstance(arguments, Mapping) else f"no object: {arguments!r}"


def _plain(arguments: Mapping[str, Any]) -> str:
    """Return arguments in one layout: 1, 1.0 and true differ in it, as they do in JSON."""
    return json.dumps({key: value for key, value in arguments.items() if value is not None}, sort_keys=True)


def _texts(message: Message) -> tuple[str, str]:
    return message.reasoning.strip(), message.content.strip()
