"""Llama-like decoders with LoRA, computed without the model's own forward pass.

A model is taken if its layers are made of the parts that `block.py` computes, and if a trial on it gives the loss and the
gradients of its own forward pass; names of architectures are never looked at. What does not fit goes through the model's
own forward pass (`training/step.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Embedding as LoraEmbedding
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from actune.modeling.adapters import unwrap
from actune.modeling.attention import Layout, attend_packed
from actune.modeling.fused.block import (
    FinishLayer,
    FinishSpec,
    Heads,
    HeadsSpec,
    Norm,
    ProjectHeads,
    normalise,
    reverse_norm,
)
from actune.modeling.fused.projection import Adapter, Projection
from actune.modeling.head import HeadLoss, Targets

_ADAPTER = "default"


class Unsuited(Exception):
    """The model has a part that is not computed here; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer: what comes before attention, attention itself, what comes after."""

    heads: HeadsSpec
    finish: FinishSpec
    scale: float
    window: int | None


class Embed(torch.autograd.Function):
    """ids [T] -> base[ids] + scale x up down[:, ids]; down [r, V] and up [h, r] of a LoRA embedding."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:  # noqa: ANN401, D102
        inner = down.T[ids].to(weight.dtype)
        ctx.save_for_backward(ids, inner, up)
        ctx.shape, ctx.scale, ctx.kind = down.shape, scale, down.dtype
        return torch.addmm(embedding(ids, weight), inner, up.T.to(weight.dtype), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of down and up."""
        ids, inner, up = ctx.saved_tensors
        (gradient,) = gradients
        d_inner = (gradient @ up.to(gradient.dtype)).mul_(ctx.scale)
        d_down = torch.zeros(ctx.shape[1], ctx.shape[0], dtype=ctx.kind, device=gradient.device)
        d_down.index_add_(0, ids, d_inner.to(ctx.kind))
        d_up = (gradient.T @ inner).mul_(ctx.scale).to(ctx.kind)
        return None, None, d_down.T, d_up, None


class Normalise(torch.autograd.Function):
    """RMSNorm of the last dimension with a frozen weight."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, norm: Norm) -> Tensor:  # noqa: ANN401, D102
        out = torch.empty_like(hidden)
        scale = normalise(hidden, norm, out)
        ctx.save_for_backward(hidden, scale)
        ctx.norm = norm
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradient of hidden."""
        hidden, scale = ctx.saved_tensors
        out = torch.empty_like(hidden)
        reverse_norm(gradients[0], hidden, scale, ctx.norm, out)
        return out, None


class Decoder:
    """The pieces of one model, put together; shares all weights with it."""

    def __init__(self, model: nn.Module, windows: dict[int, int | None]) -> None:
        """Take a model apart; `windows` names the sliding window of each layer (see `Layout.windows`).

        Raises:
            Unsuited: it is not made of the parts known here. The model is unchanged then.
        """
        inner = unwrap(model)
        base: Any = getattr(inner, inner.base_model_prefix, None)
        _check_parts(inner, base)
        self._rotary: nn.Module = base.rotary_emb
        self._norm = _read_norm(base.norm)
        plans = [_read_layer(layer) for layer in base.layers]
        _read_embedding(base.embed_tokens)
        _linear(inner.get_output_embeddings())
        # From here on weights are moved; nothing may fail.
        last = len(plans) - 1
        self.layers = [plan.build(windows.get(index), apart=index == last) for index, plan in enumerate(plans)]
        self._head = _project([inner.get_output_embeddings()])
        self._embed = _read_embedding(base.embed_tokens)
        self.recompute = False
        self._projections = [*(one for layer in self.layers for one in _projections(layer)), self._head]

    def loss(
        self, input_ids: Tensor, positions: Tensor, layout: Layout, kept: Tensor, targets: Targets, *, training: bool
    ) -> Tensor:
        """Return the sum of weight x negative log-likelihood of a pack, fp32.

        `input_ids`, `positions` [T] of token trees laid out by `layout`; `kept` [U] the positions with targets, sorted.
        The last layer and the head are computed at those alone.
        """
        for projection in self._projections:
            projection.refresh()
        hidden = self._embed_ids(input_ids)
        cos, sin = self._rotate(hidden, positions)
        for index, layer in enumerate(self.layers):
            asked = kept if index == len(self.layers) - 1 else None
            if self.recompute and hidden.requires_grad:
                hidden = checkpoint(_run_layer, layer, hidden, cos, sin, layout, asked, training, use_reentrant=False)
            else:
                hidden = _run_layer(layer, hidden, cos, sin, layout, asked, training)
        normal = Normalise.apply(hidden, self._norm)
        return HeadLoss.apply(normal, self._head, targets, training, *self._head.parameters)

    def _embed_ids(self, ids: Tensor) -> Tensor:
        weight, down, up, scale = self._embed
        if down is None or up is None:
            return embedding(ids, weight)
        return Embed.apply(ids, weight, down, up, scale)

    def _rotate(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [T, d / 2] in fp32, from the model's own module."""
        with torch.no_grad():
            cos, sin = self._rotary(hidden.detach()[None].float(), positions[None])
        half = cos.shape[-1] // 2
        return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def _run_layer(
    layer: Layer, hidden: Tensor, cos: Tensor, sin: Tensor, layout: Layout, asked: Tensor | None, training: bool
) -> Tensor:
    query, key, value = ProjectHeads.apply(hidden, layer.heads, cos, sin, asked, training, *layer.heads.parameters)
    attended = attend_packed(query, key, value, layout, window=layer.window, scale=layer.scale, asked=asked)
    source = hidden if asked is None else hidden[asked]
    return FinishLayer.apply(source, attended.flatten(1), layer.finish, training, *layer.finish.parameters)


def _projections(layer: Layer) -> Iterator[Projection]:
    yield from (layer.heads.joint,) if layer.heads.joint is not None else (layer.heads.apart or ())
    yield from (layer.finish.output, layer.finish.gate_up, layer.finish.down)


# --- reading a model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The parts of one layer as found, before any weight is moved."""

    norms: tuple[Norm, Norm]
    heads: Heads
    scale: float
    linears: dict[str, nn.Module]

    def build(self, window: int | None, *, apart: bool) -> Layer:
        """Make the projections; `apart`: queries by themselves."""
        one = self.linears
        joint = None if apart else _project([one["q"], one["k"], one["v"]])
        return Layer(
            heads=HeadsSpec(
                norm=self.norms[0],
                heads=self.heads,
                joint=joint,
                apart=(_project([one["q"]]), _project([one["k"], one["v"]])) if apart else None,
            ),
            finish=FinishSpec(
                norm=self.norms[1],
                output=_project([one["o"]]),
                gate_up=_project([one["gate"], one["up"]]),
                down=_project([one["down"]]),
            ),
            scale=self.scale,
            window=window,
        )


def _check_parts(inner: PreTrainedModel, base: Any) -> None:  # noqa: ANN401
    for name in ("embed_tokens", "layers", "norm", "rotary_emb"):
        if not hasattr(base, name):
            raise Unsuited(f"it has no {name}")
    head = inner.get_output_embeddings()
    if head is None:
        raise Unsuited("it has no LM head")
    known = {id(base), id(inner)}
    parts = (base.embed_tokens, base.layers, base.norm, base.rotary_emb)
    known |= {id(module) for part in parts for module in part.modules()}
    known |= {id(module) for module in head.modules()}
    others = [name for name, module in inner.named_modules() if id(module) not in known and any(module.parameters())]
    if others:
        raise Unsuited(f"it has {others[0]}")
    loose = [name for name, weight in inner.named_parameters() if weight.requires_grad and ".lora_" not in name]
    if loose:
        raise Unsuited(f"{loose[0]} is trained itself")


def _read_layer(layer: Any) -> _Plan:  # noqa: ANN401
    try:
        attention, block = layer.self_attn, layer.mlp
        linears = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
        linears |= {name: getattr(block, f"{name}_proj") for name in ("gate", "up", "down")}
        norms = (_read_norm(layer.input_layernorm), _read_norm(layer.post_attention_layernorm))
        size, scale = int(attention.head_dim), float(attention.scaling)
    except AttributeError as error:
        raise Unsuited(f"{type(layer).__name__}: {error}") from None
    if not isinstance(getattr(block, "act_fn", None), nn.SiLU) and type(block.act_fn).__name__ != "SiLUActivation":
        raise Unsuited(f"its activation is {type(block.act_fn).__name__}")
    if float(getattr(attention, "attention_dropout", 0.0)):
        raise Unsuited("it drops out attention")
    query, key = (
        _read_norm(getattr(attention, name)) if getattr(attention, name, None) is not None else None
        for name in ("q_norm", "k_norm")
    )
    rows = {name: _linear(module).weight.shape[0] for name, module in linears.items()}
    if rows["q"] % size or rows["k"] % size or rows["k"] != rows["v"]:
        raise Unsuited("its heads have several sizes")
    _check_all_known(layer, [*linears.values()])
    return _Plan(
        norms=norms,
        heads=Heads(queries=rows["q"] // size, keys=rows["k"] // size, size=size, query_norm=query, key_norm=key),
        scale=scale,
        linears=linears,
    )


def _check_all_known(layer: nn.Module, linears: Sequence[nn.Module]) -> None:
    known = {id(weight) for module in linears for weight in module.parameters()}
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    for name, weight in layer.named_parameters():
        if id(weight) not in known and name.rpartition(".")[0] not in norms:
            raise Unsuited(f"its layers have {name}")


def _read_norm(module: Any) -> Norm:  # noqa: ANN401
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or epsilon is None:
        raise Unsuited(f"{type(module).__name__} is no RMSNorm known here")
    return Norm(weight=weight.detach(), epsilon=float(epsilon))


def _linear(module: Any) -> nn.Linear:  # noqa: ANN401
    """Return the plain linear layer of a module that is one, or carries plain LoRA.

    Raises:
        Unsuited: it is anything else (quantised, DoRA, several adapters).
    """
    if isinstance(module, BaseTunerLayer):
        _check_lora(module, LoraLinear)
        module = module.get_base_layer()
    if type(module) is not nn.Linear or not module.weight.is_floating_point():
        raise Unsuited(f"{type(module).__name__} is no plain linear layer")
    return module


def _check_lora(module: Any, kind: type) -> None:  # noqa: ANN401
    plain = isinstance(module, kind) and not module.merged and not module.disable_adapters
    plain = plain and list(module.active_adapters) == [_ADAPTER] and not module.lora_bias.get(_ADAPTER)
    if not plain or module.use_dora.get(_ADAPTER) or getattr(module, "lora_variant", {}).get(_ADAPTER) is not None:
        raise Unsuited(f"{type(module).__name__} is no plain LoRA")


def _project(modules: Sequence[Any]) -> Projection:
    linears = [_linear(module) for module in modules]
    adapters, at, share = [], 0, 0.0
    for module, linear in zip(modules, linears, strict=True):
        size = linear.weight.shape[0]
        if isinstance(module, BaseTunerLayer):
            lora: Any = module
            adapters.append(
                Adapter(
                    down=lora.lora_A[_ADAPTER].weight,
                    up=lora.lora_B[_ADAPTER].weight,
                    scale=float(lora.scaling[_ADAPTER]),
                    start=at,
                    stop=at + size,
                )
            )
            share = float(getattr(lora.lora_dropout[_ADAPTER], "p", 0.0))
        at += size
    return Projection(linears, adapters, share)


def _read_embedding(module: Any) -> tuple[Tensor, Tensor | None, Tensor | None, float]:  # noqa: ANN401
    if isinstance(module, BaseTunerLayer):
        _check_lora(module, LoraEmbedding)
        base: Any = module.get_base_layer()
        lora: Any = module
        down, up = lora.lora_embedding_A[_ADAPTER], lora.lora_embedding_B[_ADAPTER]
        scale = float(lora.scaling[_ADAPTER])
    else:
        base, down, up, scale = module, None, None, 1.0
    if type(base) is not nn.Embedding or base.max_norm is not None:
        raise Unsuited(f"{type(base).__name__} is no plain embedding")
    return base.weight.detach(), down, up, scale
