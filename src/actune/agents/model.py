"""What the loop asks of a model: the next message of a conversation, whoever writes its prompt.

`RenderedModel` (`rendered.py`) writes prompts as training does and asks an engine; `ChatModel` (`engines/remote_chat.py`)
leaves them to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actune.agents.engines.engine import Sampling
from actune.agents.trace import EndReason
from actune.core.types import Conversation, Message, Style

# Told of text as it becomes certain: the place of the ask, and a piece.
Hear = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The next assistant message of a conversation that is asked for.

    `start` is where the history begins that is still shown, after the system text; earlier messages were dropped.
    `deadline` is a value of `time.monotonic()`.
    """

    conversation: Conversation
    start: int
    max_tokens: int
    sampling: Sampling
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An output, and the message it is read as.

    `message` is None where it is none; `ended` and `error` say why the run ends with it then. `start` is where the
    history that was shown begins. `repaired` are the places of calls whose arguments were mended.
    """

    text: str
    message: Message | None = None
    tokens: int
    seconds: float
    start: int
    ended: EndReason | None = None
    error: str | None = None
    repaired: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nothing was generated: the conversation cannot be shown (any more)."""

    ended: EndReason
    error: str


class Model(Protocol):
    """Anything that continues conversations.

    `name` is what traces call it, `style` the dialect of its conversations with tools.
    """

    name: str | None
    style: Style

    def style_of(self, conversation: Conversation) -> Style:
        """Return the dialect that a conversation is written in."""
        ...

    def check(self, conversation: Conversation) -> None:
        """Check that a conversation can be shown to the model.

        Raises:
            RenderError, DataError: it cannot.
        """
        ...

    def reply(self, asks: Sequence[Ask], *, on_text: Hear | None = None) -> list[Reply | Refusal]:
        """Return what the model says to each ask, in order.

        `on_text(index, piece)` is called as text becomes certain; the pieces of an ask joined are its text.

        Raises:
            ModelError: the model cannot be used at all (any more).
        """
        ...
