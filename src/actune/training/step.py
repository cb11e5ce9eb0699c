"""Loss of one micro-batch: by the fused decoder where the model has one, else by the model's own forward pass."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actune.data.pack import Batch
from actune.modeling.adapters import unwrap
from actune.modeling.attention import Layout
from actune.modeling.fused.decoder import Decoder
from actune.modeling.head import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """A micro-batch on the device of the model (T tokens, targets at U different positions).

    `input_ids` [1, T], `positions` [1, T] and `layout` (both None for one plain sequence), `kept` [U] positions that
    need logits, `targets` what is predicted there.
    """

    input_ids: Tensor
    positions: Tensor | None
    layout: Layout | None
    kept: Tensor
    targets: Targets

    @classmethod
    def of(cls, batch: Batch, device: torch.device, *, packed: bool) -> StepInput:
        """Move a batch to a device; without `packed` it must hold one plain sequence."""
        if not packed and (batch.branches or len(batch.spans) != 1):
            raise ValueError("a model without packed attention takes one plain sequence at a time")
        kept, targets = Targets.of(batch, device)
        return cls(
            input_ids=torch.from_numpy(batch.input_ids).to(device).long()[None],
            positions=torch.from_numpy(batch.positions).to(device).long()[None] if packed else None,
            layout=Layout.of(batch, device) if packed else None,
            kept=kept,
            targets=targets,
        )


class TrainStep(nn.Module):
    """A model and its loss in one module, so that a wrapper sees every use of a parameter."""

    def __init__(
        self, model: nn.Module, *, autocast: torch.dtype | None = None, decoder: Decoder | None = None
    ) -> None:
        """Wrap a model; `autocast` is the dtype of its matrix products where its weights are kept in fp32."""
        super().__init__()
        self.model = model
        self.autocast = autocast
        self.decoder = decoder
        # Without the parameter a model computes all logits; they are cut down afterwards.
        self.cuts_logits = "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters

    def forward(self, inputs: StepInput) -> tuple[Tensor, Tensor]:
        """Return (sum of weight x negative log-likelihood, sum of weights), both fp32 scalars."""
        weight = inputs.targets.weights.sum()
        if self.decoder is not None and inputs.layout is not None and inputs.positions is not None:
            loss = self.decoder.loss(
                inputs.input_ids[0],
                inputs.positions[0],
                inputs.layout,
                inputs.kept,
                inputs.targets,
                training=self.model.training,
            )
            return loss, weight
        return self._run_model(inputs), weight

    def _run_model(self, inputs: StepInput) -> Tensor:
        arguments: dict[str, Any] = {"input_ids": inputs.input_ids, "use_cache": False}
        if inputs.layout is not None:
            arguments |= {"position_ids": inputs.positions, "actune_layout": inputs.layout}
        if self.cuts_logits:
            arguments["logits_to_keep"] = inputs.kept
        device = inputs.input_ids.device.type
        with torch.autocast(device, self.autocast) if self.autocast is not None else nullcontext():
            logits = self.model(**arguments).logits[0]
        logits = (logits if self.cuts_logits else logits[inputs.kept]).float()
        # Several targets may share a position (branches): one row of logits serves them all.
        targets = inputs.targets
        losses = logits.logsumexp(dim=-1)[targets.rows] - logits[targets.rows, targets.ids]
        return (targets.weights * losses).sum()
