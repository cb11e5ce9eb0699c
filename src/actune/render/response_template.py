"""What was learnt about a chat template, as transformers' `response_template`: a parser that servers read.

The spec lies in tokenizer_config.json; transformers, vLLM and SGLang take a model's output apart with it. It is written
here from `NativeFormat` and from what the template puts around an answer. It says what opens and closes the fields
`thinking`, `tool_calls` and `content`; whether that is enough is tried, with transformers' own parser, by
`actune.modeling.response_template` before anything is stored.

Rules that the servers set: the reasoning is named `thinking`; it and `content` are plain text; closers are literals
where possible, because a stop token is cut off an output and put back only where it is one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actune.core.errors import DataError, RenderError
from actune.core.types import Message, ToolCall, ToolSpec
from actune.render.chat import ChatRenderer
from actune.render.native import NativeFormat
from actune.render.native_probe import Frame, write
from actune.render.response_calls import write_calls
from actune.render.response_patterns import (
    Spec,
    Unsayable,
    any_of,
    flexible,
    function,
    literal,
    none_of,
    one_or_all,
    shared_start,
    swallow,
    unique,
)

# What a prompt that is already inside the assistant's turn holds is nothing to parse.
_WHOLE_PROMPT = r"[\s\S]+\Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Specs to try, the most exact first; `reason` says why there is none."""

    specs: tuple[Spec, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """Literals around the slots of an answer, blanks at their edges included.

    `thinking` is (opener, closer) of the reasoning: the opener is None where the prompt writes it. `call` stands before
    the first call, `junk` are other literals, which belong to no field.
    """

    thinking: tuple[str | None, str] | None
    call: str
    junk: tuple[str, ...]


def build_templates(known: NativeFormat, renderer: ChatRenderer) -> Candidates:
    """Return specs for the calls of a chat template, or why there are none."""
    if known.form is None or known.reason is not None:
        return Candidates(reason=known.reason or "the chat template shows no call")
    marks = _find_marks(known.frames)
    stops = find_stops(renderer)
    try:
        call, ends = write_calls(
            known.form,
            marker=marks.call,
            stops=stops,
            late=any(frame.slots[-1] == "calls" and len(frame.slots) > 1 for frame in known.frames),
            numbered=_always_numbers(renderer),
        )
    except Unsayable as reason:
        return Candidates(reason=str(reason))
    junk = unique([*marks.junk, *ends])
    content = {"close_pattern": swallow(junk, stops), "content": "text"}
    specs: list[Spec] = []
    for anchors, opener in _find_anchors(renderer, marks):
        fields: dict[str, Any] = {}
        if marks.thinking is not None:
            fields["thinking"] = {**opener, **literal("close", marks.thinking[1]), "content": "text"}
        fields["tool_calls"] = call
        fields["content"] = content
        specs.append({"defaults": {"role": "assistant"}, **anchors, "fields": fields})
    return Candidates(specs=tuple(specs))


def build_react_templates(renderer: ChatRenderer) -> tuple[Spec, ...]:
    """Return specs of ReAct text; `Final Answer:` opens the content, and so does text without any marker.

    The second is for the parser of transformers before 5.24, which takes the end of a piece for the end of the text: an
    answer that is the beginning of a marker ("A") is not content there.
    """
    return tuple(_build_react_template(renderer, at_end=at_end) for at_end in (True, False))


def _build_react_template(renderer: ChatRenderer, *, at_end: bool) -> Spec:
    stops = find_stops(renderer)
    profile = renderer.profile
    ends = unique([*(profile.answer_end.removesuffix(stop).strip() for stop in profile.stops), *stops])
    markers = ("Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:")
    return {
        "defaults": {"role": "assistant"},
        # A step goes on in the same turn as the steps before it, and nothing that a prompt writes is part of it.
        "start_anchor_pattern": _WHOLE_PROMPT,
        "fields": {
            "thinking": {
                "open_pattern": r"(?m:^)Thought:\s*",
                "close_pattern": rf"\s*(?m:^)(?=(?:Action|Final Answer):)|\s*(?:{any_of(stops)})",
                "content": "text",
            },
            "tool_calls": {
                "open_pattern": r"(?m:^)Action:\s*(?P<name>[^\n]+?)[ \t]*\nAction Input:[ \t]*",
                "close": ["\nObservation:", *stops],
                "repeats": True,
                "content": "json",
                "content_args": {"allow_non_json": True},
                "transform": function("{name}", "{content}"),
            },
            "content": {
                "open_pattern": rf"\A(?=\s*+{none_of(markers, at_end=at_end)})|(?m:^)Final Answer:\s*",
                "close": list(ends),
                "content": "text",
            },
        },
    }


def find_stops(renderer: ChatRenderer) -> tuple[str, ...]:
    """Return the texts that end an output: those of the template, then the model's end-of-sequence tokens."""
    tokens = [renderer.tokenizer.token_text(token) for token in renderer.tokenizer.end_tokens()]
    return unique([*renderer.profile.stops, *tokens])


# --- literals around the slots ---


def _find_marks(frames: Sequence[Frame]) -> _Marks:
    before: dict[str, list[str]] = {"text": [], "calls": []}
    after_reasoning: dict[str, list[str]] = {"text": [], "calls": []}
    openers: list[str] = []
    for frame in frames:
        for number, slot in enumerate(frame.slots):
            between = frame.literals[number]
            if slot == "reasoning":
                openers.append(between)
            elif number and frame.slots[number - 1] == "reasoning":
                after_reasoning[slot].append(between)
            else:
                before[slot].append(between)
    call = _common_end([*before["calls"], *after_reasoning["calls"]])
    closer = ""
    if after_reasoning["text"]:
        opening = after_reasoning["text"][0]
        heads = [core for text in before["text"] if (core := text.strip()) and core != opening.strip()]
        head = next((core for core in heads if opening.rstrip().endswith(core)), "")
        closer = opening.rstrip().removesuffix(head).strip()
        for text in after_reasoning["calls"]:
            if not text.strip().startswith(closer):  # what the two begin with, up to the end of a marker
                shared = re.match(r".*[>\]]", shared_start(text.strip(), closer), re.DOTALL)
                closer = closer if shared is None else shared.group()
    elif after_reasoning["calls"]:
        closer = after_reasoning["calls"][0].strip().removesuffix(call.strip()).strip()
    if closer:
        call = call.strip().removeprefix(closer)
    thinking = None
    if closer:
        shown = [text for text in openers if text.strip()]
        thinking = (shown[0] if shown else None, closer)
    junk = _find_junk(frames, thinking, call)
    return _Marks(thinking=thinking, call=call, junk=junk)


def _find_junk(frames: Sequence[Frame], thinking: tuple[str | None, str] | None, call: str) -> tuple[str, ...]:
    """Return what stands between the slots and is neither the reasoning's edge nor the marker of a call."""
    opener, closer = ((text or "").strip() for text in thinking or ("", ""))
    found = []
    for frame in frames:
        for number, between in enumerate(frame.literals):
            slot = frame.slots[number] if number < len(frame.slots) else None
            rest = between.strip()
            if slot == "calls":
                rest = rest.removesuffix(call.strip()).rstrip()
            if slot == "reasoning":
                rest = rest.removesuffix(opener).rstrip()
            elif opener and rest.startswith(opener):  # reasoning of nothing
                rest = rest.removeprefix(opener).lstrip().removeprefix(closer)
            elif not opener or (number and frame.slots[number - 1] == "reasoning"):
                rest = rest.removeprefix(closer)
            found.append(rest.strip())
    return unique(found)


def _common_end(texts: Sequence[str]) -> str:
    """Return the longest text that all end in, cut so that it does not begin inside a marker."""
    if not texts:
        return ""
    shortest = min(texts, key=len)
    size = 0
    while size < len(shortest) and len({text[-size - 1 :][:1] for text in texts}) == 1:
        size += 1
    end = shortest[len(shortest) - size :]
    if size < max(map(len, texts)) and (cut := re.match(r"[^<\[\s]*[>\]]", end)):
        end = end[cut.end() :]
    return end


def _find_anchors(renderer: ChatRenderer, marks: _Marks) -> Iterator[tuple[Spec, Spec]]:
    """Yield (where the assistant's message begins, what opens the reasoning), the likeliest first.

    A server may begin the reasoning in the prompt or not (`enable_thinking`), so the anchor is put before its opener.
    """
    headers = _find_headers(renderer)
    if not all(header.strip() for header in headers):
        headers = ()
    anchors: list[Spec] = [{"start_anchor": one_or_all(headers)}] if headers else []
    anchors.append({"start_anchor_pattern": _WHOLE_PROMPT})
    opener, closer = marks.thinking or (None, "")
    if marks.thinking is None or opener is not None:
        yield from ((anchor, {} if opener is None else literal("open", opener)) for anchor in anchors)
        return
    for place in _opener_places(renderer, headers, closer):
        cut = unique(header[:place] if len(header) > place else header for header in headers)
        begun = headers[0][place:].strip()
        if begun and all(part.strip() for part in cut):
            yield {"start_anchor": one_or_all(cut)}, literal("open", begun)
    # Where an answer without reasoning goes on from the same prompt, only the closer tells it from reasoning.
    for anchor in anchors:
        yield anchor, {"open_pattern": rf"\A(?=[\s\S]*?{flexible(closer)})"}


def _opener_places(renderer: ChatRenderer, headers: Sequence[str], closer: str) -> Iterator[int]:
    """Yield where in the first header the reasoning may begin."""
    if not headers:
        return
    mirrored = re.sub(r"^([<\[]\|?)/", r"\1", closer.strip())
    if mirrored != closer.strip() and mirrored in headers[0]:
        yield headers[0].rindex(mirrored)
    told = _told_header(renderer)
    if told is not None:
        shared = 0
        while shared < min(len(told), len(headers[0])) and told[shared] == headers[0][shared]:
            shared += 1
        yield shared
    for sign in "<[":
        if (place := headers[0].rfind(sign)) > 0:
            yield place


_ASKED, _TOLD = "first question words", "first answer words"
_TOOL = ToolSpec(
    name="probe_tool",
    description="probe",
    parameters={"type": "object", "properties": {"probe_key": {"type": "string", "description": "probe"}}},
)


def _called(number: str | None, value: str = "probe value") -> Message:
    call = ToolCall(name="probe_tool", arguments=f'{{"probe_key": "{value}"}}', id=number)
    return Message(role="assistant", tool_calls=(call,))


def _seen(number: str, content: str) -> Message:
    return Message(role="tool", content=content, tool_call_id=number, name="probe_tool")


def _find_headers(renderer: ChatRenderer) -> tuple[str, ...]:
    """Return what stands between a question, or a tool's result, and the answer.

    Where it is no generation prompt, it is what prompts of different words and ids all end in.
    """
    one, other = (Message(role="user", content=words) for words in (_ASKED, "What else?"))
    contexts: tuple[tuple[list[Message], list[Message], tuple[ToolSpec, ...]], ...] = (
        ([one], [other], (_TOOL,)),
        ([one], [other], ()),
        (
            [one, _called("probe0001"), _seen("probe0001", "first result words")],
            [other, _called("other2222", "x y"), _seen("other2222", "it is 7!")],
            (_TOOL,),
        ),
    )
    found: list[str] = []
    for messages, others, tools in contexts:
        try:
            prompt = renderer.render(messages, tools=tools, prompt=True)
            closed = renderer.render(messages, tools=tools, prompt=False)
            second = renderer.render(others, tools=tools, prompt=True)
        except (RenderError, DataError):
            continue
        header = prompt[len(closed) :] if prompt.startswith(closed) else ""
        if not header.strip():
            header = _common_end([prompt, second]).lstrip("\"'} \n")
        if not any(header.endswith(one) for one in found):
            found.append(header)
    return tuple(found)


def _told_header(renderer: ChatRenderer) -> str | None:
    """Return what stands before an answer without reasoning in the history."""
    messages = [
        Message(role="user", content=_ASKED),
        Message(role="assistant", content=_TOLD),
        Message(role="user", content="second question words"),
    ]
    try:
        text = renderer.render(messages, prompt=True)
        closed = renderer.render(messages[:1], prompt=False)
    except (RenderError, DataError):
        return None
    place = text.find(_TOLD)
    return text[len(closed) : place] if place > len(closed) and text.startswith(closed) else None


def _always_numbers(renderer: ChatRenderer) -> bool:
    """Whether a call is written with an id also where the data has none, or not at all."""
    text = write(renderer, [Message(role="user", content=_ASKED)], _called(None), (_TOOL,))
    return text is None or re.search(r"\"id\"\s*:\s*\"\w+\"", text) is not None
