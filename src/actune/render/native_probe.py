"""Probes of a chat template: conversations with known words, and the literals found around them in what it renders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from actune.core.errors import DataError, RenderError
from actune.core.types import Message, ToolCall, ToolSpec
from actune.core.values import read_value
from actune.render.chat import ChatRenderer
from actune.render.native_calls import Envelope, Form, Named, Tail, decode_json
from actune.render.native_pairs import Pairs, Value, read_quoted

Slot = Literal["reasoning", "text", "calls"]

_REASONING, _TEXT = "probe reasoning words", "probe text words"
_NAMES = ("probe_alpha", "probe_omega")
_KEYS = ("probe_first", "probe_other")
_VALUES = ("probe-value-one", "probe-value-two")
_IDS = ("probe0001", "probe0002")  # nine characters: some templates insist on it
_USER = Message(role="user", content="probe question")


@dataclass(frozen=True, slots=True)
class Frame:
    """A layout of an answer: its slots in order, the literal before each and the one after the last.

    `marker` is what stands before calls in every layout: where it is blank, a call begins like any text.
    """

    slots: tuple[Slot, ...]
    literals: tuple[str, ...]
    marker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What the probes showed."""

    frames: tuple[Frame, ...]
    form: Form | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A message and the text it is written as without its stop; `same_as` is written the same, `ids`: ids are shown."""

    message: Message
    text: str
    tools: tuple[ToolSpec, ...]
    same_as: Message | None = None
    ids: bool = False


def _tool(name: str) -> ToolSpec:
    properties = {key: {"type": "string", "description": key} for key in _KEYS}
    return ToolSpec(name=name, description="probe", parameters={"type": "object", "properties": properties})


_TOOLS = tuple(map(_tool, _NAMES))


def _call(number: int, arguments: dict[str, Any] | None = None) -> ToolCall:
    given = {_KEYS[number]: _VALUES[number]} if arguments is None else arguments
    return ToolCall(name=_NAMES[number], arguments=json.dumps(given, ensure_ascii=False), id=_IDS[number])


def _contexts() -> list[tuple[tuple[Message, ...], tuple[ToolSpec, ...]]]:
    """What an answer may follow: a question with tools, a tool's result, a question without tools."""
    asked = Message(role="assistant", tool_calls=(_call(0),))
    result = Message(role="tool", content="probe result", tool_call_id=_IDS[0], name=_NAMES[0])
    return [((_USER,), _TOOLS), ((_USER, asked, result), _TOOLS), ((_USER,), ())]


def write(renderer: ChatRenderer, before: Sequence[Message], message: Message, tools: Sequence[ToolSpec]) -> str | None:
    """Return what a model emits for a message, without its stop; None where the template cannot write it."""
    try:
        prompt = renderer.render(before, tools=tools, prompt=True)
        found = renderer.continue_prompt([*before, message], tools=tools, prompt=prompt, rewritten=False)
        text, _ = next(found, (None, False))
    except (RenderError, DataError):
        return None
    if text is None:
        return None
    places = [at for stop in renderer.profile.stops if (at := text.find(stop)) >= 0]
    if not places and not renderer.profile.stop_added:
        return None
    return text[: min(places)] if places else text


# --- learning ---


def learn(renderer: ChatRenderer) -> Learnt:
    """Return the layouts of answers and the form of calls that a template shows."""
    form: Form | None = None
    reason = renderer.profile.reason
    if renderer.profile.arguments is not None:
        form, reason = _learn_form(renderer)
    frames: dict[tuple[tuple[Slot, ...], tuple[str, ...]], Frame] = {}
    for (before, tools), (thinks, says, calls) in product(_contexts(), product((True, False), repeat=3)):
        if (calls and (form is None or not tools)) or not (says or calls):
            continue
        message = Message(
            role="assistant",
            content=_TEXT if says else "",
            reasoning=_REASONING if thinks else "",
            tool_calls=(_call(0),) if calls else (),
        )
        text = write(renderer, before, message, tools)
        frame = None if text is None else _find_frame(text, calls=calls, form=form)
        if frame is not None:
            frames.setdefault((frame.slots, frame.literals), frame)
    if form is not None and not any("calls" in frame.slots for frame in frames.values()):
        form, reason = None, "a call is not written as an answer to the prompt"
    if isinstance(form, Pairs):
        final = all(frame.slots[-1] == "calls" for frame in frames.values() if "calls" in frame.slots)
        form = replace(form, final=final)
    if form is None:
        reason = reason or "the chat template shows no call"
    return Learnt(frames=_order(frames.values()), form=form, reason=reason)


def _learn_form(renderer: ChatRenderer) -> tuple[Form | None, str | None]:
    for before, tools in _contexts()[:2]:
        for reasoning, text in (("", ""), (_REASONING, ""), ("", _TEXT), (_REASONING, _TEXT)):
            message = Message(role="assistant", content=text, reasoning=reasoning)

            def show(*calls: ToolCall, message: Message = message) -> str | None:
                return write(renderer, before, replace(message, tool_calls=calls), tools)  # noqa: B023

            one, two = show(_call(0)), show(_call(0), _call(1))
            if one is not None and all(word in one for word in (_NAMES[0], _KEYS[0], _VALUES[0])):
                form = _find_envelope(one, two) or _find_named(one, two) or _find_pairs(show)
                return form, None if form is not None else "the form of the call is unknown"
    return None, "a call is not written as an answer to the prompt"


def _find_frame(text: str, *, calls: bool, form: Form | None) -> Frame | None:
    """Split what was rendered at its words."""
    spans: list[tuple[int, int, Slot]] = []
    for slot, words in (("reasoning", _REASONING), ("text", _TEXT)):
        if (at := text.find(words)) >= 0:
            spans.append((at, at + len(words), slot))
    marker = ""
    if calls:
        region = _locate(text, form)
        if region is None:
            return None
        spans.append((*region, "calls"))
    spans.sort()
    if not spans:
        return None
    edges = [0, *(edge for start, end, _ in spans for edge in (start, end)), len(text)]
    literals = tuple(text[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2))
    slots = tuple(slot for _, _, slot in spans)
    if "reasoning" in slots and not literals[slots.index("reasoning") + 1].strip():
        return None  # nothing marks the end of the reasoning, so it cannot be told from text
    if calls:
        marker = literals[slots.index("calls")]
    return Frame(slots, literals, marker)


def _locate(text: str, form: Form | None) -> tuple[int, int] | None:
    """Return where calls begin and end in a rendered probe."""
    match form:
        case Envelope():
            span = _envelope_span(text, 0)
            if span is None:
                return None
            start, end = span
        case Named():
            words = [(_NAMES[0], "name"), (_IDS[0], "id")]
            places = {slot: text.find(word) for word, slot in words}
            arguments = _arguments_span(text, 0)
            if arguments is None:
                return None
            places["arguments"] = arguments[0]
            ends = {"arguments": arguments[1]} | {slot: places[slot] + len(word) for word, slot in words}
            start, end = places[form.slots[0]], ends[form.slots[-1]]
        case Pairs():
            start = text.find(_NAMES[0])
            end = text.find(_VALUES[0]) + len(_VALUES[0])
            value = form.text or form.other
            return start, max(text.find(value.tail.end, end), end) + len(value.tail.end)
        case _:
            return None
    tail = form.tail.end
    return start, end + len(tail) if text.startswith(tail, end) else len(text)


def _order(frames: Any) -> tuple[Frame, ...]:  # noqa: ANN401
    """Return layouts so that the first that matches is right: more slots first, reasoning, calls, longer literals."""
    found = list(frames)
    # Reasoning beside a call may be written as text beside a call is: it counts as text, unless what opens it opens
    # reasoning without a call as well.
    openers = {f.literals[0].strip() for f in found if f.slots[0] == "reasoning" and "calls" not in f.slots} - {""}
    said = {frame.literals for frame in found if "calls" in frame.slots and "reasoning" not in frame.slots}
    thought = {frame.literals for frame in found if "calls" in frame.slots and "text" not in frame.slots}
    double = {literals: "text" if literals[0].strip() in openers else "reasoning" for literals in said & thought}
    found = [f for f in found if not ("calls" in f.slots and double.get(f.literals) in f.slots)]

    def rank(frame: Frame) -> tuple[bool, bool, bool, int]:
        size = sum(len(literal.strip()) for literal in frame.literals)
        return "reasoning" not in frame.slots, "calls" not in frame.slots, "text" not in frame.slots, -size

    return tuple(sorted(found, key=rank))


# --- forms ---


def _envelope_span(text: str, start: int, number: int = 0) -> tuple[int, int] | None:
    """Return (start, end) of the outermost JSON value that holds name, key and value of a probe's call."""
    words = (_NAMES[number], _KEYS[number], _VALUES[number])
    places = [text.find(word, start) for word in words]
    if min(places) < 0:
        return None
    for at in range(start, min(places)):
        if text[at] in "{[" and (decoded := decode_json(text, at)) is not None and decoded[1] > max(places):
            return at, decoded[1]
    return None


def _find_envelope(one: str, two: str | None) -> Envelope | None:
    span = _envelope_span(one, 0)
    if span is None:
        return None
    value: Any = json.loads(one[span[0] : span[1]])
    listed = isinstance(value, list)
    if listed and len(value) != 1:
        return None
    item = value[0] if listed else value
    arguments = _find_path(item, {_KEYS[0]: _VALUES[0]})
    name = _find_path(item, _NAMES[0])
    if arguments is None or (name is None and arguments != (_NAMES[0],)):
        return None
    more = None
    if two is not None and (first := _envelope_span(two, 0)) is not None:
        second = _envelope_span(two, first[1], 1)
        more = two[first[1] : second[0]] if second is not None else None
    return Envelope(
        listed=listed,
        name=name or (),
        arguments=arguments,
        id=_find_path(item, _IDS[0]),
        first_key=next(iter(item)) if name is not None else None,
        tail=Tail(more, _until_text(one[span[1] :])),
    )


def _find_path(value: Any, wanted: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - JSON
    """Return the keys that lead to a value inside objects."""
    if isinstance(value, dict):
        for key, item in value.items():
            if item == wanted:
                return (key,)
            if (inner := _find_path(item, wanted)) is not None:
                return (key, *inner)
    return None


def _until_text(text: str) -> str:
    """Return what follows a call up to a text written after it."""
    return text.split(_TEXT, 1)[0]


def _arguments_span(text: str, start: int, number: int = 0) -> tuple[int, int] | None:
    """Return (start, end) of the JSON arguments of a probe's call."""
    place = text.find(_KEYS[number], start)
    at = text.rfind("{", start, max(place, start))
    decoded = decode_json(text, at) if at >= 0 else None
    return None if decoded is None or decoded[0] != {_KEYS[number]: _VALUES[number]} else (at, decoded[1])


def _find_named(one: str, two: str | None) -> Named | None:
    spans = _named_spans(one, 0, 0)
    if spans is None:
        return None
    between = tuple(one[spans[at][1] : spans[at + 1][0]] for at in range(len(spans) - 1))
    end = spans[-1][1]
    more = None
    if two is not None:
        second = _named_spans(two, end, 1)
        more = two[end : second[0][0]] if second is not None else None
    slots = tuple(slot for _, _, slot in spans)
    return Named(slots=slots, between=between, tail=Tail(more, _until_text(one[end:])))


def _named_spans(
    text: str, start: int, number: int
) -> list[tuple[int, int, Literal["name", "arguments", "id"]]] | None:
    arguments = _arguments_span(text, start, number)
    name = text.find(_NAMES[number], start)
    if arguments is None or name < 0:
        return None
    spans: list[tuple[int, int, Literal["name", "arguments", "id"]]] = [
        (*arguments, "arguments"),
        (name, name + len(_NAMES[number]), "name"),
    ]
    if (at := text.find(_IDS[number], start)) >= 0:
        spans.append((at, at + len(_IDS[number]), "id"))
    return sorted(spans)


_NUMBER = 86420
_HARD = "a\"b'c\\d\ne é"
_DEEP: dict[str, Any] = {_KEYS[1]: [_VALUES[1], 7, True]}


def _find_pairs(show: Callable[..., str | None]) -> Pairs | None:
    """Return the form of keys and values between markers: what stands around a string, a number, and no argument."""
    text = _find_value(show, _VALUES[0], _VALUES[0])
    other = _find_value(show, _NUMBER, str(_NUMBER))
    if text is None or other is None:
        return None
    lead, strings = text
    _, others = other
    empty, empties = show(_call(0, {})), show(_call(0, {}), _call(1))
    none = None
    if empty is not None and _NAMES[0] in empty:
        none = Tail(_between(empties, _NAMES[0], _NAMES[1]), _until_text(empty.split(_NAMES[0], 1)[1]))
    written = _written(show, strings, _HARD)
    if written is None or not strings.opens.strip() or not others.opens.strip():
        return None
    bare: Value | None = strings
    if written != _HARD:
        edge = strings.opens[len(others.opens) :] if strings.opens.startswith(others.opens) else ""
        if not edge or read_value(edge + written + edge) != _HARD:
            return None
        bare = None
    quote = None
    deep = _written(show, others, _DEEP)
    if deep is not None and read_value(deep) != _DEEP:
        quote = strings.opens[len(others.opens) :] if strings.opens.startswith(others.opens) else None
        if not quote or read_quoted(deep, quote) != _DEEP:
            return None
    return Pairs(lead=lead, text=bare, other=others, empty=none, quote=quote)


def _find_value(show: Callable[..., str | None], value: Any, shown: str) -> tuple[str, Value] | None:  # noqa: ANN401
    """Return what stands between name and key, and what stands around a value."""
    one, two = show(_call(0, {_KEYS[0]: value})), show(_call(0, {_KEYS[0]: value}), _call(1))
    both = show(_call(0, {_KEYS[0]: value, _KEYS[1]: _VALUES[1]}))
    lead, opens = _between(one, _NAMES[0], _KEYS[0]), _between(one, _KEYS[0], shown)
    if one is None or lead is None or opens is None:
        return None
    end = one.index(shown, one.index(_KEYS[0])) + len(shown)
    tail = Tail(_between(two, shown, _NAMES[1]), _until_text(one[end:]))
    return lead, Value(opens=opens, key=_between(both, shown, _KEYS[1]), tail=tail)


def _between(text: str | None, left: str, right: str) -> str | None:
    """Return what stands between two words, None when they are not there."""
    if text is None or left not in text:
        return None
    rest = text.split(left, 1)[1]
    return rest.split(right, 1)[0] if right in rest else None


def _written(show: Callable[..., str | None], value: Value, content: Any) -> str | None:  # noqa: ANN401 - JSON
    """Return how a value is written between the marks of its kind."""
    text = show(_call(0, {_KEYS[0]: content}))
    if text is None or _KEYS[0] + value.opens not in text:
        return None
    rest = text.split(_KEYS[0] + value.opens, 1)[1]
    place = rest.rfind(value.tail.end) if value.tail.end else len(rest)
    return rest[:place] if place >= 0 else None


# --- trials ---

_SCHEMA = {
    "type": "object",
    "properties": {
        "words": {"type": "string", "description": "words"},
        "count": {"type": "integer", "description": "count"},
        "share": {"type": "number", "description": "share"},
        "deep": {"type": "object", "description": "deep"},
        "items": {"type": "array", "description": "items"},
        "yes": {"type": "boolean", "description": "yes"},
        "none": {"type": ["string", "null"], "description": "none"},
    },
}
_TRIAL_TOOLS = tuple(ToolSpec(name=name, description="probe", parameters=_SCHEMA) for name in ("look_up", "get.it-2"))
_TRIAL_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"words": "Hangzhou", "count": 3},
    {"words": "", "yes": False},
    {"words": 'say "hi", (it\'s)\n  two\\lines\t{"a": [1]} <b>杭州</b> 😀', "count": -12},
    {"count": 0, "share": 2.5, "yes": True, "words": "12"},
    {"deep": {"a": {"b": [1, None, "x, y=1"]}, "ü": True}, "items": ["it's", 'a"b', {"k": []}], "words": "true"},
    {"items": [], "deep": {}, "words": "null"},
    {"none": None, "words": "last"},
)
_TRIAL_TEXTS = ("Sunny.", 'It is `{"a": 1}` <b>bold</b> [1] (x)\nAction: none\n\n{ } < > 晴', '{"answer": 42}')


def trials(renderer: ChatRenderer) -> Iterator[Probe]:
    """Yield messages that a template writes in full, with their text: calls of many kinds, texts and reasoning."""
    messages = [Message(role="assistant", content=text) for text in _TRIAL_TEXTS]
    for arguments in _TRIAL_ARGUMENTS:
        call = ToolCall(name="look_up", arguments=json.dumps(arguments, ensure_ascii=False), id="abcdef123")
        other = ToolCall(name="get.it-2", arguments='{"words": "second", "count": 7}', id="xyz000789")
        messages += [
            Message(role="assistant", tool_calls=(call,)),
            Message(role="assistant", tool_calls=(call, other)),
            Message(role="assistant", tool_calls=(other, call, other)),
        ]
    messages += [replace(message, content="Let me look: {x}") for message in messages[3:6]]
    messages += [
        replace(message, reasoning="They ask.\n\nI think {so} <it>.") for message in (*messages[:6], *messages[-3:])
    ]
    for before, given in _contexts():
        for message in messages:
            if message.tool_calls and not given:
                continue
            probe = _trial(renderer, before, message, _TRIAL_TOOLS if given else ())
            if probe is not None:
                yield probe


def _trial(
    renderer: ChatRenderer, before: Sequence[Message], message: Message, tools: tuple[ToolSpec, ...]
) -> Probe | None:
    """Return a message as far as the template shows it; None where it loses or changes calls."""
    text = write(renderer, before, message, tools)
    if text is None:
        return None
    shown = message
    if message.reasoning.strip() not in text:
        shown = replace(shown, reasoning="")
    if message.content.strip() not in text:
        shown = replace(shown, content="")
    if len(shown.tool_calls) > sum(text.count(name) for name in {call.name for call in shown.tool_calls}):
        return None
    swapped = None
    if bool(shown.reasoning) != bool(shown.content):
        swapped = replace(shown, reasoning=shown.content, content=shown.reasoning)
        swapped = swapped if write(renderer, before, swapped, tools) == text else None
    ids = bool(shown.tool_calls) and all(call.id is not None and call.id in text for call in shown.tool_calls)
    return Probe(message=shown, text=text, tools=tools, same_as=swapped, ids=ids)
