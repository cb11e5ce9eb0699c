"""The loop: conversation -> model -> message -> tools -> observations -> conversation, until an answer or a limit.

What the model emitted is put back as the message that it parses to, so the next prompt is the one that training on this
conversation would show (see `rendered.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from actune.agents.engines.engine import Sampling
from actune.agents.model import Ask, Model, Refusal, Reply
from actune.agents.repeats import Repeats
from actune.agents.tools.toolbox import Observation
from actune.agents.trace import Dropped, EndReason, Trace, TraceStep
from actune.core.conversion import new_call_id
from actune.core.turns import head_length
from actune.core.types import Conversation, Message, Source, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run without an answer: outputs, sampled tokens in all and in one output, seconds in all.

    `repeats`: equal rounds of calls and observations in a row (0: no limit).
    """

    steps: int = 10
    tokens: int = 8192
    output_tokens: int = 1024
    seconds: float = 600.0
    repeats: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do: messages that end in a user's, and the tools the model is told of.

    `sample` is the number (from 0) of a task that is done several times: it is added to the seed.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    id: str | None = None
    sample: int | None = None

    @property
    def prompt(self) -> str:
        """The last text of the user."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run: a piece of output, a call before it is made, what came back, what was wrong.

    A note is what a person should know beside that: which history is no longer shown, say.
    """

    kind: Literal["text", "call", "observation", "error", "note"]
    text: str = ""
    call: ToolCall | None = None


def _ignore(event: Event) -> None:
    """Be told of an event, and do nothing."""


class Tools(Protocol):
    """Whatever answers calls: a `Toolbox`, or anything else that never raises."""

    def call_each(self, wanted: Sequence[tuple[ToolCall, Sequence[ToolSpec] | None]]) -> list[Observation]:
        """Return one Observation a call, in order; each comes with the tools that its conversation lists."""
        ...


class Agent:
    """A model with tools."""

    def __init__(
        self, model: Model, toolbox: Tools, *, limits: Limits | None = None, sampling: Sampling | None = None
    ) -> None:
        """Put the parts together."""
        self.model = model
        self._toolbox = toolbox
        self.limits = limits or Limits()
        self.sampling = sampling or Sampling()

    def with_toolbox(self, toolbox: Tools) -> Agent:
        """Return the same model with other tools."""
        return Agent(self.model, toolbox, limits=self.limits, sampling=self.sampling)

    def run(self, task: Task, *, on_event: Callable[[Event], None] | None = None) -> Trace:
        """Do one task; `on_event` is told of everything as it happens.

        Raises:
            RenderError, DataError: the task itself cannot be shown to the model.
            ModelError: the model cannot be used at all: its server is gone, say.
        """
        tell = on_event or _ignore
        rollout = self._start(task)
        self.model.check(rollout.conversation)  # a fault of the task itself is the caller's to hear, no unlucky run
        while (ask := rollout.next_ask()) is not None:
            (reply,) = self.model.reply([ask], on_text=None if on_event is None else _hear(on_event))
            calls = rollout.accept(reply, tell)
            for call in calls:
                tell(Event(kind="call", call=call))
            rollout.observe(self._toolbox.call_each([(call, task.tools) for call in calls]), tell)
        return rollout.finish()

    def run_many(
        self, tasks: Sequence[Task], *, parallel: int = 8, on_trace: Callable[[Trace], None] | None = None
    ) -> list[Trace]:
        """Do several tasks, `parallel` at a time: outputs are generated together, tools run side by side.

        `on_trace` is called as each task ends; the result is in the order of `tasks`.

        Raises:
            RenderError, DataError: a task itself cannot be shown to the model; found before any is begun.
            ModelError: the model cannot be used at all; `on_trace` has been told of the tasks that ended before.
        """
        for task in tasks:
            self.model.check(self._start(task).conversation)
        waiting = deque(enumerate(tasks))
        active: dict[int, _Rollout] = {}
        traces: dict[int, Trace] = {}
        while waiting or active:
            while waiting and len(active) < parallel:
                index, task = waiting.popleft()
                active[index] = self._start(task)
            asks: dict[int, Ask] = {}
            for index, rollout in list(active.items()):
                ask = rollout.next_ask()
                if ask is not None:
                    asks[index] = ask
                    continue
                del active[index]
                traces[index] = rollout.finish()
                if on_trace is not None:
                    on_trace(traces[index])
            if asks:
                replies = self.model.reply(list(asks.values()))
                self._step_all([(active[index], reply) for index, reply in zip(asks, replies, strict=True)])
        return [traces[index] for index in range(len(tasks))]

    def _step_all(self, pairs: Sequence[tuple[_Rollout, Reply | Refusal]]) -> None:
        wanted = [(rollout, rollout.accept(reply)) for rollout, reply in pairs]
        flat = [(call, rollout.task.tools) for rollout, calls in wanted for call in calls]
        results = iter(self._toolbox.call_each(flat) if flat else [])
        for rollout, calls in wanted:
            rollout.observe([next(results) for _ in calls])

    def _start(self, task: Task) -> _Rollout:
        conversation = Conversation(
            messages=task.messages, tools=task.tools, style=self.model.style, source=Source(file="task", line=1)
        )
        return _Rollout(
            task=task,
            conversation=conversation,
            model=self.model,
            limits=self.limits,
            sampling=replace(self.sampling, seed=self.sampling.seed + (task.sample or 0)),
            start=head_length(task.messages),
            repeats=Repeats(self.limits.repeats),
            calls=sum(len(message.tool_calls) for message in task.messages),
        )


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """One task on its way.

    `start` is where the history begins that is still shown, `calls` counts all calls of the conversation.
    """

    task: Task
    conversation: Conversation
    model: Model
    limits: Limits
    sampling: Sampling
    start: int
    repeats: Repeats
    calls: int
    steps: list[TraceStep] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    reason: EndReason | None = None
    answer: str | None = None
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    _pending: TraceStep | None = None

    def next_ask(self) -> Ask | None:
        """Return what to ask the model next, None when the run has ended."""
        if self.reason is None:
            self.reason = self._spent()
        if self.reason is not None:
            return None
        return Ask(
            conversation=self.conversation,
            start=self.start,
            max_tokens=min(self.limits.output_tokens, self.limits.tokens - self.tokens),
            sampling=replace(self.sampling, seed=self.sampling.seed + len(self.steps)),
            deadline=self.started + self.limits.seconds,
        )

    def _spent(self) -> EndReason | None:
        if len(self.steps) >= self.limits.steps:
            return "steps"
        if self.tokens >= self.limits.tokens:
            return "tokens"
        return "seconds" if time.monotonic() - self.started >= self.limits.seconds else None

    def accept(self, reply: Reply | Refusal, tell: Callable[[Event], None] = _ignore) -> tuple[ToolCall, ...]:
        """Take an output in; returns the calls to make."""
        if isinstance(reply, Refusal):
            self._refuse(reply, tell)
            return ()
        self._drop(reply.start, tell)
        self.tokens += reply.tokens
        self.reason = reply.ended
        message = None if reply.message is None else self._name_calls(reply.message)
        calls = () if message is None or reply.ended is not None else message.tool_calls
        self._pending = TraceStep(
            output=reply.text,
            calls=calls,
            error=reply.error,
            repaired=reply.repaired,
            seconds=reply.seconds,
            tokens=reply.tokens,
        )
        if message is not None and reply.ended is None:
            self._add(message)
            if not calls:
                self.reason, self.answer = "answer", message.content
        for place in reply.repaired:
            if place < len(calls):
                tell(Event(kind="note", text=f"the call was read as {calls[place].name} {calls[place].arguments}"))
        return calls

    def _refuse(self, refusal: Refusal, tell: Callable[[Event], None]) -> None:
        """End the run; what was wrong is said of the last step, of an empty one where there is none."""
        self.reason = refusal.ended
        if self.steps:
            self.steps[-1] = replace(self.steps[-1], error=self.steps[-1].error or refusal.error)
        else:
            self.steps.append(TraceStep(output="", error=refusal.error, seconds=0.0, tokens=0))
        tell(Event(kind="error", text=refusal.error))

    def _drop(self, start: int, tell: Callable[[Event], None]) -> None:
        """Note that the history that is shown begins later."""
        if start == self.start:
            return
        self.start = start
        count = start - head_length(self.conversation.messages)
        self.dropped.append(Dropped(step=len(self.steps), messages=count))
        tell(Event(kind="note", text=f"the oldest {count} messages no longer fit and are not shown to the model"))

    def observe(self, observations: Sequence[Observation], tell: Callable[[Event], None] = _ignore) -> None:
        """Close the step with what the tools gave."""
        step, self._pending = self._pending, None
        if step is None:
            return
        for call, observation in zip(step.calls, observations, strict=True):
            self._add(Message(role="tool", content=observation.text, tool_call_id=call.id))
        texts = tuple(observation.text for observation in observations)
        mended = {place for place, observation in enumerate(observations) if observation.repaired is not None}
        errors = [] if step.error is None else [step.error]
        errors += [_write_error(one) for one in observations if one.error is not None]
        repeated = self.repeats.add(step.calls, texts)
        if repeated is not None:
            self.reason = "loop"
            errors.append(repeated)
        repaired = tuple(sorted(mended | set(step.repaired)))
        self.steps.append(replace(step, observations=texts, error="; ".join(errors) or None, repaired=repaired))
        for call, observation in zip(step.calls, observations, strict=True):
            if observation.repaired is not None:
                tell(Event(kind="note", text=f"the arguments of {call.name} were read as {observation.repaired}"))
            tell(Event(kind="observation", text=observation.text))
        if errors:
            tell(Event(kind="error", text="; ".join(errors)))

    def _name_calls(self, message: Message) -> Message:
        """Give calls without an id one where messages carry them; nine letters and digits suit every template."""
        if not message.tool_calls or self.model.style_of(self.conversation) != "chat":
            return message
        named = []
        for call in message.tool_calls:
            self.calls += 1
            named.append(call if call.id is not None else replace(call, id=new_call_id(self.calls)))
        return replace(message, tool_calls=tuple(named))

    def _add(self, message: Message) -> None:
        self.conversation = replace(self.conversation, messages=(*self.conversation.messages, message))

    def finish(self) -> Trace:
        """Return the Trace of the run, which has ended."""
        assert self.reason is not None
        return Trace(
            prompt=self.task.prompt,
            steps=tuple(self.steps),
            final_answer=self.answer,
            reason=self.reason,
            messages=self.conversation.messages,
            tools=self.task.tools,
            dropped=tuple(self.dropped),
            dialect=self.model.style_of(self.conversation),
            model=self.model.name,
            sampling=self.sampling,
            id=self.task.id,
            sample=self.task.sample,
        )


def _write_error(observation: Observation) -> str:
    """Return what was wrong with a call; a text that was only cut is said by its code."""
    return "output-cut" if observation.error == "output-cut" else f"{observation.error}: {observation.text}"


def _hear(on_event: Callable[[Event], None]) -> Callable[[int, str], None]:
    return lambda _index, piece: on_event(Event(kind="text", text=piece))
