"""A model whose prompts are written here, by the dialect of training, whatever engine continues them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actune.agents.engines.engine import Engine, Generation, Request
from actune.agents.model import Ask, Hear, Refusal, Reply
from actune.agents.tools.repair import repair_calls
from actune.core.errors import ActuneError, DataError
from actune.core.turns import find_first, head_length, keep_part, turn_starts
from actune.core.types import Conversation, Style
from actune.render.encoder import Encoder

History = Literal["turns", "error"]
# Of the tokens that prompt and output share, the output is left this part, or all that it may have where that is less.
_OUTPUT_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much of a conversation is shown.

    A prompt and its output have `context` tokens at most (None: no bound). A prompt that leaves less room for the output
    than a quarter of `limit`, or than the output may have, loses its oldest whole turns, as training with
    `truncation_strategy turns` drops them; with `history` "error" the run ends instead. `limit` is `context` where it is
    not smaller.
    """

    context: int | None = None
    limit: int | None = None
    history: History = "turns"

    @property
    def bound(self) -> int | None:
        """The tokens of a prompt and its output beyond which turns are dropped."""
        known = [number for number in (self.context, self.limit) if number is not None]
        return min(known, default=None)


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: list[int]
    start: int


class RenderedModel:
    """An engine, with the encoder of training before it and the parser of its dialect behind it."""

    def __init__(
        self, engine: Engine, encoder: Encoder, *, style: Style, name: str | None = None, window: Window | None = None
    ) -> None:
        """Put the parts together; `style` is the dialect of conversations with tools where the encoder's is `auto`.

        `window` None: the engine's own context, if it says one.
        """
        self.engine = engine
        self.encoder = encoder
        self.style: Style = style
        self.name = name
        self.window = window or Window(context=getattr(engine, "context", None))

    def style_of(self, conversation: Conversation) -> Style:
        """Return the dialect that a conversation is written in."""
        return self.encoder.dialect_of(conversation).name

    def check(self, conversation: Conversation) -> None:
        """Write the prompt of a conversation once.

        Raises:
            RenderError, DataError: it cannot be written.
        """
        self._write(conversation, head_length(conversation.messages))

    def reply(self, asks: Sequence[Ask], *, on_text: Hear | None = None) -> list[Reply | Refusal]:
        """Return what the model says to each ask; all outputs are generated together.

        Raises:
            ModelError: the engine cannot be used at all.
        """
        prompts = [self._fit(ask) for ask in asks]
        open_ = [index for index, prompt in enumerate(prompts) if isinstance(prompt, _Prompt)]
        requests = [self._request(asks[index], prompts[index]) for index in open_]
        hear = None if on_text is None else (lambda place, piece: on_text(open_[place], piece))
        found = iter(self.engine.generate(requests, on_text=hear) if requests else [])
        return [
            prompt if isinstance(prompt, Refusal) else self._read(ask, prompt, next(found))
            for ask, prompt in zip(asks, prompts, strict=True)
        ]

    def _write(self, conversation: Conversation, start: int) -> list[int]:
        """Return the ids of the prompt after all messages; those before `start`, the system text aside, are left out."""
        kept = keep_part(conversation.messages, start)
        shown = conversation if len(kept) == len(conversation.messages) else replace(conversation, messages=kept)
        text = self.encoder.dialect_of(shown).prompt(shown, len(shown.messages))
        return self.encoder.renderer.tokenizer.encode(text)

    # --- the part of the history that is shown ----------------------------------------------------------------------

    def _fit(self, ask: Ask) -> _Prompt | Refusal:
        """Return the prompt with as many whole turns as fit."""
        try:
            whole = _Prompt(self._write(ask.conversation, ask.start), ask.start)
        except ActuneError as error:
            return Refusal(ended="error", error=f"the next prompt cannot be written: {error.message}")
        bound = self.window.bound
        if bound is None:
            return whole
        room = bound - min(ask.max_tokens, bound // _OUTPUT_SHARE)
        if len(whole.ids) > room and self.window.history == "turns":
            later = [start for start in turn_starts(ask.conversation.messages) if start > ask.start]
            whole = self._drop(ask.conversation, later, room) or whole
        length = len(whole.ids)
        if self.window.history == "error" and length > room:
            return Refusal(ended="tokens", error=f"the prompt has {length} tokens, {room} are left to it of {bound}")
        context = self.window.context
        if context is not None and length >= context:
            return Refusal(ended="tokens", error=f"the prompt has {length} tokens, the model's context {context}")
        return whole

    def _drop(self, conversation: Conversation, later: Sequence[int], room: int) -> _Prompt | None:
        """Return the prompt from the first turn on from which it has at most `room` tokens, else of the last turn alone."""

        def fit(start: int) -> list[int] | None:
            ids = self._try(conversation, start)
            return ids if ids is not None and len(ids) <= room else None

        found = find_first(later, fit)
        if found is not None:
            return _Prompt(found[1], found[0])
        ids = self._try(conversation, later[-1]) if later else None
        return None if ids is None else _Prompt(ids, later[-1])

    def _try(self, conversation: Conversation, start: int) -> list[int] | None:
        try:
            return self._write(conversation, start)
        except ActuneError:  # a template that refuses what is left: as in training, that part does not fit
            return None

    def _request(self, ask: Ask, prompt: _Prompt | Refusal) -> Request:
        assert isinstance(prompt, _Prompt)
        dialect = self.encoder.dialect_of(ask.conversation)
        context = self.window.context
        room = ask.max_tokens if context is None else min(ask.max_tokens, context - len(prompt.ids))
        return Request(
            prompt=prompt.ids, stops=dialect.stops(), max_tokens=room, sampling=ask.sampling, deadline=ask.deadline
        )

    # --- what came back ---------------------------------------------------------------------------------------------

    def _read(self, ask: Ask, prompt: _Prompt, generation: Generation) -> Reply:
        reply = Reply(text=generation.text, tokens=generation.tokens, seconds=generation.seconds, start=prompt.start)
        if generation.reason == "error":
            return replace(reply, ended="error", error=generation.error)
        if generation.reason in ("length", "time"):
            ended = "seconds" if generation.reason == "time" else "tokens"
            return replace(reply, ended=ended, error=f"the output was cut after {generation.tokens} tokens")
        dialect, tools = self.encoder.dialect_of(ask.conversation), ask.conversation.tools
        try:
            return replace(reply, message=dialect.parse(generation.text, tools))
        except DataError as error:
            # Kind to the model, and recorded: a call whose JSON can be mended without a loss is made.
            mended = repair_calls(generation.text) if error.code == "call-unreadable" else None
            if mended is not None:
                with contextlib.suppress(DataError):
                    return replace(reply, message=dialect.parse(mended[0], tools), repaired=mended[1])
            return replace(reply, ended="unparsable", error=f"{error.code}: {error.message}")
