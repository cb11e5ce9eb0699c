"""Requests to prompts: the conversation that a client sends, written as training writes it, and the plan of its answer."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actune.agents.engines.engine import Sampling
from actune.core.conversion import new_call_id
from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation, Message, Source, Style, ToolCall, ToolSpec
from actune.render.dialects import ChatDialect, Dialect
from actune.render.encoder import Encoder
from actune.serving.choices import Plan, Writer, make_plan
from actune.serving.errors import ApiError, from_actune
from actune.serving.memory import Memory
from actune.serving.reading import Reader, random_id
from actune.serving.requests import ChatRequest
from actune.serving.splitter import Splitter, make_splitter


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing, and the most it may ask for: sampled tokens, seconds."""

    max_tokens: int = 1024
    seconds: float = 600.0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready for the scheduler: its plans and how they are sampled, one a choice, and how outputs are read.

    `before` stands for the messages of the request in the memory.
    """

    request: ChatRequest
    base: bool
    ids: Sequence[int]
    plans: tuple[Plan, ...]
    samplings: tuple[Sampling, ...]
    readers: tuple[Reader, ...]
    make_splitter: Callable[[], Splitter]
    before: bytes
    deadline: float


class Service:
    """The models of a server by name, and how text is written for them. Used by one thread at a time."""

    def __init__(
        self,
        encoder: Encoder,
        style: Style,
        *,
        models: dict[str, bool],
        context: int | None = None,
        defaults: Defaults | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Serve `models`: name -> whether it is the model without its adapter. `style`: of conversations with tools."""
        self.encoder = encoder
        self.models = models
        self.defaults = defaults or Defaults()
        self.memory = memory or Memory()
        self._style: Style = style
        self._context = context
        renderer = encoder.renderer
        self._numbered = _shows_ids(encoder)
        self._endings = renderer.profile.stops
        self._tail = _find_tail(renderer.profile.answer_end, renderer.profile.stops)
        for tools in ((), (_TOOL,)):  # what is learnt of the template is learnt before the first request
            dialect = self._dialect(self._conversation((), tools))
            make_splitter(dialect, tools=bool(tools), answer_tail=self._tail)

    def check_model(self, name: str) -> bool:
        """Return whether a name is the base model's.

        Raises:
            ApiError: 404 for a name that is no model's.
        """
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404,
                f"the model {name[:200]!r} does not exist; here are: {known}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    def prepare(self, request: ChatRequest) -> Prepared:
        """Write the prompt of a request.

        Raises:
            ApiError: 400 or 404, with the parameter at fault.
        """
        base = self.check_model(request.model)
        messages, before = self.memory.restore(request.model, request.tools, request.messages)
        conversation = self._conversation(messages, self._shown(request, messages))
        dialect = self._dialect(conversation)
        if request.tools and isinstance(dialect, ChatDialect) and not self.encoder.renderer.profile.tools:
            raise ApiError(
                400, "the chat template of this model shows no tools", param="tools", code="unsupported_parameter"
            )
        tokenizer = self.encoder.renderer.tokenizer
        make = self._id_maker(messages)
        try:
            text = dialect.prompt(conversation, len(messages))
            ids = tokenizer.encode(text)
        except (RenderError, DataError) as error:
            raise from_actune(error) from None
        stops = dialect.stops()
        writer = Writer(
            conversation=conversation,
            dialect=dialect,
            encode=tokenizer.encode,
            encode_turn=tokenizer.encode_turn,
            stops=replace(stops, texts=tuple(dict.fromkeys([*stops.texts, *request.stop]))),
            endings=self._endings,
            max_tokens=self._find_room(request, len(ids)),
            new_id=make(),
        )
        choice, tools = request.choice, conversation.tools
        readers = tuple(Reader(dialect=dialect, tools=tools, choice=choice, new_id=make()) for _ in range(request.n))
        return Prepared(
            request=request,
            base=base,
            ids=ids,
            plans=tuple(make_plan(writer, reader, text, ids) for reader in readers),
            samplings=self._find_samplings(request),
            readers=readers,
            make_splitter=lambda: make_splitter(dialect, tools=bool(tools), answer_tail=self._tail),
            before=before,
            deadline=time.monotonic() + self.defaults.seconds,
        )

    def _shown(self, request: ChatRequest, messages: Sequence[Message]) -> tuple[ToolSpec, ...]:
        """Return the tools that the prompt shows.

        A native prompt without tools is how an answer without a call is trained; ReAct steps need their list.
        """
        if request.choice.mode != "none" or any(message.tool_calls for message in messages):
            return request.tools
        chat = isinstance(self._dialect(self._conversation((), request.tools)), ChatDialect)
        return () if chat else request.tools

    def _conversation(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> Conversation:
        return Conversation(messages=messages, tools=tools, style=self._style, source=Source(file="request", line=1))

    def _dialect(self, conversation: Conversation) -> Dialect:
        """Return the dialect of a request; a history with ReAct steps is plain chat where no tools are given."""
        return self.encoder.dialect_of(conversation)

    def _find_room(self, request: ChatRequest, length: int) -> int:
        """Return how many tokens may be sampled.

        Raises:
            ApiError: 400 where the prompt alone fills the model's context.
        """
        wanted = request.max_tokens if request.max_tokens is not None else self.defaults.max_tokens
        if self._context is None:
            return wanted
        if length >= self._context:
            raise ApiError(
                400,
                f"the messages and tools are {length} tokens; the context of this model is {self._context}",
                param="messages",
                code="context_length_exceeded",
            )
        return min(wanted, self._context - length)

    def _find_samplings(self, request: ChatRequest) -> tuple[Sampling, ...]:
        seed = request.seed if request.seed is not None else self.defaults.seed
        first = random.getrandbits(31) if seed is None else seed % 2**63
        temperature = self.defaults.temperature if request.temperature is None else request.temperature
        top_p = self.defaults.top_p if request.top_p is None else request.top_p
        return tuple(
            Sampling(temperature=temperature, top_p=top_p, seed=(first + index) % 2**63) for index in range(request.n)
        )

    def _id_maker(self, messages: Sequence[Message]) -> Callable[[], Callable[[], str]]:
        """Return what makes functions that give calls new ids.

        Where the template shows ids, they are those of training and of the agent loop, `call00001` and so on; else they
        are random, so that they differ among the conversations of a client.
        """
        if not self._numbered:
            return lambda: random_id
        used = {call.id for message in messages for call in message.tool_calls}
        count = sum(len(message.tool_calls) for message in messages)

        def make() -> Callable[[], str]:
            numbers = itertools.count(count + 1)
            return lambda: next(name for number in numbers if (name := new_call_id(number)) not in used)

        return make


_TOOL = ToolSpec(name="probe_tool", description="probe", parameters={"type": "object", "properties": {}})


def _shows_ids(encoder: Encoder) -> bool:
    """Whether the template shows the ids of calls in a prompt."""
    texts = []
    for name in ("probe0001", "other2222"):
        call = ToolCall(name=_TOOL.name, arguments="{}", id=name)
        messages = [
            Message(role="user", content="probe"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="probe", tool_call_id=name),
        ]
        try:
            texts.append(encoder.renderer.render(messages, tools=(_TOOL,), prompt=True))
        except (RenderError, DataError):
            return False
    return texts[0] != texts[1]


def _find_tail(answer_end: str, stops: Sequence[str]) -> str:
    """Return what a template writes between an answer and its stop."""
    return next((answer_end.removesuffix(stop) for stop in stops if answer_end.endswith(stop)), "")
