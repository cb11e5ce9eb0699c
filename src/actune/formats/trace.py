"""`trace`: what `actune run` leaves of a task, read as a row: the outputs of the run are trained, the rest is context.

The row is what the model saw and emitted, exactly: its messages keep their source text, and an output whose prompt the
row would show otherwise is not trained. Written by `actune convert --to trace` alone, which copies lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from actune.core import react
from actune.core.errors import DataError
from actune.core.types import Conversation, Message, Role, Source, Style, ToolCall, ToolSpec
from actune.formats.assemble import check
from actune.formats.fields import Placed, kind, read_flags, read_items, read_optional_text, read_text
from actune.formats.tools import read_tools

VERSION = 1
_KEYS = frozenset({"version", "prompt", "steps", "stop_reason"})
_FIX = "give a line as `actune run --out` writes it (docs/agents.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One output of a trace: its text, what it called, what came back.

    `spoken`: it became a message; an output that is neither call nor answer stands in its step alone. `fault` is what
    was wrong with the output or one of its calls, "" if nothing; an observation that was only cut is no fault of it.
    """

    output: str
    names: tuple[str, ...]
    observations: tuple[str, ...]
    tokens: int
    fault: str
    spoken: bool
    train: bool


def detect(row: Mapping[str, Any]) -> bool:
    """Whether the row has this shape: version, prompt, a list of steps, and why it ended."""
    return row.keys() >= _KEYS and isinstance(row["steps"], (list, tuple))


def read(row: Mapping[str, Any], source: Source) -> Conversation:
    """Return a trace as a conversation. Messages that were no longer shown to the last outputs are left out of it.

    Trained are the outputs of the run that saw what the row shows of their history: not the answers in the task itself,
    not outputs before the last cut of the history, not steps with `"train": false`.

    Raises:
        DataError: what is wrong; code `trace-version`, `trace-steps` where steps and messages do not belong together,
            `trace-incomplete` for a trace that does not say what the model was shown, `no-assistant` for one without an
            output that is a call or an answer, and the codes of all formats.
    """
    if row.get("version") != VERSION:
        raise _fault(f"version is {row.get('version')!r}; this actune reads {VERSION}", "trace-version", "version")
    repairs: list[str] = []
    steps = read_steps(row)
    tools = _read_tools(row.get("tools"), repairs)
    style = _read_style(row, tools)
    placed = _read_messages(row) if "messages" in row else _rebuild(row, steps, style)
    placed, lost = _mark_trained(placed, steps, _read_dropped(row, steps, placed), repairs)
    shown = [item for index, item in enumerate(placed) if index not in lost]
    check(shown, tools)
    return Conversation(
        messages=tuple(item.message for item in shown),
        tools=tools,
        style=style,
        source=source,
        id=_read_id(row),
        repairs=tuple(repairs),
    )


# --- steps ------------------------------------------------------------------------------------------------------------


def read_steps(row: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the steps of a trace.

    Raises:
        DataError: code `trace-steps` or `train-flag`.
    """
    items = row.get("steps")
    if not isinstance(items, (list, tuple)):
        raise _fault(f"steps is {kind(items)}, not a list", "trace-steps", "steps")
    reason = read_text(row.get("stop_reason"), "stop_reason")
    steps = []
    for index, item in enumerate(items):
        ends = reason == "answer" and index == len(items) - 1
        steps.append(_read_step(item, f"steps[{index}]", ends))
    return tuple(steps)


def _read_step(item: object, place: str, ends: bool) -> Step:
    if not isinstance(item, Mapping):
        raise _fault(f"{place} is {kind(item)}, not an object", "trace-steps", place)
    calls, observations = _read_list(item, "calls", place), _read_list(item, "observations", place)
    names = [call.get("name") if isinstance(call, Mapping) else None for call in calls]
    tokens = item.get("tokens", 0)
    if not all(isinstance(name, str) for name in names) or not all(isinstance(text, str) for text in observations):
        raise _fault(f"{place} has a call without a name, or an observation that is no text", "trace-steps", place)
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise _fault(f"{place}.tokens is {kind(tokens)}, not a whole number", "trace-steps", f"{place}.tokens")
    train, _ = read_flags({key: item[key] for key in ("train", "loss") if key in item}, place, assistant=True)
    return Step(
        output=read_text(item.get("output"), f"{place}.output"),
        names=tuple(map(str, names)),
        observations=tuple(map(str, observations)),
        tokens=tokens,
        fault=_find_fault(item, place),
        spoken=bool(names) or ends,
        train=train,
    )


def _find_fault(item: Mapping[str, Any], place: str) -> str:
    error = read_optional_text(item, "error", f"{place}.error")
    if error and any(part != "output-cut" for part in error.split("; ")):
        return error
    return "repaired arguments" if _read_list(item, "repaired", place) else ""


def _read_list(item: Mapping[str, Any], key: str, place: str) -> Sequence[object]:
    value = item.get(key, ())
    if not isinstance(value, (list, tuple)):
        raise _fault(f"{place}.{key} is {kind(value)}, not a list", "trace-steps", f"{place}.{key}")
    return value


def place_steps(spoken: Sequence[Message], steps: Sequence[Step]) -> dict[int, int]:
    """Return which message each step became: step -> index of its message; the outputs of a run are its last answers.

    Raises:
        DataError: code `trace-steps` when a message calls other tools than its step.
    """
    answers = [index for index, message in enumerate(spoken) if message.role == "assistant"]
    numbers = [number for number, step in enumerate(steps) if step.spoken]
    if len(numbers) > len(answers):
        what = (
            f"{len(numbers)} of the steps are calls or answers, and the messages hold {len(answers)} of the assistant"
        )
        raise _fault(what, "trace-steps", "messages")
    found = dict(zip(numbers, answers[len(answers) - len(numbers) :], strict=True))
    for number, index in found.items():
        names = tuple(call.name for call in spoken[index].tool_calls)
        if names != steps[number].names:
            what = f"messages[{index}] calls {', '.join(names) or 'nothing'}, steps[{number}] "
            what += ", ".join(steps[number].names) or "nothing"
            raise _fault(what, "trace-steps", f"messages[{index}]")
    return found


# --- what the model was shown -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Dropped:
    """From `step` on, the first `messages` messages after the system text were not shown."""

    step: int
    messages: int


def _read_dropped(row: Mapping[str, Any], steps: Sequence[Step], placed: Sequence[Placed]) -> _Dropped:
    """Return the last cut of the history: what the row can show; of none, a cut that cuts nothing."""
    last = _Dropped(0, 0)
    for index, item in enumerate(_read_list(row, "dropped", "trace")):
        place = f"dropped[{index}]"
        cut = _Dropped(_read_count(item, "step", place), _read_count(item, "messages", place))
        if cut.step < last.step or cut.messages < last.messages or cut.messages >= len(placed):
            raise _fault(f"{place} does not fit the steps and messages of the trace", "trace-steps", place)
        if any(step.spoken for step in steps[cut.step :]):  # else nothing was said after it
            last = cut
    return last


def _read_count(item: object, key: str, place: str) -> int:
    value = item.get(key) if isinstance(item, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _fault(f"{place}.{key} is {value!r}, not a number of 0 or more", "trace-steps", place)


def _mark_trained(
    placed: list[Placed], steps: Sequence[Step], cut: _Dropped, repairs: list[str]
) -> tuple[list[Placed], range]:
    """Return the messages, only what the row shows as the model saw it trained, and the range that is not shown."""
    messages = [item.message for item in placed]
    found = place_steps(messages, steps)
    trained = {index for number, index in found.items() if number >= cut.step and steps[number].train}
    marked = [
        replace(item, message=replace(item.message, train=item.message.train and index in trained))
        if item.message.role == "assistant"
        else item
        for index, item in enumerate(placed)
    ]
    head = 1 if messages and messages[0].role == "system" else 0
    lost = range(head, head + cut.messages)
    early = sum(number < cut.step and index not in lost for number, index in found.items())
    if cut.messages:
        repairs.append(f"trace: {cut.messages} messages that the last outputs were not shown are left out")
    if early:
        repairs.append(f"trace: {early} outputs whose prompts showed messages that are left out are not trained")
    return marked, lost


def _read_style(row: Mapping[str, Any], tools: Sequence[ToolSpec]) -> Style:
    """Return what the conversation was written in; rows without tools are plain chat."""
    value = row.get("dialect")
    if value is None and (not tools or "messages" in row):
        return "chat"
    style = next((known for known in get_args(Style) if known == value), None)
    if style is None:
        known = ", ".join(get_args(Style))
        raise _fault(f"dialect is {value!r}; known: {known}", "trace-incomplete", "dialect", fix=f"add one of {known}")
    return style if tools else "chat"


def _read_tools(value: object, repairs: list[str]) -> tuple[ToolSpec, ...]:
    """Return the tools; an API list that a tool came from stands beside its function."""
    tools = read_tools(value, "tools", repairs)
    if not isinstance(value, (list, tuple)):
        return tools
    return tuple(_with_list(tool, item, f"tools[{n}]") for n, (tool, item) in enumerate(zip(tools, value, strict=True)))


def _with_list(tool: ToolSpec, item: object, place: str) -> ToolSpec:
    listed = item.get("parameter_list") if isinstance(item, Mapping) else None
    if listed is None:
        return tool
    if isinstance(listed, (list, tuple)) and all(
        isinstance(x, Mapping) and isinstance(x.get("name"), str) for x in listed
    ):
        return replace(tool, parameter_list=tuple(listed))
    raise _fault(f"{place}.parameter_list is no list of objects with a name", "tool-parameters", place)


# --- messages ---------------------------------------------------------------------------------------------------------


def _read_messages(row: Mapping[str, Any]) -> list[Placed]:
    items = read_items(row, "messages")
    return [Placed(_read_message(item, f"messages[{n}]"), f"messages[{n}]") for n, item in enumerate(items)]


def _read_message(item: Mapping[str, Any], place: str) -> Message:
    """Return a message as the trace holds it, to the byte: arguments and source text are what the model emitted."""
    role = next((known for known in get_args(Role) if known == item.get("role")), None)
    if role is None:
        raise _fault(f"{place}.role is {item.get('role')!r}", "role-unknown", f"{place}.role")
    train, weight = read_flags(item, place, assistant=role == "assistant")
    calls = tuple(
        _read_call(call, f"{place}.tool_calls[{n}]") for n, call in enumerate(_read_list(item, "tool_calls", place))
    )
    return Message(
        role=role,
        content=read_text(item.get("content"), f"{place}.content"),
        reasoning=read_optional_text(item, "reasoning_content", f"{place}.reasoning_content"),
        tool_calls=calls,
        tool_call_id=_read_absent(item, "tool_call_id", place),
        name=_read_absent(item, "name", place),
        train=train,
        weight=weight,
        source_text=_read_absent(item, "source_text", place),
    )


def _read_call(item: object, place: str) -> ToolCall:
    function = item.get("function") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(function, Mapping):
        raise _fault(f"{place} is no call", "call-unreadable", place)
    name = read_text(function.get("name"), f"{place}.function.name")
    arguments = read_text(function.get("arguments"), f"{place}.function.arguments")
    return ToolCall(name=name, arguments=arguments, id=_read_absent(item, "id", place))


def _read_absent(item: Mapping[str, Any], key: str, place: str) -> str | None:
    return None if item.get(key) is None else read_text(item[key], f"{place}.{key}")


def _read_id(row: Mapping[str, Any]) -> str | None:
    """Return the id of the task, with the number of the sample where there are several."""
    value, sample = row.get("id"), row.get("sample")
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) if sample is None else f"{value}#{sample}"


# --- traces that hold steps alone -------------------------------------------------------------------------------------


def _rebuild(row: Mapping[str, Any], steps: Sequence[Step], style: Style) -> list[Placed]:
    """Return the messages of a trace without `messages`: of the prompt, and of ReAct outputs, which say what they are.

    Raises:
        DataError: code `trace-incomplete` where the trace does not say what the model was shown, or emitted in a form
            that its template alone can read.
    """
    if "tools" not in row:
        raise _fault(
            "the trace has no 'messages' and no 'tools': it does not say what the model was shown",
            "trace-incomplete",
            "tools",
            fix="run the task again; or add to the line what the model was shown: 'tools' (OpenAI functions, [] for "
            "none), 'dialect' and, if there was one, 'system'",
        )
    if style == "chat" and row["tools"]:
        raise _fault(
            "the trace has no 'messages', and its outputs are native calls, which only the model's template can read",
            "trace-incomplete",
            "messages",
            fix="run the task again",
        )
    system = read_optional_text(row, "system")
    placed = [Placed(Message(role="system", content=system), "system")] if system else []
    placed.append(Placed(Message(role="user", content=read_text(row["prompt"], "prompt")), "prompt"))
    for number, step in enumerate(steps):
        if not step.spoken:
            continue
        place = f"steps[{number}]"
        message = Message(role="assistant", content=step.output)
        if style != "chat":
            message = _parse(step.output, place)
        placed.append(Placed(message, place))
        placed += [Placed(Message(role="tool", content=text), place) for text in step.observations]
    return placed


def _parse(output: str, place: str) -> Message:
    try:
        return react.read_message(react.parse_step(output))
    except DataError as error:
        raise DataError(f"{place}: {error.message}", code=error.code, field=f"{place}.output", fix=error.fix) from None


def _fault(what: str, code: str, field: str, *, fix: str = _FIX) -> DataError:
    return DataError(what, code=code, field=field, fix=fix)
