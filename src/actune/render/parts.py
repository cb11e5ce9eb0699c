"""Which part of an answer each character and each token of a completion is: thought, action, its input, answer, stop.

Parts are what the agent loop reads in the output, found by the same parser: no second opinion about where a call begins.
Marks that a template or the grammar writes (`Action:`, `<tool_call>`, the end of a reasoning block) belong to the part
that they lead to; what closes a call, or the last part, to the part that it closes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actune.core.parts import Part, PartWeights, Span
from actune.render.native import Reading


def split_reading(text: str, reading: Reading) -> list[Span]:
    """Return the parts of an output in a template's own format, without its stop: in order, without gaps.

    Text beside a call is a thought, as in ReAct; alone it is the final answer, as is an output of marks alone.
    """
    if not text:
        return []
    acts = bool(reading.calls)
    places: list[tuple[int, int, Part]] = [
        (*reading.reasoning, "thought"),
        (*reading.text, "thought" if acts else "final_answer"),
    ]
    for call in reading.calls:
        pieces: list[tuple[int, int, Part]] = [(*call.name, "action"), (*call.arguments, "action_input")]
        *others, (start, _, part) = sorted(piece for piece in pieces if piece[0] < piece[1])
        places += [*others, (start, call.end, part)]
    spans: list[Span] = []
    for _, end, part in sorted(place for place in places if place[0] < place[1]):
        spans.append(Span(start=spans[-1].end if spans else 0, end=end, part=part))
    last: Part = spans.pop().part if spans else "final_answer"
    return _merge([*spans, Span(start=spans[-1].end if spans else 0, end=len(text), part=last)])


def add_stop(spans: Sequence[Span], size: int) -> list[Span]:
    """Return the parts of a completion of `size` characters: what is beyond the others is its stop."""
    end = spans[-1].end if spans else 0
    return [*spans, Span(start=end, end=size, part="stop")] if size > end else list(spans)


def weigh_tokens(begins: Sequence[int], spans: Sequence[Span], weights: PartWeights) -> NDArray[np.float32]:
    """Return the weight of each token: that of the part in which its first character lies.

    Args:
        begins: Where each token begins, in characters of the completion.
        spans: The parts of the completion, in order and without gaps.
        weights: The weight of every part.
    """
    if not spans:  # tokens without a text
        spans = [Span(start=0, end=0, part="stop")]
    starts = np.array([span.start for span in spans])
    values = np.array([weights.of(span.part) for span in spans], dtype=np.float32)
    return values[np.searchsorted(starts, np.asarray(begins), side="right") - 1]


def _merge(spans: Sequence[Span]) -> list[Span]:
    """Join neighbours of one part."""
    merged: list[Span] = []
    for span in spans:
        if merged and merged[-1].part == span.part:
            span = Span(start=merged.pop().start, end=span.end, part=span.part)
        merged.append(span)
    return merged
