"""Whether the fused decoder computes what the model does: loss and gradients compared on the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn

from actune.data.pack import Batch
from actune.modeling.adapters import unwrap
from actune.modeling.attention import Layout
from actune.modeling.fused.decoder import Decoder, Unsuited
from actune.modeling.head import Targets
from actune.modeling.isolation import probe_batch

# Largest relative difference (Euclidean norm) of the loss and of each gradient. Half precision rounds in each layer, and
# the model's own path rounds at other places.
_BOUND = {torch.float32: 1e-4, torch.float64: 1e-4}
_BOUND_HALF = 6e-2


def prepare_decoder(model: nn.Module) -> Decoder | str:
    """Return a decoder that trains this model's adapters, or the reason why the model's own forward pass has to.

    The model must use packed attention already (`prepare_packing`). Its weights stay what they are; those of layers with
    adapters become views of wider ones (`projection.py`).
    """
    if not isinstance(model, PeftModel):
        return "all weights are trained"
    training = model.training
    model.eval()
    try:
        with _stirred(model):
            return _try_out(model)
    except Unsuited as error:
        return str(error)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        return f"the trial fails: {error}"
    finally:
        model.train(training)


def _try_out(model: PeftModel) -> Decoder | str:
    inner = unwrap(model)
    batch = probe_batch(inner)
    layout = Layout.of(batch, inner.device)
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    loss, wanted = _run_model(model, batch, layout, parameters)
    decoder = Decoder(model, layout.windows)
    kept, targets = Targets.of(batch, inner.device)
    found = decoder.loss(
        torch.from_numpy(batch.input_ids).long().to(inner.device),
        torch.from_numpy(batch.positions).long().to(inner.device),
        Layout.of(batch, inner.device),
        kept,
        targets,
        training=False,
    )
    gradients = torch.autograd.grad(found, list(parameters.values()), allow_unused=True)
    bound = _BOUND.get(inner.dtype, _BOUND_HALF)
    if (gap := _distance(found.detach(), loss)) > bound:
        return f"its loss differs by {gap:.1e} (at most {bound:.0e})"
    for name, gradient, reference in zip(parameters, gradients, wanted, strict=True):
        if gradient is None or (gap := _distance(gradient, reference)) > bound:
            return f"the gradient of {name} differs" + ("" if gradient is None else f" by {gap:.1e}")
    return decoder


def _run_model(
    model: PeftModel, batch: Batch, layout: Layout, parameters: dict[str, nn.Parameter]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    device = unwrap(model).device
    with torch.enable_grad():
        logits = model(
            input_ids=torch.from_numpy(batch.input_ids).long()[None].to(device),
            position_ids=torch.from_numpy(batch.positions).long()[None].to(device),
            actune_layout=layout,
            use_cache=False,
        ).logits[0]
        logs = torch.log_softmax(logits.float(), dim=-1)
        places, ids, weights = (
            torch.from_numpy(part).to(device)
            for part in (batch.target_positions, batch.target_ids, batch.target_weights)
        )
        loss = -(logs[places.long(), ids.long()] * weights).sum()
        return loss.detach(), torch.autograd.grad(loss, list(parameters.values()))


@contextmanager
def _stirred(model: PeftModel) -> Iterator[None]:
    """Give adapters that start at zero other values, so that each has an effect and a gradient; put the old ones back."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(0)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in before:
            noise = torch.randn(weights[name].shape, generator=generator)
            weights[name].add_((0.02 * noise).to(weights[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, values in before.items():
                weights[name].copy_(values)


def _distance(found: Tensor, reference: Tensor) -> float:
    gap = torch.linalg.vector_norm(found.float() - reference.float())
    return float(gap / torch.linalg.vector_norm(reference.float()).clamp_min(1e-30))
