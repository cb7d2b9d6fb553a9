"""Options of the LoRA family. No torch here: options are checked before anything heavy is imported."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.core.sections import Count, Section, Share, Word

PLAIN = (
    "kaiming", "gaussian", "xavier", "orthogonal", "eva", "pissa", "pissa_niter_K", "olora", "corda", "corda_kpm"
)  # fmt: skip
QUANTISED = ("kaiming", "gaussian", "xavier", "orthogonal", "eva", "pissa", "pissa_niter_K", "olora", "loftq")


def _known(start: str, known: tuple[str, ...], elsewhere: str) -> str:
    kind = "" if start == "pissa_niter_K" else re.sub(r"^pissa_niter_[1-9]\d*$", "pissa_niter_K", start)
    if kind in known:
        return start
    names = ", ".join(known).replace("_K", "_K (K iterations, for instance pissa_niter_16)")
    raise ValueError(f"{elsewhere if kind in PLAIN + QUANTISED else 'no such start'}; known here: {names}")


def _plain(start: str) -> str:
    return _known(start, PLAIN, "it makes up for quantisation: that is train.method=qlora")


def _quantised(start: str) -> str:
    return _known(start, QUANTISED, "it decomposes the weights, and these are quantised: that is train.method=lora")


class Allocate(Section):
    """Ranks by importance: min(rank x (1 + importance), max_rank), scaled down together to what `budget` allows."""

    by: Annotated[
        Literal["none", "sensitivity", "gradient", "variance"],
        Field(
            description="|gradient x weight|, the gradient's norm, or the variance that EVA finds in the activations"
        ),
    ] = "none"
    max_rank: Annotated[int, Field(ge=0, description="of a layer; 0: twice train.rank")] = 0
    budget: Annotated[float, Field(gt=0, le=2, description="times the parameters of train.rank everywhere")] = 1.0


class LoraOptions(Section):
    dropout: Share = 0.0
    init: Annotated[str, AfterValidator(_plain), Field(description=f"where A and B start: {', '.join(PLAIN)}")] = (
        "kaiming"
    )
    rslora: Annotated[bool, Field(description="scale by alpha/sqrt(rank): Kalajdzievski 2023, arXiv 2312.03732")] = (
        False
    )
    rank_pattern: dict[Word, Count] = Field(
        default_factory=dict[Word, Count],
        description="rank by a name's end, a regular expression as in PEFT: {mlp.*: 8}",
    )
    alpha_pattern: dict[Word, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict[Word, Annotated[float, Field(gt=0)]], description="alpha, likewise"
    )
    bias: Annotated[Literal["none", "all", "lora_only"], Field(description="biases of the base that train too")] = (
        "none"
    )
    modules_to_save: Annotated[
        tuple[Word, ...], Field(description="modules of the base that train in full, for instance embed_tokens")
    ] = ()
    allocate: Allocate = Allocate()
    sample: Annotated[Count, Field(description="packs that eva, corda and allocate look at")] = 8

    @model_validator(mode="after")
    def _one_rule_for_ranks(self) -> Self:
        if self.rank_pattern and self.allocate.by != "none":
            raise ValueError("rank_pattern and allocate both say the ranks: give one of them")
        return self


class Magnitude(Section):
    """When DoRA's magnitude trains, and how fast."""

    after: Annotated[Share, Field(description="share of the steps during which it rests, at the most")] = 0.0
    window: Annotated[
        int,
        Field(ge=0, description="it rests no longer than until the mean loss of so many steps is flat; 0: don't look"),
    ] = 0
    tolerance: Annotated[
        float, Field(ge=0, lt=1, description="flat: no more than this share below the window before")
    ] = 0.01
    rate: Annotated[float, Field(gt=0, description="times the learning rate")] = 1.0

    @model_validator(mode="after")
    def _rests_at_all(self) -> Self:
        if self.window and not self.after:
            raise ValueError("window ends the rest early: say with `after` how long it lasts at the most")
        return self


class DoraOptions(LoraOptions):
    magnitude: Magnitude = Magnitude()


class QloraOptions(DoraOptions):
    init: Annotated[str, AfterValidator(_quantised), Field(description=f"{', '.join(QUANTISED)}")] = "kaiming"
    base: Annotated[
        Literal["nf4", "int8", "packed"],
        Field(description="how the frozen weights are held; packed: in the blocks of the GGUF file that they came in"),
    ] = "nf4"
    dora: Annotated[bool, Field(description="DoRA on the quantised base: QDoRA")] = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.base == "packed" and self.init == "loftq":
            raise ValueError("init: loftq makes up for what quantisation lost, and a packed base has lost nothing")
        if self.magnitude != Magnitude() and not self.dora:
            raise ValueError("magnitude belongs to DoRA: set dora: true as well")
        return self


class LoraplusOptions(LoraOptions):
    ratio: Annotated[float, Field(ge=1, description="of B's learning rate to A's")] = 16.0


class AdaloraOptions(Section):
    dropout: Share = 0.0
    target_rank: Annotated[int, Field(ge=0, description="mean rank at the end; 0: two thirds of train.rank")] = 0
    warmup: Annotated[Share, Field(description="share of the steps before the budget falls")] = 0.1
    final: Annotated[Share, Field(description="share of the steps after it has fallen")] = 0.3
    interval: Annotated[Share, Field(description="share of the steps between two allocations, one step at least")] = (
        0.01
    )
    beta1: Annotated[float, Field(gt=0, lt=1, description="smoothing of the sensitivity")] = 0.85
    beta2: Annotated[float, Field(gt=0, lt=1, description="smoothing of its uncertainty")] = 0.85
    orthogonality: Annotated[float, Field(ge=0, description="weight of the penalty")] = 0.5

    @model_validator(mode="after")
    def _falls_at_all(self) -> Self:
        if self.warmup + self.final > 0.9:
            raise ValueError("warmup and final together leave less than a tenth of the steps for the budget to fall")
        return self
