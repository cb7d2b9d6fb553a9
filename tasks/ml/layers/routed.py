"""Frozen LoRAs mixed anew for every token (Buehler and Buehler 2024, arXiv 2402.07148, section 2).

The decoder runs twice: without any LoRA, and from the hidden states that it ends with a router says each token's gates;
then with every LoRA weighed by its gate. A token's gates depend on it and on what stands before it, and on nothing
else: packed rows see nothing of each other, and what was computed for a cache stays true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from tasks.core.errors import ModelError

if TYPE_CHECKING:
    from tasks.ml.experts import Pair


@dataclass(frozen=True)
class Gating:
    """How logits become gates: softmax of logits / temperature; all but the `top_k` largest 0; times `weight`."""

    temperature: float
    top_k: int | None
    weight: float

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., experts) to the same shape."""
        gates = torch.softmax(logits / self.temperature, dim=-1)
        if self.top_k is not None:
            chosen = torch.zeros_like(gates).scatter_(-1, gates.topk(self.top_k, dim=-1).indices, 1.0)
            gates = gates * chosen
        return gates * self.weight


class Router(nn.Module):
    """Hidden states (rows, tokens, hidden) to gates (rows, tokens, places, experts), held and computed in float32.

    A place is a layer with LoRAs; one place stands for all of them.
    """

    def __init__(
        self, hidden: int, experts: int, places: int, gating: Gating, *,
        depth: int, size: int, dropout: float, device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        sides = [hidden, *[size] * (depth - 1), places * experts]
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(sides):
            steps += [nn.Linear(inputs, outputs, device=device, dtype=torch.float32), nn.ReLU(), nn.Dropout(dropout)]
        self.steps = nn.Sequential(*steps[:-2])
        self._shape, self._gating = (places, experts), gating

    def forward(self, states: Tensor) -> Tensor:
        return self._gating(self.steps(states.float()).unflatten(-1, self._shape))


class Experts(nn.Module):
    """Of one layer, side by side along the rank: sum over e of g_e s_e B_e A_e x."""

    a: Tensor
    b: Tensor
    scales: Tensor
    owners: Tensor

    def __init__(self, pairs: Mapping[int, Pair], place: int, like: Tensor) -> None:
        """`pairs` by the number of their expert; one that leaves the layer alone has none. Held as `like` is."""
        super().__init__()
        self.place = place
        ranks = {number: len(pair.a) for number, pair in pairs.items()}
        scales = torch.tensor([pair.scale for number, pair in pairs.items() for _ in range(ranks[number])])
        owners = torch.tensor([number for number in pairs for _ in range(ranks[number])])
        self.register_buffer("a", torch.cat([pair.a.to(like) for pair in pairs.values()]), persistent=False)
        self.register_buffer("b", torch.cat([pair.b.to(like) for pair in pairs.values()], 1), persistent=False)
        self.register_buffer("scales", scales.to(like.device), persistent=False)
        self.register_buffer("owners", owners.to(like.device), persistent=False)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Shapes: x (rows, tokens, inputs), gates (rows, tokens, experts); the result (rows, tokens, outputs)."""
        weights = gates[..., self.owners] * self.scales
        return (x @ self.a.T * weights.to(x.dtype)) @ self.b.T


class Routing:
    """Stands before the decoder: lets it run without LoRAs first and has the gates ready for its layers.

    They stay until the next pass, because activations may be computed again in the backward pass.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._gates: Tensor | None = None
        self._past: Cache | None = None

    def __call__(self, decoder: Any, inputs: Any, named: dict[str, Any]) -> None:
        self._gates = None
        with torch.no_grad():
            states = self._bare(decoder, inputs, named)
        self._gates = self._router(states)

    def _bare(self, decoder: Any, inputs: Any, named: dict[str, Any]) -> Tensor:
        """What the decoder ends with, by itself. A generation's cache has a counterpart of its own."""
        past: Cache | None = named.get("past_key_values")
        if past is None:
            return decoder.forward(*inputs, **{**named, "use_cache": False}).last_hidden_state
        if past.get_seq_length() == 0:
            self._past = DynamicCache(config=decoder.config)
        if self._past is None or self._past.get_seq_length() != past.get_seq_length():
            raise ModelError("X-LoRA generates from a prompt of its own: begin with an empty cache")
        return decoder.forward(*inputs, **{**named, "past_key_values": self._past}).last_hidden_state

    def mix(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """After a layer with experts."""
        if self._gates is None:
            return output
        experts = layer.get_submodule("experts")
        assert isinstance(experts, Experts)
        return output + experts(inputs[0], self._gates[..., experts.place, :])


def route(model: PreTrainedModel, router: Router, layers: Mapping[str, Mapping[int, Pair]], *, layerwise: bool) -> None:
    """Put the router on the model, as its `router`, and the experts on its layers, each as the layer's `experts`."""
    any_model: Any = model
    any_model.router = router
    routing = Routing(router)
    for place, (name, pairs) in enumerate(layers.items()):
        layer = model.get_submodule(name)
        like = torch.empty(0, dtype=model.dtype, device=next(layer.parameters()).device)  # the weight may be packed
        layer.add_module("experts", Experts(pairs, place if layerwise else 0, like))
        layer.register_forward_hook(routing.mix)
    any_model.base_model.register_forward_pre_hook(routing, with_kwargs=True)
