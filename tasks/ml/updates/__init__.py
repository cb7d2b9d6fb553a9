"""What an adapter makes of its base: updates by tensor name. Every tensor without one stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The thin matrices that an update was trained as; `halves` reads b (outputs, r) with its scale, and a (r, inputs).

    whole: the update adds B A and does nothing else. turned: the base stores its matrix as (inputs, outputs).
    """

    halves: Callable[[], tuple[Tensor, Tensor]]
    whole: bool
    turned: bool


@dataclass(frozen=True)
class Update:
    """`value` gives a tensor as it is after training from the one before: both in float32, both of one shape. What was
    trained is read when it is asked for, so that updates take no memory.

    alone: a tensor that the base ties to this one keeps its old value. origin: what training saw in place of the base's
    tensor, if that was something else; `value` takes that.
    """

    value: Callable[[Tensor], Tensor]
    alone: bool = False
    factors: Factors | None = None
    origin: Callable[[Tensor], Tensor] | None = None


Updates = Mapping[str, Update]


def same(before: Tensor) -> Tensor:
    """No change."""
    return before


class Unmergeable(Exception):
    """What was trained is no change of the base's tensors; the message says in one sentence what it is instead."""


BESIDE = {
    "PREFIX_TUNING": "prefix tuning trains keys and values before the prompt, which no weight of the base can hold",
    "CARTRIDGE": "a cartridge holds keys and values before the prompt, which no weight of the base can hold",
    "PROMPT_TUNING": "prompt tuning trains vectors before the prompt, which no weight of the base can hold",
    "MULTITASK_PROMPT_TUNING": "prompt tuning trains vectors before the prompt, which no weight of the base can hold",
    "P_TUNING": "p-tuning trains vectors before the prompt, which no weight of the base can hold",
    "CPT": "context-aware prompt tuning trains vectors before the prompt, which no weight of the base can hold",
    "ADAPTION_PROMPT": "adaption prompts are read by gated attention of their own, which the base does not have",
    "XLORA": "X-LoRA mixes its adapters anew for every token, so no single change of the weights stands for them",
    "POLY": "Poly chooses among its adapters by task, so no single change of the weights stands for them",
    "SHADOW": "a shadow network runs beside the base, which has no layers for it",
}
"""PEFT's kinds that can't be merged, by what their config calls them."""


def of(base: Path, adapter: Path) -> Updates:
    """The updates by tensor names as the model has them. LoRA and its kin are read from the adapter's files;
    PEFT's other kinds are merged by PEFT itself, a layer at a time.

    Unmergeable: there are none. ModelError: the adapter is damaged, or belongs to another base.
    """
    from tasks.ml.updates import lora

    if not (adapter / "adapter_config.json").is_file():
        from tasks.ml.updates import own  # as `by_peft`: for LoRA, transformers and PEFT are not even imported

        return own.updates(base, adapter)
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    if reason := BESIDE.get(config["peft_type"]):
        raise Unmergeable(reason)
    if (found := lora.updates(config, adapter)) is not None:
        return found
    from tasks.ml.updates import by_peft

    return by_peft.updates(base, adapter)
