"""What a template keeps, loses, rewrites and stops at: found by putting small conversations through it, for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.render.encoder import Encoder
from actune.render.native import learn_format

_SOURCE = Source(file="survey", line=1)
_SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "description": "Which place."},
        "depth": {"type": ["integer", "null"], "description": "How deep."},
        "more": {"type": "object", "description": "What else."},
    },
}
_TOOLS = tuple(
    ToolSpec(name=name, description=f"Measures {what}.", parameters=_SCHEMA)
    for name, what in (("measure_river", "a river"), ("measure_lake", "a lake"))
)
_ASK = Message(role="user", content="How deep is the water?")
_AGAIN = Message(role="user", content="And elsewhere?")
_REPLY = Message(role="assistant", content="Two metres.")
_THOUGHT, _LATER = "First thought about the water.", "Second thought about the water."


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One line a feature: `kept`, or what becomes of it."""

    system: str
    tools: str
    calls: str
    parallel_calls: str
    text_beside_a_call: str
    null_arguments: str
    nested_arguments: str
    results_in_json: str
    reasoning: str
    reasoning_before_a_call: str
    reasoning_of_earlier_steps: str
    reasoning_of_earlier_rounds: str
    generation_prompt: str
    ends_an_answer: str
    reads_calls: str
    date: str

    def lines(self) -> list[tuple[str, str]]:
        """Return (feature, what becomes of it), with the feature in words."""
        names = [field.name for field in dataclasses.fields(self)]
        return [(name.replace("_", " "), getattr(self, name)) for name in names]


def make_survey(encoder: Encoder) -> Survey:
    """Return what the chat template of an encoder does; the encoder's own dialect and allowed losses play no part."""
    chat = Encoder(encoder.renderer, dialect="chat")
    profile = encoder.renderer.profile
    calls = _outcome(chat, _step(_call()))
    act = calls == "kept"
    return Survey(
        system=_outcome(chat, [Message(role="system", content="You know waters."), _ASK, _REPLY], ()),
        tools=_outcome(chat, [_ASK, _REPLY]),
        calls=f"kept, arguments as {profile.arguments}" if act else calls,
        parallel_calls=_outcome(chat, _step(_call(), _call(1))) if act else "-",
        text_beside_a_call=_outcome(chat, _step(_call(), content="I measure.")) if act else "-",
        null_arguments=_outcome(chat, _step(_call(arguments={"place": "bay", "depth": None}))) if act else "-",
        nested_arguments=_outcome(chat, _step(_call(arguments={"more": {"a": [1, False, "“深” \"q\""]}}))) if act else "-",
        results_in_json=_results(chat) if act else "-",
        reasoning=_outcome(chat, [_ASK, dataclasses.replace(_REPLY, reasoning=_THOUGHT)], ()),
        reasoning_before_a_call=_outcome(chat, _step(_call(), reasoning=_THOUGHT)) if act else "-",
        reasoning_of_earlier_steps=_history(chat, [*_step(_call(), reasoning=_THOUGHT)[:-1], _REPLY], _TOOLS) if act else "-",
        reasoning_of_earlier_rounds=_history(
            chat, [_ASK, dataclasses.replace(_REPLY, reasoning=_THOUGHT), _AGAIN, _REPLY], ()
        ),
        generation_prompt=_prompt(chat),
        ends_an_answer=", ".join(map(repr, profile.stops)) + (" (added: the template has none)" if profile.stop_added else ""),
        reads_calls=_reads(chat),
        date="written by the template" if "strftime_now" in _templates(chat) else "not used",
    )  # fmt: skip


def _call(number: int = 0, arguments: dict[str, Any] | None = None) -> ToolCall:
    text = json.dumps({"place": "bay"} if arguments is None else arguments, ensure_ascii=False)
    return ToolCall(name=_TOOLS[number].name, arguments=text, id=f"call{number:05d}")


def _step(*calls: ToolCall, content: str = "", reasoning: str = "", result: str = "2 m") -> list[Message]:
    results = [Message(role="tool", content=result, tool_call_id=call.id, name=call.name) for call in calls]
    acting = Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)
    return [_ASK, acting, *results, _REPLY]


def _outcome(encoder: Encoder, messages: Sequence[Message], tools: tuple[ToolSpec, ...] = _TOOLS) -> str:
    """Return `kept`, or what is lost or refused."""
    row = Conversation(messages=tuple(messages), tools=tools, source=_SOURCE)
    try:
        turns, losses = encoder.examine(row)
        if not losses:
            encoder.encode_written(row, turns)
            return "kept"
        return f"{losses[0].code}: {losses[0].message}"
    except (RenderError, DataError) as error:
        return f"{error.code or 'refused'}: {error.message}"


def _results(encoder: Encoder) -> str:
    """Return whether results of tools stay as they are."""
    result = '{"b":1,  "a": "深"}'
    kept = _outcome(encoder, _step(_call(), result=result))
    if kept != "kept":
        return kept
    prompt = encoder.renderer.render(_step(_call(), result=result)[:-1], tools=_TOOLS, prompt=True)
    return "kept" if result in prompt else "kept, written again as JSON"


def _history(encoder: Encoder, messages: Sequence[Message], tools: tuple[ToolSpec, ...]) -> str:
    """Return whether a prompt still shows the reasoning of an answer in it."""
    try:
        prompt = encoder.renderer.render(messages[:-1], tools=tools, prompt=True)
        text = encoder.renderer.render(messages, tools=tools, prompt=False)
    except (RenderError, DataError) as error:
        return f"refused: {error.message}"
    if _THOUGHT in prompt:
        return "kept" if _THOUGHT in text else "kept in the prompt, removed once the answer is there"
    return "removed"


def _prompt(encoder: Encoder) -> str:
    profile = encoder.renderer.profile
    if not profile.header:
        return "adds nothing, or is no continuation of the text before"
    more = {
        "": "",
        "blank": f", then {profile.opening!r}, which answers without reasoning lack",
        "empty-reasoning": f", then an empty reasoning block {profile.opening!r}, which answers lack",
        "reasoning": f", then the beginning of reasoning {profile.opening!r}",
        "unknown": f", then {profile.opening!r}, which no answer has",
    }
    return f"{profile.header!r}{more[profile.opens]}"


def _reads(encoder: Encoder) -> str:
    reason = learn_format(encoder.renderer).reason
    return "yes" if reason is None else f"no: {reason}"


def _templates(encoder: Encoder) -> str:
    templates = encoder.renderer.templates
    return templates.plain + templates.tools
