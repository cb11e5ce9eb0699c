"""Conversation -> token tree: the dialect's turns, checked for losses, tokenised and merged."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actune.core.errors import DataError, RenderError
from actune.core.losses import find_codes
from actune.core.parts import PartWeights
from actune.core.types import Conversation, Source
from actune.render.chat import ChatRenderer, load_renderer
from actune.render.conformance import Loss, find_losses
from actune.render.dialects import ChatDialect, Dialect, ReactDialect, Turn, write_turns
from actune.render.parts import weigh_tokens
from actune.render.token_places import TokenPlaces, move_to
from actune.render.tree import Floats, TokenTree, TrainingSequence, build_tree

DialectName = Literal["auto", "react", "react_zh", "chat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTurn:
    """A turn in ids, a list or an array: `ids[:start]` is the prompt, the rest the completion.

    `weight` is the loss weight of the message. `weights` are those of the completion's tokens where parts have weights
    of their own, the message's included; None: each token has that of the message.
    """

    turn: Turn
    ids: Sequence[int]
    start: int
    weight: float
    weights: Floats | None = None

    def token_weights(self) -> Floats:
        """Return the loss weight of each token of the completion."""
        if self.weights is not None:
            return self.weights
        return np.full(len(self.ids) - self.start, self.weight, dtype=np.float32)

    def is_trained(self) -> bool:
        """Return whether some token of the completion has a weight."""
        if self.weights is not None:
            return bool(self.weights.any())
        return self.weight > 0 and len(self.ids) > self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """The turns of a row in ids, and the losses that were allowed."""

    turns: list[EncodedTurn]
    allowed: list[Loss]


class Encoder:
    """Everything between a Conversation and its TokenTree, for one model folder; no weights, no torch."""

    def __init__(
        self,
        renderer: ChatRenderer,
        *,
        dialect: DialectName = "auto",
        allow_loss: Collection[str] = (),
        weights: PartWeights | None = None,
    ) -> None:
        """Use one renderer; `auto` writes ReAct sources as ReAct and everything else with the chat template.

        `allow_loss` are names of losses (see `core.losses`) that do not stop a row. `weights` are the loss weights of
        the parts of an answer; None: all are 1.

        Raises:
            ConfigError: for a name of a loss that is none.
        """
        self.renderer = renderer
        self._dialect = dialect
        self._allowed = find_codes(allow_loss)
        self.weights = weights or PartWeights()
        self._plain = self.weights.uniform == 1
        self._places = TokenPlaces(renderer.tokenizer)
        self._chat = ChatDialect(renderer)
        self._react: dict[str, Dialect] = {
            "react": ReactDialect(renderer, "en"),
            "react_zh": ReactDialect(renderer, "zh"),
        }

    @classmethod
    def from_folder(  # noqa: PLR0913 - one parameter a setting
        cls,
        folder: Path,
        *,
        dialect: DialectName = "auto",
        chat_template: Path | None = None,
        now: datetime.date | None = None,
        history_reasoning: Literal["as-data", "drop"] = "as-data",
        raw_control_tokens: bool = False,
        allow_loss: Collection[str] = (),
        variables: Mapping[str, Any] | None = None,
        weights: PartWeights | None = None,
    ) -> Encoder:
        """Return the encoder of a model folder.

        Raises:
            ModelError, RenderError: see `load_renderer`.
            ConfigError: for a name of a loss that is none.
        """
        renderer = load_renderer(
            folder,
            chat_template=chat_template,
            now=now,
            history_reasoning=history_reasoning,
            raw_control_tokens=raw_control_tokens,
            variables=variables,
        )
        return cls(renderer, dialect=dialect, allow_loss=allow_loss, weights=weights)

    def dialect_of(self, conversation: Conversation) -> Dialect:
        """Return the dialect of a row; rows without tools are plain chat in every dialect."""
        if not conversation.tools:
            return self._chat
        name = conversation.style if self._dialect == "auto" else self._dialect
        return self._react.get(name, self._chat)

    def encode(self, conversation: Conversation) -> TokenTree:
        """Return the token tree of a conversation.

        Raises:
            RenderError: when the text would lose something, names the first loss; code `nothing-trained` when no
                assistant message has weight.
            DataError: when a message cannot be written in the dialect.
        """
        return merge_turns(self.encode_row(conversation).turns, conversation.source)

    def encode_turns(self, conversation: Conversation) -> list[EncodedTurn]:
        """Return every turn in ids, after the check for losses.

        Raises:
            RenderError, DataError: as `encode`.
        """
        return [replace(turn, ids=list(turn.ids)) for turn in self.encode_row(conversation).turns]

    def encode_row(self, conversation: Conversation) -> EncodedRow:
        """Return every turn in ids, and the losses that were allowed.

        Raises:
            RenderError, DataError: as `encode`.
        """
        if not any(one.role == "assistant" and one.train and one.weight > 0 for one in conversation.messages):
            raise _nothing_trained(weighed=False)  # whatever a template would say of such a row
        turns, losses = self.examine(conversation)
        stopping = [loss for loss in losses if not self.allows(loss)]
        if stopping:
            first = stopping[0]
            more = f" (and {len(stopping) - 1} more)" if len(stopping) > 1 else ""
            raise RenderError(first.message + more, code=first.code, field=first.field, fix=first.fix)
        return EncodedRow(turns=self.encode_written(conversation, turns), allowed=losses)

    def encode_written(self, conversation: Conversation, turns: Sequence[Turn]) -> list[EncodedTurn]:
        """Return turns of a row that were written and checked, in ids.

        Raises:
            RenderError: code `parts-unknown` when parts have different weights and cannot be told apart.
            DataError: code `prompt-empty` when nothing stands before an assistant's first token.
        """
        encoded = []
        for turn in turns:
            message = conversation.messages[turn.index]
            weight = message.weight if message.train else 0.0
            ids, start = self.renderer.tokenizer.encode_turn(turn.prompt, turn.completion)
            if not start:
                raise DataError(
                    "the prompt of an assistant message is empty: nothing stands before its first token",
                    code="prompt-empty",
                    field=f"messages[{turn.index}]",
                    fix="begin the row with a user message",
                )
            plain = self._plain or weight == 0
            weights = None if plain else self._weigh(conversation, turn, ids, start) * weight
            encoded.append(EncodedTurn(turn=turn, ids=ids, start=start, weight=weight, weights=weights))
        return encoded

    def _weigh(self, conversation: Conversation, turn: Turn, ids: Sequence[int], start: int) -> Floats:
        """Return the weight that each token of a completion has for the part it belongs to."""
        if self.weights.uniform is not None:
            return np.full(len(ids) - start, self.weights.uniform, dtype=np.float32)
        text, begins = self._places.locate(ids, start)
        moved = move_to(text, begins, turn.completion)
        if moved is not None:
            text, begins = turn.completion, moved
        try:
            spans = self.dialect_of(conversation).find_parts(conversation, turn.index, text)
        except DataError as error:
            raise RenderError(
                f"loss_weights cannot be laid on the parts of the answer: {error.message}",
                code="parts-unknown",
                field=f"messages[{turn.index}]",
                fix="use --dialect react, or leave out --loss_weights",
            ) from error
        return weigh_tokens(begins, spans, self.weights)

    def examine(self, conversation: Conversation) -> tuple[list[Turn], list[Loss]]:
        """Return every turn as text, and everything that is lost of the conversation, allowed or not.

        Raises:
            RenderError, DataError: when a turn cannot be written at all.
        """
        dialect = self.dialect_of(conversation)
        turns = write_turns(dialect, conversation)
        return turns, find_losses(conversation, turns, dialect, self.renderer.profile.stops)

    def allows(self, loss: Loss) -> bool:
        """Return whether a loss does not stop a row."""
        return loss.code in self._allowed


def merge_turns(turns: Sequence[EncodedTurn], source: Source) -> TokenTree:
    """Return the token tree of a row's turns.

    Raises:
        RenderError: code `nothing-trained` when no turn has a weight.
    """
    if not any(turn.is_trained() for turn in turns):
        raise _nothing_trained(weighed=any(turn.weight > 0 and len(turn.ids) > turn.start for turn in turns))
    sequences = [TrainingSequence(ids=turn.ids, start=turn.start, weights=turn.token_weights()) for turn in turns]
    return build_tree(sequences, source)


def _nothing_trained(*, weighed: bool) -> RenderError:
    why = "all parts it has are weighed 0" if weighed else "it has no assistant message with a weight above 0"
    return RenderError(
        f"no token of this row is trained: {why}",
        code="nothing-trained",
        fix=f"remove the row, or {'change --loss_weights' if weighed else 'give an assistant message a weight'}",
    )
