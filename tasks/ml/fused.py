"""LoRA-like layers and norms with their backward passes written out: fewer products, fewer passes over memory, equal values.

A layer is only replaced where it is one of those described here; all others keep PEFT's and transformers' own forward.
Layers with a common input (q, k and v; gate and up) share one product with their A matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.ml import norm
from tasks.ml.low_rank import Part, member

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one parent that are called with the same input."""


def fuse(model: PreTrainedModel) -> None:
    """Replace what can be replaced, in place. Outputs and gradients stay equal to rounding."""
    for parent in list(model.modules()):
        norm.fuse(parent)
        for layers in _groups(parent):
            group = _Group([member(layer) for layer in layers])
            for place, layer in enumerate(layers):
                layer.forward = _Call(group, place)


def _groups(parent: nn.Module) -> Iterator[list[nn.Module]]:
    """The parent's own low-rank layers: siblings together, the others alone."""
    layers = {name: child for name, child in parent.named_children() if member(child) is not None}
    for names in SIBLINGS:
        if group := [layers.pop(name) for name in names if name in layers]:
            yield group
    yield from ([layer] for layer in layers.values())


class _Call:
    """Stands for a layer's `forward`."""

    def __init__(self, group: _Group, place: int) -> None:
        self._group, self._place = group, place

    def __call__(self, x: Tensor) -> Tensor:
        return self._group.output(self._place, x)


class _Group:
    """Computes all its layers at the first call with an input, and hands the others theirs when they are called with it."""

    def __init__(self, members: Sequence[Any]) -> None:
        self._members = members
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = [None] * len(members)

    def output(self, place: int, x: Tensor) -> Tensor:
        if self._input is not x or self._outputs[place] is None:
            self._input, self._outputs = x, list(_run(x, [part() for part in self._members]))
        out, self._outputs[place] = self._outputs[place], None
        if not any(output is not None for output in self._outputs):
            self._input = None
        assert out is not None
        return out


def _run(x: Tensor, parts: list[Part]) -> tuple[Tensor, ...]:
    tensors = [tensor for part in parts for tensor in (part.a, part.b, part.gain)]
    return _LowRank.apply(x, parts, *tensors)  # type: ignore[no-any-return]


class _LowRank(torch.autograd.Function):
    """y = gain (x W' + s (x A') B') + bias for each part, where a gain of None is 1. Frozen: W, s and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: list[Part], *_tensors: Tensor | None) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        stacked = torch.cat([part.a for part in parts])
        low = rows @ stacked.t()
        outputs: list[Tensor] = []
        for part, mine in zip(parts, low.split([len(part.a) for part in parts], 1), strict=True):
            out = rows @ part.weight().t()
            out.addmm_(mine, part.b.t(), alpha=part.scale)
            if part.gain is not None:  # z + z (g - 1): g itself, near 1, would lose its last bits in bfloat16
                out.addcmul_(out, (part.gain - 1).to(out.dtype))
            if part.bias is not None:
                out += part.bias
            outputs.append(out)
        ctx.parts, ctx.shape = parts, x.shape
        kept = [None if part.gain is None else out for part, out in zip(parts, outputs, strict=True)]
        ctx.save_for_backward(rows, low, stacked, *kept)
        return tuple(out.view(*x.shape[:-1], out.shape[-1]) for out in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, stacked, *kept = ctx.saved_tensors
        sizes = [len(part.a) for part in ctx.parts]
        d_rows: Tensor | None = None
        d_lows: list[Tensor] = []
        d_tensors: list[Tensor | None] = []
        for part, given, mine, out in zip(ctx.parts, gradients, low.split(sizes, 1), kept, strict=True):
            d_out = given.reshape(-1, given.shape[-1])
            d_gain = None
            if part.gain is not None:
                if part.gain.requires_grad:
                    d_gain = _d_gain(d_out, out if part.bias is None else out - part.bias, part.gain)
                d_out = torch.addcmul(d_out, d_out, (part.gain - 1).to(d_out.dtype))
            if ctx.needs_input_grad[0]:
                d_rows = d_out @ part.weight() if d_rows is None else d_rows.addmm_(d_out, part.weight())
            d_lows.append((d_out @ part.b).mul_(part.scale))
            d_b = (d_out.t() @ mine).mul_(part.scale) if part.b.requires_grad else None
            d_tensors += [None, d_b, d_gain]
        d_low = torch.cat(d_lows, 1)
        if d_rows is not None:
            d_rows.addmm_(d_low, stacked)
        if any(part.a.requires_grad for part in ctx.parts):
            d_tensors[::3] = (d_low.t() @ rows).split(sizes)
        return (None if d_rows is None else d_rows.view(ctx.shape), None, *d_tensors)


def _d_gain(d_out: Tensor, scaled: Tensor, gain: Tensor) -> Tensor:
    """Sum over the rows of dy z, where z = y / gain."""
    return (d_out * scaled).sum(0, dtype=torch.float32) / gain
