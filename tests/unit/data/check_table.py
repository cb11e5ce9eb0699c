"""One bad row and its corrected twin for each code that `check` reports about rows that can be read.

Rows are raw rows of the format openai unless they have `conversations` (ms-agent). docs/checks.md is compared with this
table: what its example column quotes has to stand in the bad row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

CITY = {"type": "string", "description": "Name of the city."}
DAYS = {"type": "integer", "description": "How many days."}
UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"]}
WEATHER = {
    "type": "object",
    "properties": {"city": CITY, "days": DAYS, "unit": UNIT, "hours": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
}


def tool(name: str = "weather", description: str = "Weather of a city.", parameters: Any = WEATHER) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def call(arguments: Any = None, name: str = "weather", id: str | None = None) -> dict[str, Any]:
    function = {"name": name, "arguments": {"city": "Hangzhou"} if arguments is None else arguments}
    return ({} if id is None else {"id": id}) | {"type": "function", "function": function}


def user(text: str = "Is it raining?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def asks(*calls: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text, "tool_calls": list(calls)}


def result(text: str = "sunny", **more: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, **more}


def says(text: str = "No, it is sunny.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def row(*messages: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> Row:
    return {"messages": list(messages)} | ({} if tools == [] else {"tools": tools or [tool()]})


def calls(*made: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> Row:
    """Return a row whose calls are all answered."""
    answered = [result(tool_call_id=one["id"]) if "id" in one else result() for one in made]
    return row(user(), asks(*made), *answered, says(), tools=tools)


def chat(*texts: str, offered: bool = False) -> Row:
    """Return a chat of user and assistant in turn."""
    messages = [user(text) if number % 2 == 0 else says(text) for number, text in enumerate(texts)]
    return row(*messages, tools=None if offered else [])


def react(text: str) -> Row:
    system = (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        '1. weather: Weather of a city. Parameters: [{"name": "city", "description": "", "required": "True"}]\n\n'
        "Use the following format:\n\nBegin!"
    )
    parts = {"system": system, "user": "Is it raining?", "assistant": text}
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in parts.items()]}


def with_schema(**properties: Any) -> list[dict[str, Any]]:
    return [tool(parameters={"type": "object", "properties": properties})]


GOOD_CALL = calls(call())
STEP = call({"city": "Hangzhou"})
AGAIN = [asks(STEP), result()]
FENCED = "Here it is:\n```python\nprint(1)\n"
QUESTION = "What is the capital of France, and since when?"

TABLE: dict[str, tuple[Row, Row]] = {
    "tool-undescribed": (calls(call(), tools=[tool(description="")]), GOOD_CALL),
    "tool-name-clash": (
        calls(call(name="get_weather"), tools=[tool("get_weather"), tool("getWeather")]),
        calls(call(name="get_weather"), tools=[tool("get_weather"), tool("forecast")]),
    ),
    "tool-schema-invalid": (
        calls(call({"days": 1}), tools=with_schema(days={"type": "number of days"})),
        calls(call({"days": 1}), tools=with_schema(days={"type": "number"})),
    ),
    "tool-required-unknown": (
        calls(
            call({"city": "Hangzhou", "country": "China"}),
            tools=[tool(parameters=WEATHER | {"required": ["city", "country"]})],
        ),
        GOOD_CALL,
    ),
    "tool-parameters-missing": (
        calls(call(), tools=[{"type": "function", "function": {"name": "weather", "description": "Weather."}}]),
        GOOD_CALL,
    ),
    "arguments-python-literal": (calls(call("{'city': 'Hangzhou'}")), calls(call('{"city": "Hangzhou"}'))),
    "arguments-encoded-twice": (calls(call(json.dumps(json.dumps({"city": "Hangzhou"})))), GOOD_CALL),
    "arguments-unreadable": (
        react("Action: weather\nAction Input: Hangzhou\nObservation: sunny\nFinal Answer: No."),
        react('Action: weather\nAction Input: {"city": "Hangzhou"}\nObservation: sunny\nFinal Answer: No.'),
    ),
    "arguments-key-twice": (calls(call('{"city": "Hangzhou", "city": "Suzhou"}')), GOOD_CALL),
    "argument-type": (calls(call({"city": "Hangzhou", "days": "two"})), calls(call({"city": "Hangzhou", "days": 2}))),
    "argument-missing": (calls(call({"days": 2})), GOOD_CALL),
    "argument-unknown": (calls(call({"city": "Hangzhou", "country": "China"})), GOOD_CALL),
    "argument-enum": (
        calls(call({"city": "Hangzhou", "unit": "kelvin"})),
        calls(call({"city": "Hangzhou", "unit": "celsius"})),
    ),
    "argument-null": (calls(call({"city": "Hangzhou", "days": None})), GOOD_CALL),
    "argument-encoded": (
        calls(call({"city": "Hangzhou", "hours": "[6, 18]"})),
        calls(call({"city": "Hangzhou", "hours": [6, 18]})),
    ),
    "argument-schema": (
        calls(call({"days": 30}), tools=with_schema(days=DAYS | {"maximum": 14})),
        calls(call({"days": 3}), tools=with_schema(days=DAYS | {"maximum": 14})),
    ),
    "call-id-missing": (row(user(), asks(call(id="a")), result(), says()), calls(call(id="a"))),
    "call-id-twice": (
        row(
            user(),
            asks(call(id="a"), call({"city": "Suzhou"}, id="a")),
            result(tool_call_id="a"),
            result("rain", tool_call_id="a"),
            says(),
        ),
        calls(call(id="a"), call({"city": "Suzhou"}, id="b")),
    ),
    "results-out-of-order": (
        row(
            user(),
            asks(call(id="a"), call({"city": "Suzhou"}, id="b")),
            result("rain", tool_call_id="b"),
            result(tool_call_id="a"),
            says(),
        ),
        calls(call(id="a"), call({"city": "Suzhou"}, id="b")),
    ),
    "result-name": (
        row(user(), asks(call()), result(name="forecast"), says()),
        row(user(), asks(call()), result(name="weather"), says()),
    ),
    "call-repeated": (
        row(user(), *AGAIN, *AGAIN, says()),
        row(user(), *AGAIN, says(), user("And now?"), *AGAIN, says()),
    ),
    "call-loop": (
        row(user(), asks(STEP), result("a"), asks(STEP), result("b"), asks(STEP), result("c"), says()),
        row(user(), asks(STEP), result("a"), asks(STEP), result("b"), says()),
    ),
    "nothing-trained": (row(user(), says(weight=0), tools=[]), row(user(), says(), tools=[])),
    "user-empty": (chat("", "Hello!"), chat("Hi", "Hello!")),
    "assistant-first": (
        row(says("Hello! How can I help?"), user(), says(), tools=[]),
        row(user(), says(), tools=[]),
    ),
    "user-twice": (row(user(), user("Well?"), says(), tools=[]), row(user("Is it raining? Well?"), says(), tools=[])),
    "answer-twice": (row(user(), says(), says("And warm."), tools=[]), row(user(), says(), tools=[])),
    "ends-without-answer": (row(user(), asks(call()), result()), GOOD_CALL),
    "empty-answer": (
        row(user(), says("", reasoning_content="It is sunny."), tools=[]),
        row(user(), says(reasoning_content="It is sunny."), tools=[]),
    ),
    "placeholder-left": (chat("Who are you?", "I am {{NAME}}."), chat("Who are you?", "I am Helper.")),
    "placeholder-answer": (chat("Sum it up.", "TODO"), chat("Sum it up.", "A to-do list of three things.")),
    "answer-copies-question": (chat(QUESTION, QUESTION), chat(QUESTION, "Paris, since 987.")),
    "answer-cut-off": (chat("Write it.", FENCED), chat("Write it.", FENCED + "```")),
    "replacement-character": (chat("Hi", "caf\ufffd"), chat("Hi", "café")),
    "wrong-encoding": (chat("Hi", "cafÃ©"), chat("Hi", "café, «CAFÉ”, MAÇÃ”")),
    "invisible-character": (chat("Hi", "Hel\u200blo"), chat("Hi", "می\u200cخواهم, \U0001f468\u200d\U0001f469")),
    "template-mark": (chat("Hi", "Hello!<|im_end|>"), chat("Hi", "Hello! <s>gone</s> <b>bold</b> a <| b")),
    "result-in-answer": (
        chat("Hi", "I look. <tool_response>sunny</tool_response> It is sunny.", offered=True),
        chat("Hi", "It is sunny.", offered=True),
    ),
    "observation-in-answer": (
        chat("Hi", "I look.\nObservation: sunny", offered=True),
        chat("Hi", "In my observation: sunny", offered=True),
    ),
    "call-as-text": (
        chat("Hi", '<tool_call>{"name": "weather"}</tool_call>', offered=True),
        row(user(), asks(call(), text="I look."), result(), says()),
    ),
    "reasoning-in-answer": (
        chat("Hi", "<think>They greet me.</think>Hello!"),
        row(user("Hi"), says("Hello!", reasoning_content="They greet me."), tools=[]),
    ),
    "tools-not-listed": (
        row({"role": "system", "content": "You have access to the following tools: weather"}, user(), says(), tools=[]),
        row({"role": "system", "content": "You know the weather."}, user(), says(), tools=[]),
    ),
}
