"""Which weights full fine-tuning leaves as they are: settings `freeze_parameters`, `trainable_parameters`, `train_routers`.

A frozen weight gets no gradient and no optimiser state.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from actune.config.settings import TuningSettings
from actune.core.errors import ConfigError
from actune.modeling.targets import find_routers, summarise

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Names of the weights that are not trained; `routers` are those of them that choose experts, unasked."""

    names: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()


def freeze(model: PreTrainedModel, tuning: TuningSettings) -> Frozen:
    """Set which weights of a model are trained; returns what is not.

    A pattern is a whole name, its first parts (`model.layers.0`), or a glob of either (`model.layers.*.mlp`). All weights
    but those of `freeze_parameters` are trained; with `trainable_parameters` alone only those, with both those as well.
    Routers of mixtures of experts are trained with `train_routers` only.

    Raises:
        ConfigError: a pattern matches no weight, one of two names of a shared matrix alone, or nothing is left to train.
    """
    names: dict[int, list[str]] = {}
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        names.setdefault(id(weight), []).append(name)
    kept_back = _match(tuning.freeze_parameters, weights, "freeze_parameters")
    asked = _match(tuning.trainable_parameters, weights, "trainable_parameters")
    alone = bool(asked) and not kept_back
    trained = {name for name in weights if name in asked or not (alone or name in kept_back)}
    for group in names.values():
        if len({name in trained for name in group}) > 1:
            raise ConfigError(
                f"{' and '.join(group)} are one matrix, and only one of the names is frozen",
                fix="name both of them, or neither",
            )
    routers = _find_router_weights(model, weights) if not tuning.train_routers else set()
    if asked and asked <= routers:
        raise ConfigError(
            f"trainable_parameters names routers alone ({_show(sorted(asked))})", fix="set --train_routers true as well"
        )
    unasked = tuple(sorted(routers & trained))
    trained -= routers
    if not trained:
        raise ConfigError(
            "freeze_parameters and trainable_parameters leave no weight to train", fix="freeze fewer weights"
        )
    for name, weight in weights.items():
        weight.requires_grad_(name in trained)
    return Frozen(names=tuple(sorted(set(weights) - trained)), routers=unasked)


def _match(patterns: Sequence[str], weights: Iterable[str], setting: str) -> set[str]:
    known = list(weights)
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in known if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not matched:
            raise _unmatched(pattern, known, setting)
        found |= matched
    return found


def _unmatched(pattern: str, known: Sequence[str], setting: str) -> ConfigError:
    # Leading parts of names are what a pattern usually is; numbers of layers are no different names.
    starts = dict.fromkeys(name.rsplit(".", cut)[0] for cut in (0, 1, 2) for name in known)
    close = difflib.get_close_matches(pattern, [*starts, *{start.rpartition(".")[2] for start in starts}], n=3)
    inside = [name for name in known if pattern.strip("*.") and pattern.strip("*.") in name]
    if inside:
        hint = f"did you mean *{pattern.strip('*.')}*? It matches {_show(inside)}. "
    elif close:
        hint = f"did you mean {' or '.join(close)}? "
    else:
        hint = ""
    return ConfigError(
        f"{setting}: {pattern!r} matches no weight",
        fix=f"{hint}This model has {_show(list(known))}",
    )


def _show(names: Sequence[str]) -> str:
    folded = summarise(names).split(", ")
    return ", ".join(folded[:_SHOWN]) + (", ..." if len(folded) > _SHOWN else "")


def _find_router_weights(model: nn.Module, weights: Iterable[str]) -> set[str]:
    routers = tuple(f"{name}." for name in find_routers(model))
    return {name for name in weights if routers and name.startswith(routers)}
