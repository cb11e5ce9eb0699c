"""Conversations that cover what agent data holds, one feature each: what `conformance.py` puts to every template."""

from __future__ import annotations

import copy
from typing import Any

Row = dict[str, Any]


def _tool(name: str, description: str, **properties: Any) -> Row:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    _tool(
        "find_route",
        "Find a way between two places.",
        start={"type": "string", "description": "Where the way begins."},
        goal={"type": "string", "description": "Where the way ends."},
        stops={"type": "array", "items": {"type": "string"}, "description": "Places on the way."},
        toll={"type": "boolean", "description": "Whether toll roads may be used."},
        budget={"type": ["number", "null"], "description": "The most it may cost."},
        options={"type": "object", "description": "What else matters."},
    ),
    _tool(
        "read_meter",
        "Read a meter of the house.",
        meter={"type": "string", "enum": ["gas", "water", "power"], "description": "Which meter."},
        since={"type": ["string", "null"], "description": "From which day on."},
        digits={"type": "integer", "description": "How many digits."},
    ),
    _tool("ring_bell", "Ring the bell at the door."),
]


def _system(text: str = "You keep a house in order.") -> Row:
    return {"role": "system", "content": text}


def _user(text: str = "Which way leads from the mill to the harbour?") -> Row:
    return {"role": "user", "content": text}


def _answer(text: str = "Along the canal.", reasoning: str | None = None) -> Row:
    message = {"role": "assistant", "content": text}
    return message if reasoning is None else {**message, "reasoning_content": reasoning}


def _calls(*calls: tuple[str, Row], text: str | None = "", reasoning: str | None = None, first: int = 1) -> Row:
    entries = [
        {"id": f"call{first + at:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, "tool_calls": entries}
    return message if reasoning is None else {**message, "reasoning_content": reasoning}


def _result(text: str = "The canal path is open.", number: int = 1, name: str = "find_route") -> Row:
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": name, "content": text}


_WAY: tuple[str, Row] = ("find_route", {"start": "mill", "goal": "harbour"})
_WATER: tuple[str, Row] = ("read_meter", {"meter": "water", "digits": 5})


def _once(call: Row, result: Row | None = None, answer: Row | None = None) -> list[Row]:
    return [_user(), call, result or _result(), answer or _answer()]


def _call_of(**arguments: Any) -> list[Row]:
    return _once(_calls(("find_route", {"start": "mill", **arguments})))


PLAIN: dict[str, list[Row]] = {
    "plain: one answer": [_user(), _answer()],
    "plain: system": [_system(), _user(), _answer()],
    "plain: three rounds": [
        _system(), _user(), _answer(), _user("And back?"), _answer("Over the bridge."), _user("Thanks."), _answer("Gladly."),
    ],
    "plain: Chinese, emoji, blank lines": [_user("磨坊到港口怎么走?"), _answer("沿着运河走 😀。\n\n  1. 过桥\n  2. 左转 <右侧>")],
    "plain: reasoning": [_user(), _answer(reasoning="The canal is the shortest way.")],
    "plain: reasoning, three rounds": [
        _user(), _answer(reasoning="Think of the canal."), _user("And back?"), _answer("Over the bridge.", "Think of the bridge."),
        _user("Thanks."), _answer("Gladly.", "They are done."),
    ],
    "plain: reasoning in one round only": [
        _user(), _answer(reasoning="Think of the canal."), _user("And back?"), _answer("Over the bridge."),
    ],
    "plain: content in blocks": [
        {"role": "user", "content": [{"type": "text", "text": "Which way leads to the harbour?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Along the canal."}]},
    ],
    "plain: blanks around texts": [_user("  Which way?\n"), _answer(" Along the canal. \n")],
    "plain: control tokens in the question": [
        _user("What does <|im_end|> mean, and <think> or </s>, [INST] or <tool_call>?"), _answer("It ends a turn."),
    ],
    "plain: two questions in a row": [_user(), _user("I mean on foot."), _answer()],
}  # fmt: skip

AGENT: dict[str, list[Row]] = {
    "call": _once(_calls(_WAY)),
    "call: system": [_system(), *_once(_calls(_WAY))],
    "call: answer without a call": [_user("Good morning!"), _answer("Good morning.")],
    "call: text beside it": _once(_calls(_WAY, text="I look it up.")),
    "call: reasoning": _once(_calls(_WAY, reasoning="The router knows."), None, _answer(reasoning="It is open.")),
    "call: reasoning and text": _once(_calls(_WAY, text="I look it up.", reasoning="The router knows."), None, _answer(reasoning="It is open.")),
    "call: content null": _once(_calls(_WAY, text=None)),
    "call: two steps": [
        _user(), _calls(_WAY), _result(), _calls(_WATER, first=2), _result("00417", 2, "read_meter"), _answer("Open; the meter says 417."),
    ],
    "call: two rounds": [
        _system(), *_once(_calls(_WAY)), _user("And the water?"), _calls(_WATER, first=2), _result("00417", 2, "read_meter"), _answer("417."),
    ],
    "call: two rounds with reasoning": [
        _user(), _calls(_WAY, reasoning="Ask the router."), _result(), _answer(reasoning="It is open."), _user("And the water?"),
        _calls(_WATER, first=2, reasoning="Ask the meter."), _result("00417", 2, "read_meter"), _answer("417.", "The meter has spoken."),
    ],
    "call: a round without one between": [
        *_once(_calls(_WAY)), _user("Thank you!"), _answer("Gladly."), _user("And the water?"), _calls(_WATER, first=2),
        _result("00417", 2, "read_meter"), _answer("417."),
    ],
    "call: parallel": [
        _user(), _calls(_WAY, _WATER), _result(), _result("00417", 2, "read_meter"), _answer("Open; the meter says 417."),
    ],
    "call: parallel, the same tool": [
        _user(), _calls(_WAY, ("find_route", {"start": "harbour", "goal": "mill"})), _result(), _result("The bridge is open.", 2), _answer(),
    ],
    "call: parallel with text": [
        _user(), _calls(_WAY, _WATER, text="I ask both."), _result(), _result("00417", 2, "read_meter"), _answer(),
    ],
    "arguments: none": _once(_calls(("ring_bell", {})), _result("It rang.", 1, "ring_bell"), _answer("Done.")),
    "arguments: null": _call_of(goal="harbour", budget=None),
    "arguments: false, zero, list": _call_of(goal="harbour", toll=False, budget=0, stops=["bridge", "lock"]),
    "arguments: empty string and list": _call_of(goal="", stops=[]),
    "arguments: nested": _call_of(goal="harbour", options={"avoid": {"stairs": True, "ferries": None}, "weights": [1, 2.5, {"deep": []}]}),
    "arguments: Chinese": _call_of(goal="西湖 “断桥” 🌉"),
    "arguments: quotes, backslashes, lines": _call_of(goal='the "old" harbour\\pier\nit\'s left'),
    "arguments: HTML signs": _call_of(goal="<b>harbour</b> & 'pier' > lock"),
    "arguments: text that looks like JSON": _call_of(goal='{"place": "harbour"}', start="12"),
    "result: JSON": _once(_calls(_WAY), _result('{"open": true, "steps": [1, 2], "note": "运河 \\"path\\""}')),
    "result: JSON in another layout": _once(_calls(_WAY), _result('{"steps":[1,2],\n "open":null}')),
    "result: quotes and lines": _once(_calls(_WAY), _result('He said: "go\\left"\n\t- then 左转 <now>')),
    "result: control tokens": _once(_calls(_WAY), _result("<|im_end|>\n<|im_start|>user\nObservation: </s> <tool_call>[/INST]")),
    "result: number": _once(_calls(_WAY), _result("417")),
    "result: empty": _once(_calls(_WAY), _result("")),
    "call: an error, then another try": [
        _user(), _calls(("find_route", {"start": "mil"})), _result("error: no such place: mil"), _calls(_WAY, text="I mistyped.", first=2),
        _result("Open.", 2), _answer(),
    ],
    "call: ends in a call": [_user(), _calls(_WAY)],
}  # fmt: skip


def rows() -> dict[str, Row]:
    """Return the rows by name, in the `openai` format; arguments as objects, one row with arguments as a string."""
    found: dict[str, Row] = {name: {"messages": copy.deepcopy(messages)} for name, messages in PLAIN.items()}
    found |= {name: {"tools": TOOLS, "messages": copy.deepcopy(messages)} for name, messages in AGENT.items()}
    wire = copy.deepcopy(found["arguments: nested"])
    function = wire["messages"][1]["tool_calls"][0]["function"]
    function["arguments"] = '{"start": "mill", "goal": "harbour", "options": {"avoid": null, "levels": [1, 2]}}'
    return found | {"arguments: as a string": wire}
