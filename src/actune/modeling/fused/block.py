"""The two halves of a decoder layer around attention, with their backward passes.

Source of the formulas: Llama (Touvron et al. 2023, section 2.2: pre-normalisation, SwiGLU, rotary embeddings), RMSNorm
(Zhang and Sennrich 2019, equation 4), rotary embeddings in the half-split form of transformers, normalised queries and
keys of Qwen3. What is elementwise is computed in fp32; what is cheap to compute again is not kept.

Rows are worked on in chunks that stay in the cache of a CPU; on an accelerator one chunk holds all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actune.modeling.fused.projection import Pass, Projection, gather_parameters

# Bytes of one chunk's widest intermediates on the CPU: a few times a core's cache of the second level, so that they stay in the
# third, and enough rows for a large product.
_CHUNK_BYTES = 6 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """RMSNorm with a weight [size]."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Shape of attention: heads of queries, of keys, and their size; norms of queries and keys if the model has them."""

    queries: int
    keys: int
    size: int
    query_norm: Norm | None
    key_norm: Norm | None


def chunk_rows(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Yield the chunks of rows whose intermediates have `width` fp32 numbers a row."""
    size = rows if device.type != "cpu" else max(64, _CHUNK_BYTES // (4 * width) // 64 * 64)
    for start in range(0, rows, max(size, 1)):
        yield slice(start, min(start + size, rows))


# --- before attention -----------------------------------------------------------------------------------------------


class ProjectHeads(torch.autograd.Function):
    """hidden [T, h] -> query [Q, heads, d], key [T, kv_heads, d], value [T, kv_heads, d].

    `asked` [Q]: the rows that get a query (None: all, one projection makes all three; else one for queries alone and
    one for keys and values). `cos`, `sin` [T, d / 2].
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        spec: HeadsSpec,
        cos: Tensor,
        sin: Tensor,
        asked: Tensor | None,
        training: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute; keeps the input, raw queries and keys where they are normalised, and the dropout masks."""
        heads = spec.heads
        query = hidden.new_empty(len(hidden) if asked is None else len(asked), heads.queries, heads.size)
        key = hidden.new_empty(len(hidden), heads.keys, heads.size)
        value = torch.empty_like(key)
        raw, masks = [], []
        for part in spec.parts(asked is None):
            rows = part.rows(asked)
            source, c, s = (hidden, cos, sin) if rows is None else (hidden[rows], cos[rows], sin[rows])
            run = Pass(part.projection, training=training)
            kept_raw = hidden.new_empty(len(source), part.rotated) if spec.normalises else None
            for chunk in chunk_rows(len(source), part.width, source.device):
                wide = run.room(chunk.stop - chunk.start)
                normalise(source[chunk], spec.norm, wide[:, : source.shape[1]])
                kept = run.draw(len(wide))
                out = run.multiply(run.widen(wide, kept))
                if kept_raw is not None:
                    kept_raw[chunk] = out[:, : part.rotated]
                masks.append(kept)
                part.spread(out, chunk, (query, key, value), c[chunk], s[chunk], heads)
            raw.append(kept_raw)
        ctx.save_for_backward(hidden, cos, sin, asked, *raw, *masks)
        ctx.spec, ctx.training, ctx.raws = spec, training, len(raw)
        return query, key, value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of hidden and of the adapters."""
        hidden, cos, sin, asked, *rest = ctx.saved_tensors
        spec: HeadsSpec = ctx.spec
        raws, masks = rest[: ctx.raws], iter(rest[ctx.raws :])
        d_hidden: Tensor | None = None
        found: list[Tensor | None] = []
        for part, raw in zip(spec.parts(asked is None), raws, strict=True):
            rows = part.rows(asked)
            source, c, s = (hidden, cos, sin) if rows is None else (hidden[rows], cos[rows], sin[rows])
            run = Pass(part.projection, training=ctx.training)
            d_source = torch.empty_like(source)
            for chunk in chunk_rows(len(source), part.width, source.device):
                d_out = part.collect(
                    chunk, gradients, raw[chunk] if raw is not None else None, c[chunk], s[chunk], spec.heads
                )
                wide = run.room(chunk.stop - chunk.start)
                scale = normalise(source[chunk], spec.norm, wide[:, : source.shape[1]])
                kept = next(masks)
                d_normal = run.reverse(d_out, run.widen(wide, kept), kept)
                if ctx.needs_input_grad[0]:
                    reverse_norm(d_normal, source[chunk], scale, spec.norm, d_source[chunk])
            found += run.gradients()
            if ctx.needs_input_grad[0]:
                if rows is None:
                    d_hidden = d_source if d_hidden is None else d_hidden.add_(d_source)
                else:
                    assert d_hidden is not None
                    d_hidden.index_add_(0, rows, d_source)
        return d_hidden, None, None, None, None, None, *found


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A projection to queries, to keys and values, or to all three."""

    projection: Projection
    queries: bool
    keys: bool
    rotated: int

    @property
    def width(self) -> int:
        """About how many numbers a row of intermediates has."""
        return 2 * (self.projection.inputs + self.projection.outputs)

    def rows(self, asked: Tensor | None) -> Tensor | None:
        """Return which rows of the hidden states are projected (None: all)."""
        return asked if self.queries else None

    def spread(
        self, out: Tensor, chunk: slice, results: tuple[Tensor, Tensor, Tensor], c: Tensor, s: Tensor, heads: Heads
    ) -> None:
        """Write raw outputs of a chunk, rotated, into query, key and value."""
        at = 0
        for wanted, norm, result in self._kinds(heads, results):
            if not wanted:
                continue
            width = result.shape[1] * heads.size
            rotate(out[:, at : at + width].view(len(out), -1, heads.size), norm, c, s, result[chunk])
            at += width
        if self.keys:
            results[2][chunk] = out[:, at:].view(len(out), -1, heads.size)

    def collect(
        self, chunk: slice, gradients: tuple[Tensor, ...], raw: Tensor | None, c: Tensor, s: Tensor, heads: Heads
    ) -> Tensor:
        """Return the gradients of the raw outputs of a chunk [rows, out]."""
        out = self.projection.weight.new_empty(chunk.stop - chunk.start, self.projection.outputs)
        at = 0
        for wanted, norm, gradient in self._kinds(heads, (gradients[0], gradients[1], gradients[2])):
            if not wanted:
                continue
            width = gradient.shape[1] * heads.size
            place = out[:, at : at + width].view(len(out), -1, heads.size)
            before = raw[:, at : at + width].view(len(out), -1, heads.size) if raw is not None else None
            reverse_rotation(gradient[chunk], before, norm, c, s, place)
            at += width
        if self.keys:
            out[:, at:] = gradients[2][chunk].reshape(len(out), -1)
        return out

    def _kinds(
        self, heads: Heads, tensors: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[bool, Norm | None, Tensor], ...]:
        return (self.queries, heads.query_norm, tensors[0]), (self.keys, heads.key_norm, tensors[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsSpec:
    """What `ProjectHeads` needs of a layer: either `joint`, or `apart` (queries; keys and values) in the last layer."""

    norm: Norm
    heads: Heads
    joint: Projection | None
    apart: tuple[Projection, Projection] | None

    @property
    def normalises(self) -> bool:
        """Whether queries or keys are normalised, so that their raw values are needed again."""
        return self.heads.query_norm is not None or self.heads.key_norm is not None

    def parts(self, joint: bool) -> tuple[Part, ...]:
        """Return the projections in the order keys and values, queries, or the joint one."""
        queries, keys = self.heads.queries * self.heads.size, self.heads.keys * self.heads.size
        if self.joint is not None:
            assert joint
            return (Part(projection=self.joint, queries=True, keys=True, rotated=queries + keys),)
        assert self.apart is not None
        return (
            Part(projection=self.apart[1], queries=False, keys=True, rotated=keys),
            Part(projection=self.apart[0], queries=True, keys=False, rotated=queries),
        )

    @property
    def parameters(self) -> list[Any]:
        """Trained weights in the order of the gradients."""
        if self.joint is not None:
            return gather_parameters(self.joint)
        assert self.apart is not None
        return gather_parameters(self.apart[1], self.apart[0])


# --- after attention ------------------------------------------------------------------------------------------------


class FinishLayer(torch.autograd.Function):
    """hidden [N, h], attended [N, heads x d] -> the layer's output [N, h]: output projection, then the SwiGLU block."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        attended: Tensor,
        spec: FinishSpec,
        training: bool,
        *parameters: Tensor,
    ) -> Tensor:
        """Compute; keeps attended, the middle residual, gate and up, and the dropout masks."""
        runs = spec.passes(training)
        middle, result = torch.empty_like(hidden), torch.empty_like(hidden)
        gates = hidden.new_empty(len(hidden), spec.gate_up.outputs)
        masks: list[Tensor | None] = []
        for chunk in chunk_rows(len(hidden), spec.width, hidden.device):
            rows = chunk.stop - chunk.start
            wide = runs[0].room(rows)
            wide[:, : attended.shape[1]] = attended[chunk]
            masks.append(runs[0].draw(rows))
            torch.add(hidden[chunk], runs[0].multiply(runs[0].widen(wide, masks[-1])), out=middle[chunk])
            wide = runs[1].room(rows)
            normalise(middle[chunk], spec.norm, wide[:, : hidden.shape[1]])
            masks.append(runs[1].draw(rows))
            gates[chunk] = runs[1].multiply(runs[1].widen(wide, masks[-1]))
            wide = runs[2].room(rows)
            gate, up = gates[chunk].chunk(2, dim=1)
            _swiglu(gate, up, wide[:, : gate.shape[1]])
            masks.append(runs[2].draw(rows))
            torch.add(middle[chunk], runs[2].multiply(runs[2].widen(wide, masks[-1])), out=result[chunk])
        ctx.save_for_backward(attended, middle, gates, *masks)
        ctx.spec, ctx.training = spec, training
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of hidden, attended and the adapters."""
        attended, middle, gates, *kept = ctx.saved_tensors
        masks, spec = iter(kept), ctx.spec
        (gradient,) = gradients
        runs = spec.passes(ctx.training)
        d_hidden, d_attended = torch.empty_like(middle), torch.empty_like(attended)
        for chunk in chunk_rows(len(middle), spec.width, middle.device):
            rows = chunk.stop - chunk.start
            keeps = next(masks), next(masks), next(masks)
            gate, up = gates[chunk].chunk(2, dim=1)
            wide = runs[2].room(rows)
            _swiglu(gate, up, wide[:, : gate.shape[1]])
            d_product = runs[2].reverse(gradient[chunk], runs[2].widen(wide, keeps[2]), keeps[2])
            d_gates = _reverse_swiglu(d_product, gate, up)
            wide = runs[1].room(rows)
            scale = normalise(middle[chunk], spec.norm, wide[:, : middle.shape[1]])
            d_normal = runs[1].reverse(d_gates, runs[1].widen(wide, keeps[1]), keeps[1])
            d_middle = d_hidden[chunk]
            reverse_norm(d_normal, middle[chunk], scale, spec.norm, d_middle)
            d_middle += gradient[chunk]
            wide = runs[0].room(rows)
            wide[:, : attended.shape[1]] = attended[chunk]
            d_attended[chunk] = runs[0].reverse(d_middle, runs[0].widen(wide, keeps[0]), keeps[0])
        found = [part for run in runs for part in run.gradients()]
        return d_hidden, d_attended, None, None, *found


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishSpec:
    """What `FinishLayer` needs of a layer; rows of `gate_up` are the gate's, then the up projection's."""

    norm: Norm
    output: Projection
    gate_up: Projection
    down: Projection

    @property
    def width(self) -> int:
        """About how many numbers a row of intermediates has."""
        return 2 * self.gate_up.outputs + 3 * self.output.outputs

    def passes(self, training: bool) -> tuple[Pass, Pass, Pass]:
        """Return the three projections, ready for a pass."""
        return (
            Pass(self.output, training=training),
            Pass(self.gate_up, training=training),
            Pass(self.down, training=training),
        )

    @property
    def parameters(self) -> list[Any]:
        """Trained weights in the order of the gradients."""
        return gather_parameters(self.output, self.gate_up, self.down)


# --- elementwise ----------------------------------------------------------------------------------------------------


def normalise(inputs: Tensor, norm: Norm, out: Tensor) -> Tensor:
    """Write RMSNorm of the last dimension into `out`; return 1 / root mean square [..., 1] in fp32."""
    exact = inputs.float()
    scale = _measure(exact, norm)
    if inputs.dtype == torch.float32:
        torch.mul(exact, scale, out=out)
    else:
        out.copy_(exact.mul_(scale))
    out.mul_(norm.weight)
    return scale


def _measure(inputs: Tensor, norm: Norm) -> Tensor:
    """Return 1 / root mean square of the last dimension [..., 1]; inputs are fp32."""
    scale = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True).square_()
    return scale.div_(inputs.shape[-1]).add_(norm.epsilon).rsqrt_()


def reverse_norm(gradient: Tensor, inputs: Tensor, scale: Tensor, norm: Norm, out: Tensor) -> None:
    """Write the gradient of RMSNorm's inputs into `out`, for the gradient of its outputs."""
    exact = inputs.float() * scale
    given = gradient.float() * norm.weight
    mean = (given * exact).mean(dim=-1, keepdim=True)
    out.copy_(exact.mul_(mean).neg_().add_(given).mul_(scale))


def rotate(raw: Tensor, norm: Norm | None, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write normalised and rotated heads [rows, heads, d] into `out`; `cos`, `sin` [rows, d / 2]."""
    half = raw.shape[-1] // 2
    states = raw.float()
    if norm is not None:
        place = torch.empty_like(states)
        normalise(states, norm, place)
        states = place
    first, second = states[..., :half], states[..., half:]
    c, s = cos[:, None], sin[:, None]
    if out.dtype == torch.float32:
        torch.mul(first, c, out=out[..., :half]).addcmul_(second, s, value=-1)
        torch.mul(second, c, out=out[..., half:]).addcmul_(first, s)
    else:
        out[..., :half] = first * c - second * s
        out[..., half:] = second * c + first * s


def reverse_rotation(
    gradient: Tensor, raw: Tensor | None, norm: Norm | None, cos: Tensor, sin: Tensor, out: Tensor
) -> None:
    """Write the gradient of raw heads into `out`; `raw` is needed where they are normalised."""
    half = gradient.shape[-1] // 2
    given = gradient.float()
    first, second = given[..., :half], given[..., half:]
    c, s = cos[:, None], sin[:, None]
    back = torch.empty_like(given, memory_format=torch.contiguous_format)
    torch.mul(first, c, out=back[..., :half]).addcmul_(second, s)
    torch.mul(second, c, out=back[..., half:]).addcmul_(first, s, value=-1)
    if norm is None or raw is None:
        out.copy_(back)
        return
    states = raw.float()
    reverse_norm(back, states, _measure(states, norm), norm, out)


def _swiglu(gate: Tensor, up: Tensor, out: Tensor) -> None:
    if gate.dtype == torch.float32:
        torch.sigmoid(gate, out=out).mul_(gate).mul_(up)
    else:
        out.copy_(torch.nn.functional.silu(gate) * up)


def _reverse_swiglu(gradient: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """Return the gradients of gate and up side by side [rows, 2 f]."""
    width = gate.shape[1]
    out = gate.new_empty(len(gate), 2 * width)
    exact = gate.float()
    share = torch.sigmoid(exact)
    silu = share * exact
    # d silu / d gate = share + silu x (1 - share)
    slope = torch.addcmul(share, silu, 1 - share)
    out[:, :width] = slope.mul_(gradient).mul_(up)
    out[:, width:] = silu.mul_(gradient)
    return out
