"""The probe of a training: first calls on a few held-out agent rows, scored as the comparison scores them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actune.config.settings import Settings
from actune.core.errors import DataError, RenderError
from actune.core.types import Conversation
from actune.data.choose import Rows
from actune.data.mix import draw
from actune.evals.evaluate import check_items, evaluate
from actune.evals.tasks import Item, agent_items, find_gold_fault
from actune.recipes.comparison import choose_measurable, trained_tools
from actune.render.encoder import Encoder

if TYPE_CHECKING:
    from torch import nn

# Outputs generated side by side at most.
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """The items that are probed; `notices` say why there are none."""

    items: tuple[Item, ...]
    notices: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the values that a probe gives."""
        return tuple(dict.fromkeys(measure.metric for item in self.items for measure in item.measures))


def plan_probe(settings: Settings, rows: Rows, encoder: Encoder) -> ProbePlan:
    """Choose the items, the same at every evaluation of a run.

    They are taken from the other end of the order that the comparison takes its rows in, so that with enough held-out
    rows the two share none.
    """
    count, seed = settings.monitor.probe_items, settings.training.seed
    if not count or not settings.output.eval_steps:
        return ProbePlan(items=())
    asked = rows.asked
    spare = draw(rows.spare_agent, len(rows.spare_agent), seed, purpose="compare agent")
    candidates = [row for row in reversed((*rows.validation, *spare)) if row.has_tools]
    chosen = choose_measurable(candidates, count, asked, encoder, settings, suits=_has_gold)
    items = agent_items(chosen, task="probe", seen_tools=trained_tools(rows), steps="first")
    if not items:
        return ProbePlan(items=(), notices=("nothing is probed: no agent row with tools is held out",))
    try:
        check_items(items, encoder=encoder, max_tokens=settings.monitor.probe_tokens)
    except (RenderError, DataError) as error:
        return ProbePlan(items=(), notices=(f"nothing is probed: {error.message}",))
    return ProbePlan(items=tuple(items))


def _has_gold(row: Conversation) -> bool:
    return find_gold_fault(row) is None


def make_probe(plan: ProbePlan, encoder: Encoder, *, max_tokens: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return what measures a model: the mean of each metric over the items that have it."""

    def probe(model: Any) -> Mapping[str, float]:  # noqa: ANN401 - a model of transformers or peft; torch is not imported here
        from actune.agents.engines.local import LocalEngine

        engine = LocalEngine(model, encoder.renderer.tokenizer, batch_size=min(_BATCH, len(plan.items)))
        scores = evaluate(plan.items, engine=engine, encoder=encoder, max_tokens=max_tokens)
        found: dict[str, list[float]] = {name: [] for name in plan.metrics}
        for score in scores:
            found[score.metric].append(score.score)
        return {name: math.fsum(values) / len(values) for name, values in found.items()}

    return probe
