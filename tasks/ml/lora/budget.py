"""AdaLoRA's budget of ranks over the steps: a pure function (Zhang et al. 2023, arXiv 2303.10512, equation 12)."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import ParamsError
from tasks.ml.lora.sections import AdaloraOptions


@dataclass(frozen=True)
class Schedule:
    """In optimizer steps: the budget falls after `warmup`, is at its target after `fallen`, and is shared out anew every
    `interval`. `rank` and `target` are ranks a matrix: at the start, and on average at the end."""

    steps: int
    warmup: int
    fallen: int
    interval: int
    rank: int
    target: int

    @classmethod
    def of(cls, options: AdaloraOptions, steps: int, rank: int) -> Schedule:
        """ParamsError: the target is above the rank at the start, or the run is too short."""
        target = options.target_rank or max(1, round(rank / 1.5))
        if target > rank:
            raise ParamsError(
                f"train.options.target_rank={target} is above train.rank={rank}, and AdaLoRA's ranks only fall: "
                "the paper starts with 1.5 times the target"
            )
        warmup, fallen = int(steps * options.warmup), steps - int(steps * options.final)
        if fallen - warmup < 1:
            raise ParamsError(f"train.method=adalora: in {steps} steps its ranks can't fall: raise train.epochs")
        return cls(steps, warmup, fallen, max(1, int(steps * options.interval)), rank, target)

    def budget(self, step: int, matrices: int) -> int:
        """Ranks kept in all after the step (from 1)."""
        first, last = self.rank * matrices, self.target * matrices
        if step <= self.warmup:
            return first
        if step >= self.fallen:
            return last
        left = 1 - (step - self.warmup) / (self.fallen - self.warmup)
        return int((first - last) * left**3 + last)

    def shares_out(self, step: int) -> bool:
        """Whether ranks are chosen anew after the step."""
        return step == self.fallen or (self.warmup < step < self.fallen and step % self.interval == 0)
