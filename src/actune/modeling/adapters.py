"""LoRA adapters that peft loads: attach, save, merge.

Tied embeddings: peft keeps the delta of the input embedding on the input side, where it belongs; the LM head goes on
reading the plain shared matrix. A merge that writes the delta into the shared matrix would change the head as well, so
`merge_adapter` gives the head its own copy first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Embedding as LoraEmbedding
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from actune.core.errors import ModelError
from actune.core.files import atomic_folder
from actune.modeling.quantize import quantization_of, write_quantization
from actune.modeling.tokenizer_check import check_same_tokenizer

_NAME = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is other than in plain LoRA.

    `use_rslora`: scaled by alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732). `use_dora`: a trained length
    for each row of a weight, and low-rank changes of its direction (arXiv:2402.09353). `tokens`: ids whose rows of
    embedding and head are trained whole, in fp32; these two carry no adapter then.
    """

    use_rslora: bool = False
    use_dora: bool = False
    tokens: tuple[int, ...] = ()


PLAIN = Variant()


def attach_adapter(
    model: PreTrainedModel,
    *,
    modules: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    variant: Variant = PLAIN,
) -> PeftModel:
    """Put fresh LoRA adapters on the named modules; base weights are frozen, adapter weights are fp32 and seeded.

    Raises:
        ModelError: rows of tokens cannot be trained: the model has none for a token, or its head has a bias; or peft
            refuses adapters on these modules.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it; fractions are fine
        lora_dropout=dropout,
        target_modules=list(modules),
        bias="none",
        use_rslora=variant.use_rslora,
        use_dora=variant.use_dora,
        trainable_token_indices=_place_tokens(model, variant.tokens),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        # What is handled here (merging with tied embeddings, the layout of Conv1D weights), or peft's own business.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        try:
            adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
        except ValueError as error:  # experts kept in one tensor with dropout, layers that a kernel reads by themselves
            raise ModelError(
                f"peft refuses these adapters: {error}",
                fix="name other --lora_target_modules (DEFAULT: query, key and value), or set --lora_dropout_p 0",
            ) from error
    assert isinstance(adapted, PeftModel)
    return adapted


def _place_tokens(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """Return the matrices whose rows are trained, by name; a head that shares the embedding's follows by itself."""
    if not tokens:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = int(embedding.weight.shape[0])  # type: ignore[union-attr,arg-type,index]
    if max(tokens) >= rows:
        raise ModelError(
            f"token {max(tokens)} has no row in the embedding, which has {rows}",
            fix="resize the model's embedding (resize_token_embeddings of transformers) and save it",
        )
    if getattr(head, "bias", None) is not None:
        raise ModelError(
            "rows of tokens cannot be trained: the head of this model has a bias, which peft would leave out",
            fix="leave out trainable_tokens",
        )
    tied = head is None or head.weight is embedding.weight
    ends = (embedding,) if tied else (embedding, head)
    return {name: list(tokens) for name, module in model.named_modules() if module in ends}


def load_adapter(model: PreTrainedModel, adapter: Path, *, base: Path) -> PeftModel:
    """Put the saved adapter of a folder on a model, in evaluation mode; `base` names the model in messages.

    Raises:
        ModelError: the folder holds no LoRA adapter in safetensors, or it does not fit the model or its tokenizer.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # peft would look on a hub, or read a pickle
        if not (adapter / name).is_file():
            raise ModelError(f"no adapter in {adapter}: {name} is missing", fix="give the folder that holds both files")
    check_same_tokenizer(adapter, base)
    try:
        with quiet_peft():
            adapted = PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, OSError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"the adapter in {adapter} does not load on {base}: {error}") from error
    return adapted.eval()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence two warnings that nobody can act on: tied embeddings, which `merge_adapter` unties, and a renamed method."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def unwrap(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a peft model, or the model itself."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under the names of its file, never the base embedding; contiguous, on the CPU."""
    state = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write the two files that peft loads into an existing folder; the same adapter gives the same bytes.

    A third says how the base was quantised, where it was.
    """
    save_file(adapter_tensors(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = dict(model.peft_config[_NAME].to_dict(), inference_mode=True)
    # A set has another order in every process.
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    if (quantization := quantization_of(unwrap(model))) is not None:
        write_quantization(folder, quantization)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Save the adapter so that `peft.PeftModel.from_pretrained` loads it; the folder appears whole or not at all."""
    with atomic_folder(folder) as partial:
        write_adapter(model, partial)


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Write the adapter (LoRA, rsLoRA or DoRA) into the weights and return the plain model; `model` itself is used up.

    Sums are formed in fp32 and stored in the dtype of the base weights. Where embedding and head share a matrix and
    either carries an adapter, the result is untied: `tie_word_embeddings` is False and the head has its own weight.

    Raises:
        ModelError: a part of the adapter is no plain LoRA on a linear layer or embedding.
    """
    inner = unwrap(model)
    layers: dict[str, Any] = {
        name: module for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer)
    }
    wrappers = {name: module for name, module in inner.named_modules() if isinstance(module, TrainableTokensWrapper)}
    _check_tokens(inner)
    layers = {name: layer for name, layer in layers.items() if not isinstance(layer, TrainableTokensLayer)}
    for name, layer in layers.items():
        _check_plain(name, layer)
    _untie(inner)
    with torch.no_grad():
        for name, wrapper in wrappers.items():
            _merge_tokens(inner, name, wrapper)
        for name, layer in layers.items():
            base: Any = layer.get_base_layer()
            base.weight.data = _merge_weight(layer, base.weight.data.float()).to(base.weight.dtype)
            base.requires_grad_(True)
            parent, _, leaf = name.rpartition(".")
            setattr(inner.get_submodule(parent), leaf, base)
    if hasattr(inner, "peft_config"):
        delattr(inner, "peft_config")
    return inner.requires_grad_(True).eval()


def _check_plain(name: str, layer: BaseTunerLayer) -> None:
    plain = isinstance(layer, (LoraLinear, LoraEmbedding)) and _NAME in layer.scaling
    if plain and isinstance(layer, LoraLinear):
        plain = not any(layer.lora_bias.values())
    variant = getattr(layer, "lora_variant", {}).get(_NAME)
    if not plain or not (variant is None or isinstance(variant, DoraLinearVariant)):
        kind = type(layer if variant is None else variant)
        raise ModelError(
            f"{name} carries a {kind.__module__}.{kind.__name__} that is no plain LoRA and no DoRA; it cannot be merged",
            fix="merge it with the tool that made it",
        )


def _check_tokens(model: PreTrainedModel) -> None:
    """Refuse rows that belong to one of embedding and head alone where the two share their matrix."""
    ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = [end.token_adapter if isinstance(end, TrainableTokensWrapper) else None for end in ends]
    plain = [end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends]
    plain = [end if row is None else row.get_base_layer() for end, row in zip(plain, rows, strict=True)]
    if rows == [None, None] or plain[1] is None or plain[0].weight is not plain[1].weight:
        return
    embedding, head = rows
    if embedding is None or head is None or head.trainable_tokens_delta is not embedding.trainable_tokens_delta:
        raise ModelError(
            "embedding and head share a matrix, and the adapter has trained rows of one of the two; it cannot be merged",
            fix="merge it with the tool that made it",
        )


def _merge_tokens(model: PreTrainedModel, name: str, wrapper: TrainableTokensWrapper) -> None:
    """Write the rows into the matrix itself; where head and embedding are one, both writes are the same."""
    layer: Any = wrapper.token_adapter
    base: Any = layer.get_base_layer()
    rows = layer.trainable_tokens_delta[_NAME].data.to(base.weight)
    base.weight.data[torch.tensor(layer.token_indices[_NAME], device=base.weight.device)] = rows
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, base)


def _merge_weight(layer: Any, weight: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - of peft, linear or embedding
    """Return the weight (fp32) that computes what the layer and its adapter do."""
    merged = weight + layer.get_delta_weight(_NAME).float()
    if getattr(layer, "lora_variant", {}).get(_NAME) is None:
        return merged
    # One length for each output: of a linear layer a row of its weight, of an embedding a column, of Conv1D likewise.
    across = 1 if isinstance(layer, LoraLinear) and not layer.fan_in_fan_out else 0
    lengths = layer.lora_magnitude_vector[_NAME].weight.float().unsqueeze(across)
    return merged * (lengths / torch.linalg.vector_norm(merged, dim=across, keepdim=True))


def _untie(model: PreTrainedModel) -> None:
    """Give the head its own weight where it shares the embedding's and one of the two carries an adapter."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = any(isinstance(module, BaseTunerLayer) for module in ends)
    plain: list[Any] = [module.get_base_layer() if isinstance(module, BaseTunerLayer) else module for module in ends]
    embedding, head = plain
    if not adapted or head is None or head.weight is not embedding.weight:
        return
    weight: torch.Tensor = embedding.weight
    head.weight = nn.Parameter(weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    # Saving drops the weights that this names as copies.
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module, "all_tied_weights_keys"):
            module.all_tied_weights_keys = {}
