"""Every metric by name: a pure function of stored output and gold, so that any score can be made again from its line."""

from __future__ import annotations

from collections.abc import Callable

from actune.config.suggest import suggest
from actune.core.errors import ConfigError
from actune.evals import agent_metrics, answer_metrics
from actune.evals.outputs import Output, read_output

_GENERATED: dict[str, Callable[[Output, object], float]] = {
    "strict_call": agent_metrics.strict_call,
    "decision": agent_metrics.decision,
    "no_false_call": agent_metrics.no_false_call,
    "tool_name": agent_metrics.tool_name,
    "no_hallucinated_tool": agent_metrics.no_hallucinated_tool,
    "key_f1": agent_metrics.key_f1,
    "schema_valid": agent_metrics.schema_valid,
    "no_invented_observation": agent_metrics.no_invented_observation,
    "format_valid": agent_metrics.format_valid,
    "answer_rouge_l": answer_metrics.answer_rouge_l,
    "identity_hit": answer_metrics.identity_hit,
    "name_hit": answer_metrics.name_hit,
    "author_hit": answer_metrics.author_hit,
    "no_old_identity": answer_metrics.no_old_identity,
    "no_over_trigger": answer_metrics.no_over_trigger,
}
_SCORED: dict[str, Callable[[object, object], float]] = {
    "general_accuracy": answer_metrics.general_accuracy,
    "general_accuracy_norm": answer_metrics.general_accuracy_norm,
    "general_nll": answer_metrics.general_nll,
}
METRICS: tuple[str, ...] = (*_GENERATED, *_SCORED)

# Metrics that need the gold to be calls, and those that need it to be an answer; the others take both.
CALL_METRICS = ("strict_call", "decision", "tool_name", "no_hallucinated_tool", "key_f1", "schema_valid")
ANSWER_METRICS = ("strict_call", "decision", "no_false_call", "answer_rouge_l")
EVERY_STEP = ("format_valid", "no_invented_observation")
ZERO_ONE = frozenset(METRICS) - {"tool_name", "key_f1", "answer_rouge_l", "general_nll"}
"""Metrics whose scores are 0 or 1; `tool_name` is a share where there are several calls."""


def rescore(metric: str, output: object, gold: object) -> float:
    """Return the score of an output (both as stored in the items file).

    Never raises for what a model wrote.

    Raises:
        ConfigError: there is no such metric.
        DataError: code `gold-unreadable`; or `output-unreadable` for a likelihood that is none.
    """
    if metric in _GENERATED:
        return _GENERATED[metric](read_output(output), gold)
    if metric in _SCORED:
        return _SCORED[metric](output, gold)
    near = suggest(metric, METRICS)
    raise ConfigError(
        f"there is no metric {metric!r}", fix=f"did you mean {near}?" if near else f"metrics: {', '.join(METRICS)}"
    )
