"""`toolbench`: answers of ToolBench: the rows ToolLLaMA is trained on, raw answers with their search tree, converted answers.

Three layouts, all of OpenBMB/ToolBench (its `preprocess_toolllama_data.py`, `Tree.py`, `convert_to_answer_format.py`):

- `conversations` of system, user, assistant and function; the system text ends in the list of APIs, a Python literal, and
  assistant values are `Thought: / Action: / Action Input:`;
- `answer_generation`, with `train_messages`: the messages before and with each step of the answer that was found; the last
  one is the whole answer, the other branches of the tree did not lead to it;
- `query`, `available_tools`, `answer` with `answer_details`: a tree of nodes `role`, `message`, `next`. ToolBench cuts each
  message to 100 characters there: what is cut is refused, never guessed.

A row ends with a call of the tool `Finish`, which holds the answer; it stays a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from actune.core import react
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec
from actune.core.values import read_literal
from actune.formats.assemble import assemble
from actune.formats.fields import Placed, kind, read_flags, read_items, read_role, read_text, shorten, speakers
from actune.formats.openai import read_message
from actune.formats.tools import read_calls, read_tools

_MARK = "Specifically, you have access to the following APIs:"
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "function": "tool"}
_CUT = 100  # characters; what ToolBench leaves of a message
_RAW_FIX = "use the raw answers (answer_generation) or the rows of ToolLLaMA, which hold the whole messages"


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has one of the three layouts."""
    if "answer_generation" in row:
        return True
    if "available_tools" in row and "answer" in row:
        return True
    roles = speakers(row, "conversations", "from")
    if not roles or not roles <= _ROLES.keys() or row.get("tools"):
        return False
    first = row["conversations"][0]
    return "function" in roles or (first["from"] == "system" and _MARK in str(first.get("value")))


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a row as a conversation; rows of ReAct text have style "react", the others are native calls.

    Raises:
        DataError: what is wrong; `toolbench-cut` for messages that are not whole, `toolbench-no-answer` for a search that
            found none, `toolbench-branches` for a tree without one clear answer.
    """
    if "answer_generation" in row:
        return _read_raw(row, source)
    if "available_tools" in row:
        return _read_converted(row, source)
    return _read_rows(row, source)


def _read_tools(value: object, place: str, repairs: list[str]) -> tuple[ToolSpec, ...]:
    """Return the tools; `optional` in their parameters is left out: it names what `required` does not."""
    if not isinstance(value, (list, tuple)):
        return read_tools(value, place, repairs)
    plain = []
    for tool in value:
        schema = tool.get("parameters") if isinstance(tool, Mapping) else None
        if isinstance(schema, Mapping) and "optional" in schema:
            tool = {**tool, "parameters": {key: item for key, item in schema.items() if key != "optional"}}
        plain.append(tool)
    return read_tools(plain, place, repairs)


# --- rows of ToolLLaMA ------------------------------------------------------------------------------------------------


def _read_rows(row: Mapping[str, Any], source: Source) -> Conversation:
    placed: list[Placed] = []
    tools: tuple[ToolSpec, ...] = ()
    repairs: list[str] = []
    for index, item in enumerate(read_items(row, "conversations")):
        place = f"conversations[{index}]"
        role = read_role(item, "from", place, _ROLES)
        text = read_text(item.get("value"), f"{place}.value")
        train, weight = read_flags(item, place, assistant=role == "assistant")
        if role == "assistant":
            placed.append(Placed(replace(_read_step(text, place), train=train, weight=weight), place))
            continue
        if role == "system" and index == 0:
            text, tools, mended = _read_system(text, f"{place}.value")
            repairs += mended
        placed.append(Placed(Message(role=role, content=text), place))  # pyrefly: ignore[bad-argument-type]
    if not tools:
        raise DataError(
            "no list of APIs stands in the system text",
            code="tools-missing",
            field="conversations[0].value",
            fix=f"the system text ends in {_MARK!r} and a list of functions",
        )
    conversation = assemble(placed, row, source, tools=tools, repairs=repairs)
    return replace(conversation, style="react")


@lru_cache(maxsize=256)  # the steps of one answer are rows of their own, with one system text
def _read_system(text: str, place: str) -> tuple[str, tuple[ToolSpec, ...], tuple[str, ...]]:
    """Return the system text without its list of APIs, and the list."""
    at = text.find(_MARK)
    if at < 0:
        return text, (), ()
    listed = text[at + len(_MARK) :].strip()
    value = read_literal(listed)
    if not isinstance(value, list):
        raise DataError(
            f"{place}: the list of APIs is no list: {shorten(listed)}",
            code="api-list-unreadable",
            field=place,
            fix="write it as a Python or JSON list of functions, at the end of the text",
        )
    repairs: list[str] = []
    tools = _read_tools(value, place, repairs)
    return text[:at].rstrip(), tools, tuple(repairs)


def _read_step(text: str, place: str) -> Message:
    """Return one assistant value: thoughts and one call. The text is laid out anew where it is written as ReAct text."""
    try:
        steps = react.read_turn(text)
    except DataError as error:
        raise DataError(f"{place}: {error.message}", code=error.code, field=place, fix=error.fix) from None
    if len(steps) != 1:
        raise DataError(
            f"{place} holds an Observation; here it is a message of its own",
            code="observation-invented",
            field=place,
            fix="move it into a message from 'function'",
        )
    thoughts = steps[0].reasoning.split("\nThought:")
    reasoning = "\n".join(part.strip() for part in thoughts if part.strip())
    return replace(steps[0], reasoning=reasoning, source_text=None)


# --- raw answers ------------------------------------------------------------------------------------------------------


def _read_raw(row: Mapping[str, Any], source: Source) -> Conversation:
    answer = row["answer_generation"]
    if not isinstance(answer, Mapping):
        raise _no_answer(f"'answer_generation' is {kind(answer)}")
    chains = answer.get("train_messages")
    if not answer.get("valid_data", True) or not isinstance(chains, (list, tuple)) or not chains:
        raise _no_answer("the search found no answer: there are no train_messages")
    repairs: list[str] = []
    tools = _read_tools(answer.get("function"), "answer_generation.function", repairs)
    place = f"answer_generation.train_messages[{len(chains) - 1}]"
    if not isinstance(chains[-1], (list, tuple)):
        raise _no_answer(f"{place} is {kind(chains[-1])}")
    placed: list[Placed] = []
    for index, item in enumerate(read_items({place: chains[-1]}, place)):
        spot = f"{place}[{index}]"
        # What asks for another try than those before it; the model is not asked so when it serves.
        if item.get("valid") is False:
            repairs.append(f"{spot}: a request of the search for another try is left out")
            continue
        placed.append(Placed(read_message(item, spot, repairs), spot))
    return assemble(_join_thoughts(placed), row, source, tools=tools, repairs=repairs)


def _no_answer(what: str) -> DataError:
    return DataError(
        what, code="toolbench-no-answer", field="answer_generation", fix="leave the row out, or search for an answer"
    )


# --- converted answers ------------------------------------------------------------------------------------------------


def _read_converted(row: Mapping[str, Any], source: Source) -> Conversation:
    repairs: list[str] = []
    tools = _read_tools(row["available_tools"], "available_tools", repairs)
    answer = row["answer"]
    roots = answer.get("answer_details") if isinstance(answer, Mapping) else None
    placed: list[Placed] = []
    for node, place in _walk(roots, "answer.answer_details"):
        role, text = node.get("role"), node.get("message")
        if role == "system":
            if isinstance(text, str) and text:
                placed.append(Placed(Message(role="system", content=_whole(text, place)), place))
        elif role == "user":
            content = read_text(row.get("query"), "query")
            placed.append(Placed(Message(role="user", content=content), place))
        elif role == "assistant":
            content = _whole(read_text(text, f"{place}.message"), place)
            placed.append(Placed(Message(role="assistant", content=content), place))
        elif role == "tool":
            placed += _read_node(text, place, repairs)
        else:
            raise DataError(
                f"{place}.role is {role!r}; known here: system, user, assistant, tool",
                code="role-unknown",
                field=f"{place}.role",
                fix="correct it, or name the right format with --format",
            )
    return assemble(_join_thoughts(placed), row, source, tools=tools, repairs=repairs)


def _walk(roots: object, place: str) -> Sequence[tuple[Mapping[str, Any], str]]:
    """Return the nodes of a tree's one path.

    Raises:
        DataError: code `toolbench-no-answer` where there is no tree, `toolbench-branches` where it has several paths.
    """
    found: list[tuple[Mapping[str, Any], str]] = []
    nodes = roots
    while isinstance(nodes, (list, tuple)) and nodes:
        if len(nodes) > 1:
            raise DataError(
                f"{place} has {len(nodes)} branches; which of them is the answer is not said",
                code="toolbench-branches",
                field=place,
                fix="keep the branch that ends in the answer",
            )
        node, place = nodes[0], f"{place}[0]"
        if not isinstance(node, Mapping):
            raise DataError(
                f"{place} is {kind(node)}, not an object",
                code="message-not-object",
                field=place,
                fix="correct the node",
            )
        found.append((node, place))
        nodes, place = node.get("next"), f"{place}.next"
    if not found:
        raise DataError(f"{place} has no nodes", code="toolbench-no-answer", field=place, fix="leave the row out")
    return found


def _whole(text: str, place: str) -> str:
    if len(text) == _CUT:
        raise _cut(f"{place}.message has {_CUT} characters, where ToolBench cuts messages", place)
    return text


def _cut(what: str, place: str) -> DataError:
    return DataError(what, code="toolbench-cut", field=f"{place}.message", fix=_RAW_FIX)


def _read_node(value: object, place: str, repairs: list[str]) -> list[Placed]:
    """Return a call and its result out of a node: an object, or the Python text of one."""
    call = value if isinstance(value, Mapping) else read_literal(read_text(value, f"{place}.message"))
    if not isinstance(call, Mapping):
        # A text that ends before its brackets close is no literal, so whatever is one is whole.
        raise _cut(f"{place}.message is not the whole of a call: {shorten(str(value))}", place)
    [asked] = read_calls({"name": call.get("name"), "arguments": call.get("arguments")}, f"{place}.message", repairs)
    placed = [Placed(Message(role="assistant", tool_calls=(_plain(asked),)), place)]
    response = call.get("response")
    if asked.name == "Finish" and response in (None, ""):
        return placed
    content = read_text("" if response is None else response, f"{place}.message.response")
    return [*placed, Placed(Message(role="tool", content=content), place)]


def _plain(call: ToolCall) -> ToolCall:
    return ToolCall(name=call.name, arguments=call.arguments)


def _join_thoughts(placed: Sequence[Placed]) -> list[Placed]:
    """Return messages with texts straight before a call in one message with it.

    ToolBench asks for a thought and its call in two turns where a model gives only one of them at a time, and trains
    them as one.
    """
    joined: list[Placed] = []
    for item in placed:
        texts: list[Placed] = []
        while item.message.tool_calls and joined and _is_text(joined[-1].message):
            texts.insert(0, joined.pop())
        if texts:
            parts = [*(text.message.content for text in texts), item.message.content]
            content = "\n".join(part for part in parts if part)
            item = Placed(replace(item.message, content=content), texts[0].place)
        joined.append(item)
    return joined


def _is_text(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls and not message.reasoning
