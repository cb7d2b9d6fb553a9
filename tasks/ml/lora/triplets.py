"""AdaLoRA's triplets (row of A, value of E, column of B) of all layers at once: importance, masks, orthogonality.

Equal to PEFT's allocator and penalty, which loop over layers in Python; here they are a few operations on long tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tasks.ml.lora.budget import Schedule
from tasks.ml.tuned import Moment

HALVES = ("lora_A", "lora_E", "lora_B")


class Triplets:
    """What AdaLoRA remembers from step to step."""

    def __init__(self, model: nn.Module, schedule: Schedule, beta1: float, beta2: float) -> None:
        parameters = dict(model.named_parameters())
        layers = [name.partition(".lora_A.")[0] for name in parameters if ".lora_A." in name]
        self.names = {half: [f"{layer}.{half}.default" for layer in layers] for half in HALVES}
        self._all = {name: parameters[name] for half in HALVES for name in self.names[half]}
        self._schedule, self._beta1, self._beta2 = schedule, beta1, beta2
        size, device = sum(value.numel() for value in self._all.values()), next(iter(self._all.values())).device
        self.sensitivity, self.uncertainty = torch.zeros(size, device=device), torch.zeros(size, device=device)
        self.kept = torch.ones(len(layers), schedule.rank, dtype=torch.bool, device=device)

    @torch.no_grad()
    def after(self, moment: Moment) -> Sequence[str]:
        """Note the step's importance, choose which triplets stay, and put out the others: names of what was changed."""
        if moment.step < self._schedule.fallen:
            self._note(moment.gradients)
        if self._schedule.shares_out(moment.step):
            budget = self._schedule.budget(moment.step, len(self.kept))
            self.kept = chosen(self.scores(), budget)
        elif moment.step < self._schedule.fallen:
            return ()
        for name, kept in zip(self.names["lora_E"], self.kept, strict=True):
            self._all[name].masked_fill_(~kept[:, None], 0.0)
        return self.names["lora_E"]

    def _note(self, gradients: Mapping[str, Tensor]) -> None:
        """Sensitivity |w g| and its uncertainty, each smoothed (equations 9 and 10)."""
        values = torch.cat([value.detach().float().flatten() for value in self._all.values()])
        now = values.mul_(torch.cat([gradients[name].flatten() for name in self._all])).abs_()
        self.sensitivity.lerp_(now, 1 - self._beta1)
        self.uncertainty.lerp_(now.sub_(self.sensitivity).abs_(), 1 - self._beta2)

    def scores(self) -> Tensor:
        """Importance of each triplet (layers, rank): its value's, and the means over its two vectors' (equation 8)."""
        sizes = [value.numel() for value in self._all.values()]
        parts = (self.sensitivity * self.uncertainty).split(sizes)
        scored = {name: part.view_as(self._all[name]) for name, part in zip(self._all, parts, strict=True)}
        a = torch.stack([scored[name].mean(1) for name in self.names["lora_A"]])
        e = torch.stack([scored[name].view(-1) for name in self.names["lora_E"]])
        b = torch.stack([scored[name].mean(0) for name in self.names["lora_B"]])
        return e + (a + b)

    def penalty(self) -> Tensor:
        """Mean of |A A^T - I| and |B^T B - I| over all matrices, in float32: unsquared, as PEFT and the authors' code have it."""
        shaped: dict[tuple[int, ...], list[Tensor]] = {}
        for half in ("lora_A", "lora_B"):
            for name in self.names[half]:
                rows = self._all[name] if half == "lora_A" else self._all[name].T
                shaped.setdefault(tuple(rows.shape), []).append(rows)
        stacks = [torch.stack(rows).float() for rows in shaped.values()]
        grams = torch.cat([rows @ rows.transpose(1, 2) for rows in stacks])
        return torch.linalg.matrix_norm(grams - torch.eye(grams.shape[1], device=grams.device)).mean()

    def pattern(self) -> dict[str, list[bool]]:
        """Which triplets say something, by layer, as PEFT's config holds it."""
        return {
            name.removesuffix(".default"): (self._all[name] != 0).view(-1).tolist() for name in self.names["lora_E"]
        }

    def state(self) -> dict[str, Tensor]:
        return {"sensitivity": self.sensitivity, "uncertainty": self.uncertainty, "kept": self.kept}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(saved[name])


def chosen(scores: Tensor, budget: int) -> Tensor:
    """The `budget` highest scores; of equal ones at the edge none."""
    lost = scores.numel() - budget
    return scores > (scores.flatten().kthvalue(lost).values if lost else -1.0)
