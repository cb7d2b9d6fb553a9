"""The frozen base shared out: each process holds its part of every layer and gathers a layer whole while it is at work.

PyTorch's FSDP2 (Zhao et al. 2023, arXiv 2304.11277). What trains is not shared out: it is small, every process holds
all of it and its gradients are summed as without sharding, so that checkpoints are the same. A layer's whole weights
live from its forward's begin to its end, and again in its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core import events
from tasks.core.errors import ModelError, ParamsError
from tasks.ml.packing import Pack
from tasks.ml.tuned import Tuned
from tasks.ml.world import World

METHOD = "loss_sum"
"""The model's method that computes with the embeddings and the head, outside its own forward."""


def shard(tuned: Tuned, world: World) -> Tuned:
    """Keep this process's part of what is frozen. Every process holds the whole model when it calls this.

    ParamsError: the method trains more than it leaves frozen, so that little would be shared out.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    model: Any = tuned.runner.model
    trained = set(tuned.trainable().values())
    before = held_bytes(model)
    if before < 2 * sum(value.nbytes for value in trained):
        raise ParamsError(
            "train.launch.sharded shares out the frozen base, and train.method trains most of it: set it to false"
        )
    options: dict[str, Any] = {
        "mesh": init_device_mesh(model.device.type, (world.size,)),
        "ignored_params": trained,
    }
    for layer in _layers(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    setattr(model, METHOD, tuned.runner.loss_sum)
    register_fsdp_forward_method(model, METHOD)
    events.note(f"this process holds {held_bytes(model) / 1e6:.1f} of the model's {before / 1e6:.1f} MB")
    return replace(tuned, runner=replace(tuned.runner, loss_sum=_ungraded(getattr(model, METHOD))))


def held_bytes(model: nn.Module) -> int:
    """Bytes of all parameters in this process."""
    local = [getattr(value, "to_local", lambda value=value: value)() for value in model.parameters()]
    return sum(value.nbytes for value in local)


def _layers(model: Any) -> list[nn.Module]:
    """The layers that transformers itself keeps whole when it spreads a model. ModelError: it names none."""
    kinds: set[str] = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ModelError(
            "the base doesn't name its layers, so it can't be shared out: set train.launch.sharded to false"
        )
    return layers


def _ungraded(loss_sum: Callable[[Pack, float], Tensor]) -> Callable[[Pack, float], Tensor]:
    """Gathered weights are reused by later steps, so none may be made in inference mode, which backward passes refuse."""

    def outside(pack: Pack, noise: float) -> Tensor:
        if not torch.is_inference_mode_enabled():
            return loss_sum(pack, noise)
        with torch.inference_mode(False), torch.no_grad():
            return loss_sum(pack, noise)

    return outside
