"""What is watched while training: held-out rows of every kind, and by which value the best checkpoint is chosen."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from actune.config.settings import Settings
from actune.core.errors import ConfigError
from actune.core.types import Conversation
from actune.data.choose import Rows
from actune.data.encode import encode_rows
from actune.data.identity import heldout_rows
from actune.data.labels import label_sources
from actune.data.mix import draw
from actune.data.prepare import Prepared
from actune.recipes.comparison import choose_measurable
from actune.recipes.probes import ProbePlan, plan_probe
from actune.render.encoder import Encoder
from actune.render.tree import TokenTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """`held_out`: rows that are not trained on, evaluated beside the validation rows, encoded; `probe`: what is generated."""

    held_out: tuple[TokenTree, ...]
    probe: ProbePlan


def plan_monitor(settings: Settings, rows: Rows, prepared: Prepared, encoder: Encoder) -> Monitor:
    """Choose what is evaluated while training, without weights; nothing of it changes which rows are trained.

    Raises:
        ConfigError: no evaluation will give the value that the best checkpoint is to be chosen by.
    """
    held_out: list[TokenTree] = []
    if settings.output.eval_steps and settings.monitor.eval_rows:
        for part in (_choose_general(settings, rows, encoder), _choose_identity(settings)):
            held_out += encode_rows(
                part, encoder, max_length=settings.data.max_length, truncation="delete", strategy="none"
            ).trees
    probe = plan_probe(settings, rows, encoder)
    probed = [f"probe/{name}" for name in probe.metrics]
    _check_metric(settings, [*list_metrics(prepared.validation, held_out), *probed])
    return Monitor(held_out=tuple(held_out), probe=probe)


def list_metrics(validation: Sequence[TokenTree], held_out: Sequence[TokenTree]) -> list[str]:
    """Return the names of the losses that an evaluation gives."""
    rows = [*validation, *held_out]
    labels = label_sources([tree.source for tree in rows])
    weighted = [bool((tree.target_weights > 0).any()) for tree in rows]
    named = [f"loss/{label}" for label, counts in zip(labels, weighted, strict=True) if counts]
    return [*(["loss"] if any(weighted[: len(validation)]) else []), *dict.fromkeys(named)]


def _choose_general(settings: Settings, rows: Rows, encoder: Encoder) -> Sequence[Conversation]:
    """Return general rows that are not trained on, from the other end of the order that the comparison takes them in."""
    asked = rows.asked
    spare = draw(rows.spare_general, len(rows.spare_general), settings.training.seed, purpose="compare general")
    return choose_measurable(spare[::-1], settings.monitor.eval_rows, asked, encoder, settings)


def _choose_identity(settings: Settings) -> Sequence[Conversation]:
    """Return questions about who the model is that training never asks, where a name is taught."""
    data = settings.data
    if not (data.model_name and data.model_author and data.self_cognition_sample):
        return ()
    found = heldout_rows(names=data.model_name, authors=data.model_author, file=data.self_cognition_file)
    return draw(found, min(settings.monitor.eval_rows, len(found)), settings.training.seed, purpose="evaluate identity")


def _check_metric(settings: Settings, known: Sequence[str]) -> None:
    """Refuse a metric that no evaluation gives, where it was asked for."""
    monitor = settings.monitor
    metric = monitor.metric_for_best_model
    asked = metric != "loss" or monitor.early_stopping_patience or monitor.load_best_model_at_end
    if metric in known or not asked:
        return
    if not known or settings.output.eval_steps == 0:
        raise ConfigError(
            f"no evaluation will give {metric!r} (metric_for_best_model): nothing is evaluated",
            fix="hold rows back with --validation_ratio, and set --eval_steps",
        )
    close = difflib.get_close_matches(metric, known, n=1)
    raise ConfigError(
        f"no evaluation gives {metric!r} (metric_for_best_model); there are: {', '.join(known)}",
        fix=f"did you mean {close[0]}?" if close else "choose one of these",
    )
