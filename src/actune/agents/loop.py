"""The loop: prompt -> engine -> parse -> tools -> observations -> prompt, until an answer or a limit.

Prompts come from the same dialect as in training and are tokenised as a whole each time; what the model emitted is
put back as the message that it parses to, so the next prompt is the one that training on this conversation would show.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from actune.agents.engines.engine import Engine, Generation, Request, Sampling
from actune.agents.tools.toolbox import Observation
from actune.agents.trace import EndReason, Trace, TraceStep
from actune.core.conversion import new_call_id
from actune.core.errors import ActuneError, DataError
from actune.core.types import Conversation, Message, Source, Style, ToolCall, ToolSpec
from actune.render.dialects import Dialect
from actune.render.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run without an answer: outputs, sampled tokens in all and in one output, seconds in all."""

    steps: int = 10
    tokens: int = 8192
    output_tokens: int = 1024
    seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do: messages that end in a user's, and the tools the model is told of."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    id: str | None = None

    @property
    def prompt(self) -> str:
        """The last text of the user."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run: a piece of output, a call before it is made, what came back, what was wrong."""

    kind: Literal["text", "call", "observation", "error"]
    text: str = ""
    call: ToolCall | None = None


class Tools(Protocol):
    """Whatever answers calls: a `Toolbox`, or anything else that never raises."""

    def call_each(self, wanted: Sequence[tuple[ToolCall, Sequence[ToolSpec] | None]]) -> list[Observation]:
        """Return one Observation a call, in order; each comes with the tools that its conversation lists."""
        ...


class Agent:
    """A model with tools."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        toolbox: Tools,
        *,
        style: Style,
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        name: str | None = None,
    ) -> None:
        """Put the parts together; `style` is the dialect of runs with tools where the encoder's is `auto`.

        `name` is what traces call the model.
        """
        self._engine = engine
        self._encoder = encoder
        self._toolbox = toolbox
        self._style: Style = style
        self.limits = limits or Limits()
        self.sampling = sampling or Sampling()
        self._name = name

    def with_toolbox(self, toolbox: Tools) -> Agent:
        """Return the same model with other tools."""
        return Agent(
            self._engine,
            self._encoder,
            toolbox,
            style=self._style,
            limits=self.limits,
            sampling=self.sampling,
            name=self._name,
        )

    def run(self, task: Task, *, on_event: Callable[[Event], None] | None = None) -> Trace:
        """Do one task; `on_event` is told of everything as it happens.

        Raises:
            RenderError, DataError: the task itself cannot be shown to the model.
        """
        rollout = self._start(task)
        rollout.write_prompt()  # what is wrong with the task itself is the caller's to hear, not an unlucky run
        while (request := rollout.next_request()) is not None:
            hear = _hear(on_event)
            (generation,) = self._engine.generate([request], on_text=hear)
            calls = rollout.accept(generation)
            for call in calls:
                _tell(on_event, Event(kind="call", call=call))
            rollout.observe(self._toolbox.call_each([(call, task.tools) for call in calls]))
            step = rollout.steps[-1]
            for text in step.observations:
                _tell(on_event, Event(kind="observation", text=text))
            if step.error is not None:
                _tell(on_event, Event(kind="error", text=step.error))
        return rollout.finish()

    def run_many(
        self, tasks: Sequence[Task], *, parallel: int = 8, on_trace: Callable[[Trace], None] | None = None
    ) -> list[Trace]:
        """Do several tasks, `parallel` at a time: outputs are generated together, tools run side by side.

        `on_trace` is called as each task ends; the result is in the order of `tasks`.

        Raises:
            RenderError, DataError: a task itself cannot be shown to the model; found before any is begun.
        """
        for task in tasks:
            self._start(task).write_prompt()
        waiting = deque(enumerate(tasks))
        active: dict[int, _Rollout] = {}
        traces: dict[int, Trace] = {}
        while waiting or active:
            while waiting and len(active) < parallel:
                index, task = waiting.popleft()
                active[index] = self._start(task)
            requests: dict[int, Request] = {}
            for index, rollout in list(active.items()):
                request = rollout.next_request()
                if request is not None:
                    requests[index] = request
                    continue
                del active[index]
                traces[index] = rollout.finish()
                if on_trace is not None:
                    on_trace(traces[index])
            if requests:
                generations = self._engine.generate(list(requests.values()))
                self._step_all([(active[i], g) for i, g in zip(requests, generations, strict=True)])
        return [traces[index] for index in range(len(tasks))]

    def _step_all(self, pairs: Sequence[tuple[_Rollout, Generation]]) -> None:
        wanted = [(rollout, rollout.accept(generation)) for rollout, generation in pairs]
        flat = [(call, rollout.task.tools) for rollout, calls in wanted for call in calls]
        results = iter(self._toolbox.call_each(flat) if flat else [])
        for rollout, calls in wanted:
            rollout.observe([next(results) for _ in calls])

    def _start(self, task: Task) -> _Rollout:
        conversation = Conversation(
            messages=task.messages, tools=task.tools, style=self._style, source=Source(file="task", line=1)
        )
        dialect = self._encoder.dialect_of(conversation)
        return _Rollout(
            task=task,
            conversation=conversation,
            dialect=dialect,
            encode=self._encoder.renderer.tokenizer.encode,
            limits=self.limits,
            sampling=self.sampling,
            context=getattr(self._engine, "context", None),
            name=self._name,
        )


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """One task on its way."""

    task: Task
    conversation: Conversation
    dialect: Dialect
    encode: Callable[[str], list[int]]
    limits: Limits
    sampling: Sampling
    context: int | None
    name: str | None
    steps: list[TraceStep] = field(default_factory=list)
    reason: EndReason | None = None
    answer: str | None = None
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    calls: int = 0
    _pending: TraceStep | None = None
    _asked: tuple[ToolCall, ...] = ()

    def write_prompt(self) -> list[int]:
        return self.encode(self.dialect.prompt(self.conversation, len(self.conversation.messages)))

    def next_request(self) -> Request | None:
        """Return what to generate next, None when the run has ended."""
        if self.reason is None:
            self.reason = self._spent()
        if self.reason is not None:
            return None
        try:
            prompt = self.write_prompt()
        except ActuneError as error:
            self._fail("error", f"the next prompt cannot be written: {error.message}")
            return None
        room = self.limits.output_tokens
        if self.context is not None:
            room = min(room, self.context - len(prompt))
        if room <= 0:
            self._fail("tokens", f"the prompt has {len(prompt)} tokens, the model's context {self.context}")
            return None
        return Request(
            prompt=prompt,
            stops=self.dialect.stops(),
            max_tokens=min(room, self.limits.tokens - self.tokens),
            sampling=replace(self.sampling, seed=self.sampling.seed + len(self.steps)),
            deadline=self.started + self.limits.seconds,
        )

    def _spent(self) -> EndReason | None:
        if len(self.steps) >= self.limits.steps:
            return "steps"
        if self.tokens >= self.limits.tokens:
            return "tokens"
        return "seconds" if time.monotonic() - self.started >= self.limits.seconds else None

    def _fail(self, reason: EndReason, message: str) -> None:
        self.reason = reason
        if self.steps:
            self.steps[-1] = replace(self.steps[-1], error=self.steps[-1].error or message)
        else:
            self.steps.append(TraceStep(output="", error=message, seconds=0.0, tokens=0))

    def accept(self, generation: Generation) -> tuple[ToolCall, ...]:
        """Take an output in; returns the calls to make."""
        self.tokens += generation.tokens
        step = TraceStep(output=generation.text, seconds=generation.seconds, tokens=generation.tokens)
        self._pending, self._asked = step, ()
        if generation.reason in ("length", "time"):
            self.reason = "seconds" if generation.reason == "time" else "tokens"
            self._pending = replace(step, error=f"the output was cut after {generation.tokens} tokens")
            return ()
        try:
            message = self.dialect.parse(generation.text, self.task.tools)
        except DataError as error:
            self.reason = "unparsable"
            self._pending = replace(step, error=f"{error.code}: {error.message}")
            return ()
        if not message.tool_calls:
            self.reason, self.answer = "answer", message.content
            self._add(message)
            return ()
        message = self._name_calls(message)
        self._add(message)
        self._asked = message.tool_calls
        self._pending = replace(step, calls=message.tool_calls)
        return message.tool_calls

    def observe(self, observations: Sequence[Observation]) -> None:
        """Close the step with what the tools gave."""
        step = self._pending
        assert step is not None
        for call, observation in zip(self._asked, observations, strict=True):
            self._add(Message(role="tool", content=observation.text, tool_call_id=call.id))
        errors = [_write_error(one) for one in observations if one.error is not None]
        texts = tuple(observation.text for observation in observations)
        self.steps.append(replace(step, observations=texts, error=step.error or ("; ".join(errors) or None)))
        self._pending = None

    def _name_calls(self, message: Message) -> Message:
        """Give calls without an id one where messages carry them; nine letters and digits suit every template."""
        if self.dialect.name != "chat":
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
            dialect=self.dialect.name,
            model=self.name,
            sampling=self.sampling,
            id=self.task.id,
        )


def _write_error(observation: Observation) -> str:
    """Return what was wrong with a call; a text that was only cut is said by its code."""
    return "output-cut" if observation.error == "output-cut" else f"{observation.error}: {observation.text}"


def _tell(on_event: Callable[[Event], None] | None, event: Event) -> None:
    if on_event is not None:
        on_event(event)


def _hear(on_event: Callable[[Event], None] | None) -> Callable[[int, str], None] | None:
    if on_event is None:
        return None
    return lambda _index, piece: on_event(Event(kind="text", text=piece))
