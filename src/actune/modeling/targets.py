"""Which modules carry adapters: setting `lora_target_modules` to an explicit, sorted list of module names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from actune.core.errors import ConfigError

# Query, key and value projections, one by one or fused, under the names that transformers' models use.
_ATTENTION_INPUTS = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "query",
        "key",
        "value",
        "q_lin",
        "k_lin",
        "v_lin",
        "qkv_proj",
        "query_key_value",
        "c_attn",
        "Wqkv",
        "wqkv",
        "qkv",
        "W_pack",
        "in_proj_qkv",
    ]
)
# Choosing experts is not what is fine-tuned: adapters on routers upset the balance that pre-training reached.
_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """`modules`: full names, sorted; `names`: the shortest names that peft resolves to exactly these.

    `notices`: what a reader of the setting might wrongly take as included.
    """

    modules: tuple[str, ...]
    names: tuple[str, ...]
    notices: tuple[str, ...] = ()


def resolve_targets(model: PreTrainedModel, names: Sequence[str], *, ends: bool = True) -> Targets:
    """Return the modules that carry adapters.

    `ALL`: every linear layer of the blocks and the input embedding, `ALL+head`: the LM head too, `DEFAULT`: query, key
    and value projections, else names; a name stands for each module whose dotted name is it or ends in it. Routers of
    mixtures of experts are taken only by name. Without `ends`, of which rows are trained then, `ALL` leaves the embedding
    out.

    Raises:
        ConfigError: a name, or the whole setting, matches no module that can carry an adapter, or names embedding or
            head without `ends`.
    """
    modules = dict(model.named_modules())
    candidates = {name: module for name, module in modules.items() if _can_adapt(module)}
    chosen: set[str] = set()
    for name in names:
        found = _match(model, modules, candidates, name)
        if not found:
            raise _unmatched(name, modules, candidates)
        chosen |= found
    if not ends:
        chosen = _leave_out_ends(model, modules, chosen, names)
    if not chosen:
        raise ConfigError("no LoRA target is named", fix="set lora_target_modules to ALL, DEFAULT or names")
    fused = _fused_experts(model) if {"ALL", "ALL+head"} & set(names) else []
    notices = (
        (f"{len(fused)} expert matrices are kept in one tensor each ({fused[0]} ...) and carry no adapter",)
        if fused
        else ()
    )
    return Targets(modules=tuple(sorted(chosen)), names=_shorten(chosen, modules), notices=notices)


def summarise(names: Iterable[str]) -> str:
    """Return names with layer numbers folded: `model.layers.*.self_attn.q_proj (28)`."""
    folded = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in folded.items())


def _shorten(chosen: set[str], modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """Return last parts of names (`q_proj`), as adapter files usually have them, where they mean the same modules."""
    leaves = {name.rpartition(".")[2] for name in chosen}
    meant = {name for name in modules if name.rpartition(".")[2] in leaves}
    return tuple(sorted(leaves if meant == chosen else chosen))


def _match(
    model: PreTrainedModel, modules: dict[str, nn.Module], candidates: dict[str, nn.Module], name: str
) -> set[str]:
    routers = find_routers(model)
    blocks = {key for key in candidates if _in_block(key) and not _is_within(key, routers)}
    if name == "DEFAULT":
        return {key for key in blocks if key.rpartition(".")[2] in _ATTENTION_INPUTS}
    if name not in ("ALL", "ALL+head"):
        return {key for key in candidates if key == name or key.endswith(f".{name}")}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    chosen = {key for key in blocks if not isinstance(modules[key], nn.Embedding) and modules[key] is not head}
    chosen |= {key for key, module in candidates.items() if module is embedding}
    if name == "ALL+head":
        chosen |= {key for key, module in candidates.items() if module is head}
    return chosen


def _leave_out_ends(
    model: PreTrainedModel, modules: dict[str, nn.Module], chosen: set[str], names: Sequence[str]
) -> set[str]:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    left_out = {name for name in chosen if modules[name] in ends}
    asked = [name for name in names if any(key == name or key.endswith(f".{name}") for key in left_out)]
    if asked or "ALL+head" in names:
        raise ConfigError(
            f"lora_target_modules has {(asked or ['ALL+head'])[0]}, of which trainable_tokens trains whole rows; "
            "one matrix cannot have both",
            fix="leave it out of lora_target_modules, or leave out trainable_tokens",
        )
    return chosen - left_out


def _can_adapt(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding, Conv1D))


def _in_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def find_routers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that choose experts; what is trained of them may lie inside of them."""
    modules = dict(model.named_modules())
    places = ((name, *name.rpartition(".")[::2]) for name in modules)
    return tuple(name for name, parent, leaf in places if leaf in _ROUTERS and hasattr(modules[parent], "experts"))


def _is_within(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _fused_experts(model: PreTrainedModel) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.ndim == 3 and ".experts." in name]


def _unmatched(name: str, modules: dict[str, nn.Module], candidates: dict[str, nn.Module]) -> ConfigError:
    leaves = sorted({key.rpartition(".")[2] for key in candidates})
    others = [key for key in modules if key and (key == name or key.endswith(f".{name}"))]
    if others:
        what = f"{others[0]} is a {type(modules[others[0]]).__name__}, which cannot carry an adapter"
    elif name == "DEFAULT":
        what = "no query, key or value projection is known for this architecture"
    else:
        what = "no module has that name"
    close = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return ConfigError(
        f"LoRA target {name!r} matches nothing: {what}", fix=f"{hint}This model has {', '.join(leaves)}; or use ALL"
    )
