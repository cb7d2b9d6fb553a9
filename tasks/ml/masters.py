"""Float32 masters of what trains, the optimizer over them, and how gradients get there and values back.

bfloat16 has 8 bits of precision: small updates would be lost without a float32 copy to add them to.
A parameter that is float32 itself is its own master.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.core.errors import ModelError
from tasks.core.sections import Optimizer
from tasks.ml import optimizers
from tasks.ml.tuned import Tuned
from tasks.ml.world import World


class Masters:
    """Which parameters train may change from step to step: those that rest keep their values, not their moments."""

    def __init__(self, tuned: Tuned, params: Optimizer) -> None:
        self._params, self._rate = params, tuned.rate
        self._all = tuned.trainable()
        self._masters: dict[str, Tensor] = {}
        self._touched: set[str] = set()
        self._optimizers: list[torch.optim.Optimizer] = []
        self._tables = tables(tuned.runner.model)
        if not self._all:
            raise ModelError("the method left nothing to train: check train.method and train.targets")

    def choose(self, names: frozenset[str] | None) -> None:
        """Let these train and no others; None: all. A choice that changes nothing costs nothing."""
        wanted = self._all.keys() if names is None else names
        if self._masters.keys() == wanted:
            return
        for name, value in self._all.items():
            value.requires_grad_(name in wanted)
            value.grad = None
        self._masters = {
            name: self._masters[name] if name in self._masters else _master(value)
            for name, value in self._all.items()
            if name in wanted
        }
        self._touched |= self._masters.keys()
        before, self._optimizers = self._optimizers, optimizers.make(self._params, self._groups(), self._tables)
        optimizers.keep(before, self._optimizers)

    def _groups(self) -> dict[float, dict[str, Tensor]]:
        groups: dict[float, dict[str, Tensor]] = {}
        for name, master in self._masters.items():
            groups.setdefault(self._rate(name), {})[name] = master
        return groups

    def zero(self) -> None:
        for name, master in self._masters.items():
            self._all[name].grad = None
            master.grad = None

    def collect(self) -> None:
        """Add the working gradients to the float32 sums, so that accumulation loses nothing."""
        for name, master in self._masters.items():
            working = self._all[name]
            if working is master or working.grad is None:
                continue
            if master.grad is None:
                master.grad = working.grad.float()
            else:
                master.grad.add_(working.grad)
            working.grad = None

    def sum_gradients(self, world: World) -> None:
        world.sum_gradients(self._masters.values())

    def gradients(self) -> dict[str, Tensor]:
        """The float32 sums of what has one: what no token of the batch reached has none."""
        return {name: master.grad for name, master in self._masters.items() if master.grad is not None}

    def take_gradients(self) -> dict[str, Tensor]:
        """The sums so far, which begin anew."""
        taken = self.gradients()
        self.zero()
        return taken

    def put_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            self._masters[name].grad = gradient

    def update(self, divide_by: float, learning_rate: float) -> float:
        """Divide, clip, move the masters and round them into the model; the gradients' norm before clipping."""
        for gradient in self.gradients().values():
            gradient.div_(divide_by)
        norm = nn.utils.clip_grad_norm_(self._masters.values(), self._params.max_grad_norm).item()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["times"]
            optimizer.step()
        # Fused kernels don't say that they changed a tensor; what is cached by its version (DoRA's norm) relies on that.
        torch.autograd.graph.increment_version(list(self._masters.values()))
        self._round(self._masters)
        return norm

    def _round(self, names: Iterable[str]) -> None:
        with torch.no_grad():
            for name in names:
                if self._all[name] is not self._masters[name]:
                    self._all[name].copy_(self._masters[name])

    def take(self, names: Iterable[str]) -> None:
        """The model's values of these were changed by the method: the masters follow where they are not just rounded to them."""
        with torch.no_grad():
            for name in names:
                if name in self._masters and self._all[name] is not self._masters[name]:
                    working, master = self._all[name], self._masters[name]
                    changed = master.to(working.dtype) != working
                    master.copy_(torch.where(changed, working.to(master.dtype), master))

    def values(self) -> dict[str, Tensor]:
        """Masters of what trains now, and the values of what trained before."""
        resting = {name: self._all[name].detach() for name in sorted(self._touched - self._masters.keys())}
        return {**{name: master.detach() for name, master in self._masters.items()}, **resting}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Set masters and model to saved values. ModelError: they belong to other parameters."""
        if not self._masters.keys() <= values.keys() or not values.keys() <= self._all.keys():
            raise ModelError("the checkpoint holds other parameters than the model: delete .work/checkpoints")
        self._touched |= values.keys()
        with torch.no_grad():
            for name, value in values.items():
                self._masters.get(name, self._all[name]).copy_(value)
        self._round(self._masters)

    def memory(self) -> dict[str, Tensor]:
        return optimizers.tensors(self._optimizers, self._names())

    def remember(self, saved: Mapping[str, Tensor]) -> None:
        optimizers.restore(self._optimizers, self._names(), saved)

    def _names(self) -> dict[Tensor, str]:
        return {master: name for name, master in self._masters.items()}


def _master(value: nn.Parameter) -> Tensor:
    return value if value.dtype == torch.float32 else value.detach().float().clone()


def tables(model: PreTrainedModel) -> frozenset[str]:
    """Names of embeddings' and the head's own parameters: matrices by shape, but their rows are looked up one by one."""
    head = model.get_output_embeddings()
    found = {
        id(value)
        for module in model.modules()
        if isinstance(module, nn.Embedding) or module is head
        for value in module.parameters()
    }
    return frozenset(name for name, value in model.named_parameters() if id(value) in found)
