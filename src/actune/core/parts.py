"""Parts of what an agent writes, and the loss weight of each: the names that `--loss_weights` takes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from actune.core.errors import ConfigError

Part = Literal["thought", "action", "action_input", "final_answer", "stop"]
"""`thought`: what comes before a call or an answer; `action`: the tool's name; `action_input`: its arguments;
`final_answer`: text without a call; `stop`: what ends the output (the stop word or token)."""

PARTS: tuple[Part, ...] = get_args(Part)
# Scales all parts of every answer.
ASSISTANT = "assistant"
_UNWRITTEN = frozenset({"system", "user", "human", "tool", "tools", "observation", "function", "tool_response"})
_FIX = "for example --loss_weights thought=0.5 action=2 action_input=2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` to `end` of an output, all of one part."""

    start: int
    end: int
    part: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class PartWeights:
    """The loss weight of every part, 0 or more; it multiplies the weight of the message."""

    thought: float = 1.0
    action: float = 1.0
    action_input: float = 1.0
    final_answer: float = 1.0
    stop: float = 1.0

    def of(self, part: Part) -> float:
        """Return the weight of one part."""
        return float(getattr(self, part))

    @property
    def uniform(self) -> float | None:
        """The one weight that all parts have, None where they differ."""
        values = {self.of(part) for part in PARTS}
        return values.pop() if len(values) == 1 else None


def read_weights(pairs: Iterable[str]) -> PartWeights:
    """Return the weights written as NAME=VALUE: the name of a part, or `assistant`, which scales all parts.

    Parts that are not named have weight 1.

    Raises:
        ConfigError: for a text that is no such pair, a name that is no part or there twice, a value that is no finite
            number of 0 or more, and where no part has a weight above 0.
    """
    given: dict[str, float] = {}
    for pair in pairs:
        name, sign, text = (word.strip() for word in pair.partition("="))
        if not sign:
            raise ConfigError(f"--loss_weights {pair}: that is not NAME=VALUE", fix=_FIX)
        name = name.replace("-", "_")
        if name not in (*PARTS, ASSISTANT):
            raise ConfigError(f"--loss_weights {pair}: {_explain_unknown(name)}", fix=_FIX)
        if name in given:
            raise ConfigError(f"--loss_weights {pair}: {name} is given twice", fix="give it once")
        given[name] = _read_weight(pair, text)
    scale = given.pop(ASSISTANT, 1.0)
    values = {part: scale * given.get(part, 1.0) for part in PARTS}
    if not any(values.values()):
        raise ConfigError("--loss_weights: every part has weight 0, so nothing would be trained", fix=_FIX)
    return PartWeights(**values)


def _read_weight(pair: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"--loss_weights {pair}: a weight is a finite number of 0 or more, not {text!r}", fix=_FIX)
    return value


def _explain_unknown(name: str) -> str:
    if name.lower() in _UNWRITTEN:
        return f"the agent never writes {name!r} texts, it reads them, so no loss lies on them"
    known = [*PARTS, ASSISTANT]
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    meant = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
    return f"no such part{meant}"
