"""LoReFT (Wu et al. 2024, arXiv 2404.03592, equation 2): h + R^T (W h + b - R h) at chosen tokens of a layer's output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.ml import blocks
from tasks.ml.layers.places import Places


class Intervention(nn.Module):
    """(n, hidden) to the same shape, computed and held in float32, whatever the base is in.

    R^T (hidden, rank) is the Q factor, with positive diagonal of its triangle, of `rotation`: orthonormal after any
    update, and unlike torch's own parametrisation without a hidden x hidden matrix and safe under weight decay.
    """

    def __init__(self, hidden: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.empty(hidden, rank, device=device, dtype=torch.float32))
        self.source = nn.Linear(hidden, rank, device=device, dtype=torch.float32)
        nn.init.orthogonal_(self.rotation)

    def columns(self) -> Tensor:
        """R^T: its columns are R's orthonormal rows."""
        q, triangle = torch.linalg.qr(self.rotation)
        return q * triangle.diagonal().sign()

    def forward(self, states: Tensor) -> Tensor:
        h, columns = states.to(self.rotation.dtype), self.columns()
        return (h + (self.source(h) - h @ columns) @ columns.T).to(states.dtype)


def intervene(layer: nn.Module, groups: dict[str, Intervention]) -> None:
    """Edit what the layer returns; each group of tokens by its own intervention, as the layer's `reft`."""
    layer.add_module("reft", nn.ModuleDict(groups))
    layer.register_forward_hook(_edit, with_kwargs=True)


def _edit(layer: nn.Module, _inputs: Any, named: dict[str, Any], output: Any) -> Any:
    places: Places = named["edits"]
    states = blocks.first(output)
    flat = states.flatten(0, 1)
    parts = [(places[name], edit) for name, edit in layer.get_submodule("reft").named_children() if len(places[name])]
    if not parts:
        return output
    edited = torch.cat([edit(flat[where]) for where, edit in parts])
    everywhere = torch.cat([where for where, _ in parts])
    return blocks.with_first(output, flat.index_copy(0, everywhere, edited).view_as(states))
