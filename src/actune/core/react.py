"""The ReAct grammar: Thought / Action / Action Input / Observation / Final Answer.

One grammar and one stop word for both languages of instructions. `formats` reads source text with it, `render` writes
prompts and completions with it, so that what is trained is what is parsed. The layout is the one of the reference
recipe ("Agent fine-tuning best practices"), byte for byte. The list of APIs before it is in `api_list.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actune.core.errors import DataError
from actune.core.parts import Part, Span
from actune.core.types import Message, ToolCall

STOP_WORD = "Observation:"
MARKER = re.compile(r"^(Thought|Action Input|Action|Observation|Final Answer):", re.MULTILINE)
# What may open the next completion after an Observation.
_STEP_START = ("Thought", "Action", "Final Answer")


# --- one step -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One completion, parsed: `action` is None unless a tool is called, `answer` None unless the turn ends here.

    `text` is the exact source of the step; for a call it ends in the stop word where the source has one.
    """

    thought: str
    action: str | None
    action_input: str | None
    answer: str | None
    text: str


def write_step(message: Message) -> str:
    """Return the text the model has to emit for an assistant message: its source text, else the normal layout.

    A call ends in the stop word `Observation:`. The turn's stop token after a final answer is the template's business.

    Raises:
        DataError: code `react-parallel-calls` for several calls in one message, which this format cannot hold;
            `react-marker-in-text` when the text would be read back as something else.
    """
    if message.source_text is not None:
        text = message.source_text
        return text if not message.tool_calls or text.endswith(STOP_WORD) else text.rstrip("\n") + "\n" + STOP_WORD
    return _compose(message)


def _compose(message: Message) -> str:
    thought = f"Thought: {message.reasoning}\n" if message.reasoning else ""
    if not message.tool_calls:
        return f"{thought}Final Answer: {message.content}"
    if len(message.tool_calls) > 1:
        raise DataError(
            f"{len(message.tool_calls)} calls in one message; ReAct text holds one call a step",
            code="react-parallel-calls",
            field="tool_calls",
            fix="use --dialect chat, or write the calls as steps, each followed by its result",
        )
    if message.content and message.reasoning:
        raise DataError(
            "reasoning and text beside a call; a ReAct step has one Thought",
            code="react-two-thoughts",
            field="content",
            fix="use --dialect chat, or keep one of the two",
        )
    call = message.tool_calls[0]
    thought = f"Thought: {message.content}\n" if message.content else thought
    return f"{thought}Action: {call.name}\nAction Input: {call.arguments}\n{STOP_WORD}"


def parse_step(text: str) -> Step:
    """Parse one completion: everything the model emitted up to the stop word or the end of its turn.

    Text without any marker is a plain answer. Never evaluates anything; linear in the length of the text.

    Raises:
        DataError: code `action-without-input`, `input-without-action`, `thought-only`, `observation-without-action`
            or `text-after-input`.
    """
    steps = list(_split(text))
    if len(steps) != 1 or steps[0][1]:
        raise DataError(
            "more than one step: the text goes on after 'Observation:'",
            code="observation-invented",
            fix="cut the text at the first line-start 'Observation:'",
        )
    return steps[0][0]


def find_parts(text: str) -> list[Span]:
    """Return the parts of one completion, in order and without gaps: each begins at its marker.

    What stands before `Action:` or `Final Answer:` is the thought, with its marker or without; `Observation:` is the
    stop. Text without any marker is a final answer.

    Raises:
        DataError: see `parse_step`.
    """
    step = parse_step(text)
    begins: list[tuple[Part, int]] = [("final_answer", 0)]
    if MARKER.search(text) is not None:
        kinds = ("Final Answer",) if step.action is None else ("Action", "Action Input", "Observation")
        at, begins[0] = 0, ("thought", 0)
        for kind in kinds:
            found = next((mark for mark in MARKER.finditer(text, at) if mark.group(1) == kind), None)
            if found is not None:
                begins.append((_PARTS[kind], found.start()))
                at = found.end()
    ends = [start for _, start in begins[1:]] + [len(text)]
    return [Span(start=at, end=end, part=part) for (part, at), end in zip(begins, ends, strict=True) if end > at]


_PARTS: dict[str, Part] = {
    "Action": "action",
    "Action Input": "action_input",
    "Observation": "stop",
    "Final Answer": "final_answer",
}


def read_message(step: Step) -> Message:
    """Return a step as an assistant message; `source_text` is kept only where the normal layout differs."""
    calls = ()
    if step.action is not None:
        calls = (ToolCall(name=step.action, arguments=step.action_input or ""),)
    message = Message(role="assistant", content=step.answer or "", reasoning=step.thought, tool_calls=calls)
    text = step.text if not calls or step.text.endswith(STOP_WORD) else step.text + "\n" + STOP_WORD
    if _compose(message) == text:
        return message
    return Message(
        role="assistant", content=message.content, reasoning=message.reasoning, tool_calls=calls, source_text=step.text
    )


# --- one assistant turn: steps with their observations --------------------------------------------------------------


def read_turn(text: str) -> list[Message]:
    """Split the text of one assistant turn into assistant and tool messages, in order.

    `write_turn(read_turn(text)) == text` for every text that parses. Text without markers is one plain answer.

    Raises:
        DataError: see `parse_step`; the message shows the offending text.
    """
    messages: list[Message] = []
    steps = list(_split(text))
    for number, (step, observation) in enumerate(steps, 1):
        messages.append(read_message(step))
        if observation is not None:
            content = observation.removeprefix(" ").removesuffix("\n")
            # Where nothing follows, no line break does either.
            normal = f" {content}" if number == len(steps) else f" {content}\n"
            source = None if observation == normal else observation
            messages.append(Message(role="tool", content=content, source_text=source))
    return messages


def write_observation(message: Message) -> str:
    """Return what is put in from outside after the stop word: blank + observation + line break, or the source text."""
    return message.source_text if message.source_text is not None else f" {message.content}\n"


def write_turn(messages: Sequence[Message]) -> str:
    """Return the text of one assistant turn (assistant and tool messages) as it stands in the history."""
    parts: list[str] = []
    for message in messages:
        parts.append(write_observation(message) if message.role == "tool" else write_step(message))
    last = messages[-1]
    if last.role == "tool" and last.source_text is None:
        parts[-1] = parts[-1].removesuffix("\n")
    if last.role == "assistant" and last.tool_calls:  # no observation yet: the stop word is not part of the history
        source = last.source_text
        parts[-1] = source if source is not None else parts[-1].removesuffix("\n" + STOP_WORD)
    return "".join(parts)


def part_steps(text: str) -> list[str]:
    """Return the text of an answer whose actions hold their input (`Action: search[...]`): step, observation, step ...

    An observation begins with its marker and ends before the next line that can begin a step. Line breaks between the
    parts are left out. Text without an observation is one part.

    Raises:
        DataError: code `tools-missing` for an observation after `Action Input:`, which belongs to a list of tools;
            `observation-without-action` for one that no action asked for.
    """
    marks = [(match.group(1), match.start()) for match in MARKER.finditer(text)]
    parts: list[str] = []
    start = index = 0
    asked = False
    while index < len(marks):
        kind, at = marks[index]
        index += 1
        if kind != "Observation":
            asked = asked or kind == "Action"
            if kind == "Action Input" and any(later == "Observation" for later, _ in marks[index:]):
                raise _fault("tools-missing", "'Action Input:' without a list of tools", text[at:])
            continue
        if not asked:
            raise _fault("observation-without-action", "'Observation:' without 'Action:'", text[start:])
        while index < len(marks) and marks[index][0] not in _STEP_START:
            index += 1
        stop = marks[index][1] if index < len(marks) else len(text)
        parts += [text[start:at].removesuffix("\n"), text[at:stop].removesuffix("\n")]
        start, asked = stop, False
    return [*parts, text[start:]] if start < len(text) or not parts else parts


def _split(text: str) -> Iterator[tuple[Step, str | None]]:
    """Yield (step, raw observation text or None); together they are exactly `text`."""
    marks = [(match.group(1), match.start(), match.end()) for match in MARKER.finditer(text)]
    if not marks:
        yield Step(thought="", action=None, action_input=None, answer=text, text=text), None
        return
    start, index = 0, 0
    while True:
        step, observation_at, index = _read_step(text, marks, start, index)
        if observation_at is None:
            yield step, None
            return
        # The observation runs to the next marker that can open a step; other markers inside it are its own text.
        while index < len(marks) and marks[index][0] not in _STEP_START:
            index += 1
        stop = marks[index][1] if index < len(marks) else len(text)
        yield step, text[observation_at:stop]
        if index >= len(marks):
            return
        start = stop


def _read_step(text: str, marks: list[tuple[str, int, int]], start: int, index: int) -> tuple[Step, int | None, int]:
    """Read a step from `start`; returns it, where its observation begins (or None), and the next marker index."""
    opening = _next_mark(marks, index, ("Action", "Action Input", "Observation", "Final Answer"))
    kind = marks[opening][0] if opening < len(marks) else None
    if kind is None:
        raise _fault("thought-only", "a Thought with neither Action nor Final Answer", text[start:])
    if kind == "Action Input":
        raise _fault("input-without-action", "'Action Input:' without 'Action:'", text[start:])
    if kind == "Observation":
        raise _fault("observation-without-action", "'Observation:' without 'Action:'", text[start:])
    thought = text[start : marks[opening][1]].strip().removeprefix("Thought:").strip()
    if kind == "Action":
        return _read_call(text, marks, start, opening, thought)
    if _next_mark(marks, opening, ("Observation",)) < len(marks):
        raise _fault("text-after-answer", "'Observation:' at a line start after 'Final Answer:'", text[start:])
    return Step(thought, None, None, text[marks[opening][2] :].strip(), text[start:]), None, len(marks)


def _read_call(
    text: str, marks: list[tuple[str, int, int]], start: int, opening: int, thought: str
) -> tuple[Step, int | None, int]:
    action = text[marks[opening][1] :]
    if opening + 1 >= len(marks) or marks[opening + 1][0] != "Action Input":
        raise _fault("action-without-input", "'Action:' without 'Action Input:'", action)
    name = text[marks[opening][2] : marks[opening + 1][1]].strip()
    if not name or "\n" in name:
        raise _fault("action-without-name", "'Action:' is not followed by one tool name", action)
    close = opening + 2
    if close >= len(marks):
        return Step(thought, name, text[marks[opening + 1][2] :].strip(), None, text[start:]), None, close
    if marks[close][0] != "Observation":
        raise _fault("text-after-input", "'Action Input:' is not followed by 'Observation:'", action)
    arguments = text[marks[opening + 1][2] : marks[close][1]].strip()
    step = Step(thought, name, arguments, None, text[start : marks[close][2]])
    return step, marks[close][2], close + 1


def _next_mark(marks: list[tuple[str, int, int]], after: int, kinds: tuple[str, ...]) -> int:
    return next((i for i in range(after, len(marks)) if marks[i][0] in kinds), len(marks))


def _fault(code: str, what: str, text: str) -> DataError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return DataError(
        f"{what}. Text: {shown!r}",
        code=code,
        fix="each step is 'Thought:' (may be left out), then 'Action:' + 'Action Input:' + 'Observation:', "
        "or 'Final Answer:'",
    )
