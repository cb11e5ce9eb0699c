"""Items -> scores: prompts written and tokenised as in training, outputs parsed as the loop parses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actune.agents.engines.engine import Engine, Generation, Request
from actune.core.errors import DataError, ModelError, RenderError
from actune.core.types import Message
from actune.evals.items import Score
from actune.evals.metrics import rescore
from actune.evals.tasks import Item
from actune.formats.text import is_plain_text
from actune.render.conformance import find_prompt_losses
from actune.render.dialects import Dialect, Turn
from actune.render.encoder import Encoder
from actune.render.native import learn_format

# Items handed to the engine at once: enough for it to batch, few enough to show progress.
CHUNK = 64
CUT = "output-cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """An item in ids: what to generate, or the pairs (prompt, continuation) to score with their weights."""

    item: Item
    dialect: Dialect
    request: Request | None = None
    pairs: tuple[tuple[list[int], list[int]], ...] = ()
    weights: tuple[float, ...] = ()


def evaluate(
    items: Sequence[Item],
    *,
    engine: Engine,
    encoder: Encoder,
    max_tokens: int = 512,
    advance: Callable[[], None] = lambda: None,
) -> list[Score]:
    """Return the scores of all items, in their order and in the order of their measures; greedy decoding.

    Everything is rendered before anything is generated, so an item that cannot be shown to the model stops at once.
    `advance` is called once an item.

    Raises:
        RenderError, DataError: an item cannot be rendered; the message names it.
        ModelError: an item is longer than the model's context, or has no finite likelihood.
    """
    asked = _Writer(encoder, max_tokens, getattr(engine, "context", None)).write_all(items)
    scores: list[Score] = []
    for start in range(0, len(asked), CHUNK):
        chunk = asked[start : start + CHUNK]
        outputs = _answer(chunk, engine)
        for one, output in zip(chunk, outputs, strict=True):
            scores.extend(_score(one.item, output))
            advance()
    return scores


def check_items(items: Sequence[Item], *, encoder: Encoder, max_tokens: int = 512, context: int | None = None) -> None:
    """Write all items as `evaluate` will, without a model: what cannot be measured is found before the weights load.

    Raises:
        RenderError, DataError, ModelError: as `evaluate`.
    """
    _Writer(encoder, max_tokens, context).write_all(items)


def read_generation(generation: Generation, dialect: Dialect, item: Item) -> dict[str, Any]:
    """Return an output as it is stored: text, calls with raw arguments, and answer or error where they apply.

    An output cut at a limit is an error: nobody knows what it would have become. What it has of an answer is kept.
    """
    cut = generation.reason in ("length", "time")
    output: dict[str, Any] = {"text": generation.text, "calls": []}
    try:
        message = dialect.parse(generation.text, item.conversation.tools)
    except DataError as error:
        return output | {"error": CUT if cut else error.code}
    if not message.tool_calls:
        output["answer"] = message.content
    elif not cut:
        output["calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return output | {"error": CUT} if cut else output


class _Writer:
    """Writes items for one model."""

    def __init__(self, encoder: Encoder, max_tokens: int, context: int | None) -> None:
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._context = context
        self._unread: str | None = None  # why native calls cannot be read back; learnt once, when one is wanted
        self._learnt = False

    def write_all(self, items: Sequence[Item]) -> list[_Asked]:
        return [self._write(item) for item in items]

    def _write(self, item: Item) -> _Asked:
        try:
            if item.kind == "generate":
                return self._write_generated(item)
            return self._write_likelihood(item) if item.kind == "likelihood" else self._write_choices(item)
        except (RenderError, DataError) as error:
            message = f"{item.task}, item {item.id}: {error.message}"
            raise type(error)(message, code=error.code, field=error.field, fix=error.fix) from error

    def _write_generated(self, item: Item) -> _Asked:
        dialect = self._encoder.dialect_of(item.conversation)
        text = dialect.prompt(item.conversation, item.index)
        self._check_prompt(item, dialect, text)
        prompt = self._encoder.renderer.tokenizer.encode(text)
        room = self._max_tokens
        if self._context is not None:
            room = min(room, self._context - len(prompt))
        if room <= 0:
            raise self._too_long(item, len(prompt))
        request = Request(prompt=prompt, stops=dialect.stops(), max_tokens=room)
        return _Asked(item=item, dialect=dialect, request=request)

    def _check_prompt(self, item: Item, dialect: Dialect, prompt: str) -> None:
        """Refuse a prompt that lacks something of the row, and a format in which the gold could never be met."""
        row = item.conversation
        # Only the prompt is judged here; an empty answer takes the place of the gold.
        blank = Message(role="assistant")
        asked = replace(row, messages=(*row.messages[: item.index], blank))
        turn = Turn(index=item.index, prompt=prompt, completion="")
        found = find_prompt_losses(asked, [turn], dialect)
        loss = next((loss for loss in found if not self._encoder.allows(loss)), None)
        if loss is not None:
            raise RenderError(loss.message, code=loss.code, field=loss.field, fix=loss.fix)
        if dialect.name == "chat" and row.messages[item.index].tool_calls:
            if not self._learnt:
                self._unread, self._learnt = learn_format(self._encoder.renderer).reason, True
            if self._unread is not None:
                raise RenderError(
                    f"calls of this chat template cannot be read back, so no call can be scored: {self._unread}",
                    code="calls-unread",
                    field=f"messages[{item.index}].tool_calls",
                    fix="use --dialect react, or give another template with --chat_template",
                )

    def _write_likelihood(self, item: Item) -> _Asked:
        if is_plain_text(item.conversation):
            return self._write_text(item)
        pairs, weights = [], []
        for turn in self._encoder.encode_turns(item.conversation):
            if turn.weight > 0 and len(turn.ids) > turn.start:
                pairs.append((list(turn.ids[: turn.start]), list(turn.ids[turn.start :])))
                weights.append(turn.weight)
        if not pairs:
            raise RenderError(
                "no token of this row is trained, so there is no likelihood to measure",
                code="nothing-trained",
                fix="remove the row, or give an assistant message a weight",
            )
        return self._scored(item, pairs, weights)

    def _write_text(self, item: Item) -> _Asked:
        """Write a plain text without a chat around it: what is measured is all of it after its first token.

        Models whose prompts begin with a token of their own (`<s>`) are given that first.
        """
        renderer = self._encoder.renderer
        ids = renderer.tokenizer.encode(renderer.mark(item.conversation.messages[0].content))
        first = renderer.tokenizer.token_id(renderer.tokenizer.named_tokens.get("bos_token", ""))
        opening = renderer.tokenizer.encode(renderer.render([Message(role="user", content="a")], prompt=True))[:1]
        prompt, rest = (opening, ids) if opening == [first] else (ids[:1], ids[1:])
        if not rest:
            raise RenderError(
                "the text is a single token, so there is no likelihood to measure",
                code="nothing-trained",
                fix="remove the row",
            )
        return self._scored(item, [(prompt, rest)], [1.0])

    def _write_choices(self, item: Item) -> _Asked:
        pairs = []
        for choice in item.choices:
            message = Message(role="assistant", content=choice)
            messages = (*item.conversation.messages[: item.index], message)
            turn = self._encoder.encode_turns(replace(item.conversation, messages=messages))[-1]
            pairs.append((list(turn.ids[: turn.start]), list(turn.ids[turn.start :])))
        return self._scored(item, pairs, [1.0] * len(pairs))

    def _scored(self, item: Item, pairs: list[tuple[list[int], list[int]]], weights: list[float]) -> _Asked:
        longest = max(len(prompt) + len(continuation) for prompt, continuation in pairs)
        if self._context is not None and longest > self._context:
            raise self._too_long(item, longest)
        dialect = self._encoder.dialect_of(item.conversation)
        return _Asked(item=item, dialect=dialect, pairs=tuple(pairs), weights=tuple(weights))

    def _too_long(self, item: Item, tokens: int) -> ModelError:
        return ModelError(
            f"{item.task}, item {item.id} ({item.conversation.source}): {tokens} tokens do not fit into the model's "
            f"context of {self._context}",
            fix="take the row out of the task's data, or use a model with a longer context",
        )


def _answer(chunk: Sequence[_Asked], engine: Engine) -> list[dict[str, Any]]:
    """Return the stored output of each item."""
    requests = [one.request for one in chunk if one.request is not None]
    generations = iter(engine.generate(requests) if requests else [])
    pairs = [pair for one in chunk for pair in one.pairs]
    likelihoods = iter(engine.score(pairs) if pairs else [])
    outputs = []
    for one in chunk:
        if one.request is not None:
            outputs.append(read_generation(next(generations), one.dialect, one.item))
        else:
            outputs.append(_sum_up(one, [next(likelihoods) for _ in one.pairs]))
    return outputs


def _sum_up(one: _Asked, likelihoods: Sequence[Sequence[float]]) -> dict[str, Any]:
    sums = [math.fsum(values) for values in likelihoods]
    if not all(math.isfinite(total) for total in sums):
        raise ModelError(
            f"{one.item.task}, item {one.item.id} ({one.item.conversation.source}): the model gives no finite likelihood",
            fix="measure with --dtype fp32; if it stays, the weights are damaged",
        )
    if one.item.kind == "choice":
        return {"log_likelihoods": sums, "tokens": [len(values) for values in likelihoods]}
    total = math.fsum(weight * value for weight, value in zip(one.weights, sums, strict=True))
    tokens = math.fsum(weight * len(values) for weight, values in zip(one.weights, likelihoods, strict=True))
    return {"log_likelihood": total, "tokens": int(tokens) if tokens == int(tokens) else tokens}


def _score(item: Item, output: dict[str, Any]) -> list[Score]:
    return [
        Score(
            id=item.id,
            task=item.task,
            axis=item.axis,
            split=item.split,
            cluster=item.cluster,
            metric=measure.metric,
            score=rescore(measure.metric, output, measure.gold),
            output=output,
            gold=dict(measure.gold),
        )
        for measure in item.measures
    ]
