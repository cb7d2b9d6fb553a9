"""A training foretold from the base's config alone: its parameters, its steps and its memory, without a weight in memory.

Tensors are torch's fake ones, which have shapes and devices but no values, so that a base of any size takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import PreTrainedModel

from tasks.core.errors import ParamsError
from tasks.core.sections import PrepareParams, TrainParams
from tasks.data.chatset import Packs, Segment, Tokens
from tasks.ml import attention, fused, loading, memory, methods, packing, prediction, targets
from tasks.ml.packing import Pack
from tasks.ml.prediction import Memory
from tasks.ml.tuned import Ahead, Tuned

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A weight with double quantisation: blocks of 64, their scales in 8 bits by blocks of 256 (arXiv 2305.14314, section 3)."""


@dataclass(frozen=True)
class Prediction:
    """`packs` and `steps` are None where there is no training set yet, `kept` and `recomputed` where the method computes
    with values, as AdaLoRA with its ranks. `room`: bytes that a process may hold here."""

    trainable: int
    total: int
    packs: int | None
    steps: int | None
    kept: Memory | None
    recomputed: Memory | None
    room: float


def predict(params: TrainParams, prepare: PrepareParams, *, base: Path, chat: Path) -> Prediction:
    """From `base`'s config, and the packs of `chat` where they are there, else a full pass of rows as they are allowed.

    ModelError: no config. ParamsError: the method can't fit, or looks at the weights' values before it trains.
    """
    packs = Packs(chat / "train") if (chat / "train").is_dir() else None
    steps = None if packs is None else math.ceil(len(packs) / params.batch.packs) * params.epochs
    tuned, held = attached(base, params, Ahead(steps or 1, [] if packs is None else packs))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _give_devices(tuned.runner.model, mode)
    fused.fuse(tuned.runner.model)
    share = tuned.runner.shares and not params.batch.neftune
    pack = _allowed(params, prepare) if packs is None else prediction.largest(packs, params, share=share)
    kept = _memory(tuned, pack, params, held, mode)
    memory.recompute(tuned.runner.model)
    recomputed = _memory(tuned, pack, params, held, mode)
    room = memory.held() + memory.room(params.launch.processes)
    return Prediction(
        sum(value.numel() for value in tuned.trainable().values()), tuned.runner.model.num_parameters(),
        None if packs is None else len(packs), steps, kept, recomputed, room,
    )  # fmt: skip


def attached(base: Path, params: TrainParams, ahead: Ahead) -> tuple[Tuned, str]:
    """The method on a model of shapes alone (torch's meta device), and how its base is held."""
    method, options = methods.find(params)
    model = loading.empty(base, loading.compute_dtype(params.launch.dtype), attention.NAME)
    try:
        with torch.device("meta"):
            return method.attach(model, params, options, ahead), method.base(options)
    except (RuntimeError, NotImplementedError) as error:
        raise ParamsError(
            f"train.method={params.method} looks at the weights before it trains, so only a run can tell what it "
            f"takes ({' '.join(str(error).split())[:120]})"
        ) from None
    finally:
        attention.forget()


def _give_devices(model: PreTrainedModel, mode: FakeTensorMode) -> None:
    """Tensors of shapes alone become fake ones of the device that would compute, so that code takes its usual ways.

    Vectors become real: that a norm is one is found by trying it out.
    """
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(value) not in made:
                made[id(value)] = _twin(value, mode)
            holder: dict[str, Any] = module._parameters if isinstance(value, nn.Parameter) else module._buffers  # pyright: ignore
            holder[name] = made[id(value)]


def _twin(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    size: dict[str, Any] = {"size": value.shape, "dtype": value.dtype, "device": loading.device()}
    if value.ndim <= 1:
        twin = torch.ones(**size)
    else:
        with mode:
            twin = torch.empty(**size)
    return nn.Parameter(twin, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else twin


def _memory(tuned: Tuned, pack: Pack, params: TrainParams, held: str, mode: FakeTensorMode) -> Memory | None:
    attention.forget()
    try:
        with mode:
            found = prediction.of(tuned, pack, params, 0)
    except DataDependentOutputException:
        return None
    finally:
        attention.forget()
    process = 0 if torch.cuda.is_available() else memory.held()
    return replace(found, process=process, weights=found.weights - _saved(tuned.runner.model, held))


def _saved(model: PreTrainedModel, held: str) -> int:
    """Bytes that holding the linear layers in fewer bits saves; int8 has a scale a row in float32."""
    if held == "plain":
        return 0
    saved = 0.0
    for module in targets.linear(model).values():
        weight: Any = module.weight
        if not weight.requires_grad:
            own = NF4_BITS / 8 * weight.numel() if held == "nf4" else weight.numel() + 4 * weight.shape[0]
            saved += weight.nbytes - own
    return int(saved)


def _allowed(params: TrainParams, prepare: PrepareParams) -> Pack:
    """A full forward pass of the longest rows that the params allow, half of each an answer."""
    tokens = max(params.batch.micro_tokens, prepare.max_length)
    row = Segment(
        "", [0] * prepare.max_length, [place >= prepare.max_length // 2 for place in range(prepare.max_length)]
    )
    rows: Sequence[Tokens] = [row] * (tokens // prepare.max_length)
    return packing.pack(rows)
