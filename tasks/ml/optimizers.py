"""Optimizers by name, and their memory as plain tensors for checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.core.sections import Optimizer

Options = list[dict[str, Any]]

FROM_THE_MAKER = ("qmap1", "qmap2")
"""Constant tables that bitsandbytes hangs on every memory; one storage for all, which safetensors refuses to write."""

SMALL = 4096
"""Below so many values bitsandbytes keeps moments of 32 bits."""


def make(
    params: Optimizer, groups: Mapping[float, Mapping[str, Tensor]], tables: Collection[str] = ()
) -> list[torch.optim.Optimizer]:
    """One optimizer, or two where the named one takes matrices only.

    groups: float32 tensors by name, by their times the rate. tables: embeddings and heads, matrices by shape alone.
    """
    chosen = {times: list(named.values()) for times, named in groups.items()}
    match params.name:
        case "adamw":
            return [_adamw(params, chosen)]
        case "paged_adamw_8bit":
            return [_adamw_8bit(params, chosen)]
        case "adafactor":
            return [_adafactor(params, chosen)]
        case "lion":
            return [_lion(params, chosen)]
        case "muon":
            return _muon(params, groups, tables)


def _options(groups: Mapping[float, list[Tensor]]) -> Options:
    return [{"params": tensors, "times": times} for times, tensors in groups.items() if tensors]


def _adamw(params: Optimizer, groups: Mapping[float, list[Tensor]]) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019, arXiv 1711.05101."""
    return torch.optim.AdamW(_options(groups), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)


def _adamw_8bit(params: Optimizer, groups: Mapping[float, list[Tensor]]) -> torch.optim.Optimizer:
    """AdamW with block-wise 8-bit moments (Dettmers et al. 2022, arXiv 2110.02861), paged on a GPU (arXiv 2305.14314).

    Tensors below 4,096 values keep moments of 32 bits. On a CPU there is nothing to page to, the bits are the same.
    """
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    paged = any(tensor.is_cuda for tensors in groups.values() for tensor in tensors)
    kind: Any = PagedAdamW8bit if paged else AdamW8bit
    return kind(_options(groups), lr=params.learning_rate, weight_decay=params.weight_decay)


def _adafactor(params: Optimizer, groups: Mapping[float, list[Tensor]]) -> torch.optim.Optimizer:
    """Second moments by rows and columns (Shazeer and Stern 2018, arXiv 1804.04235), the rate as it is given.

    The paper's step is relative to a tensor's size: LoRA's B, which starts at zero, would hardly ever move. A second
    epsilon of 1 makes the step the rate itself for tensors whose root mean square is below 1.
    The first is small, but its square is still above zero in float32: a gradient of zero stays a step of zero.
    """
    return torch.optim.Adafactor(
        _options(groups), lr=params.learning_rate, weight_decay=params.weight_decay, eps=(1e-16, 1.0)
    )


def _lion(params: Optimizer, groups: Mapping[float, list[Tensor]]) -> torch.optim.Optimizer:
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675); rates 3 to 10 times below AdamW's."""
    from bitsandbytes.optim import lion

    kind: Any = lion.Lion
    return kind(_options(groups), lr=params.learning_rate, betas=(0.9, 0.99), weight_decay=params.weight_decay)


def _muon(
    params: Optimizer, groups: Mapping[float, Mapping[str, Tensor]], tables: Collection[str]
) -> list[torch.optim.Optimizer]:
    """Orthogonalised momentum for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), AdamW for the rest.

    Scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv 2502.16982, equation 4), so that AdamW's rates hold.
    """
    matrices: dict[float, list[Tensor]] = {}
    others: dict[float, list[Tensor]] = {}
    for times, named in groups.items():
        for name, tensor in named.items():
            (matrices if tensor.ndim == 2 and name not in tables else others).setdefault(times, []).append(tensor)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(torch.optim.Muon(
            _options(matrices), lr=params.learning_rate, weight_decay=params.weight_decay, adjust_lr_fn="match_rms_adamw"
        ))  # fmt: skip
    return [*made, _adamw(params, others)] if others else made


def size(params: Optimizer, shapes: Mapping[str, torch.Size], tables: Collection[str] = ()) -> int:
    """Bytes that it will remember of tensors of these shapes."""
    return sum(_size(params.name, shape, name in tables) for name, shape in shapes.items())


def _size(optimizer: str, shape: torch.Size, table: bool) -> int:
    values = shape.numel()
    match optimizer:
        case "paged_adamw_8bit" if values >= SMALL:
            return 2 * (values + 4 * -(-values // 256))
        case "adafactor" if len(shape) > 1:
            return 4 * (values // shape[-1] + values // shape[-2])
        case "adafactor" | "lion":
            return 4 * values
        case "muon" if len(shape) == 2 and not table:
            return 4 * values
        case _:
            return 8 * values


def tensors(optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Everything that the optimizers remember, as `KEY.NAME`. Law: `restore` of it changes nothing."""
    return {
        f"{key}.{names[parameter]}": value if isinstance(value, Tensor) else torch.tensor(value)
        for optimizer in optimizers
        for parameter, memory in optimizer.state.items()
        for key, value in memory.items()
        if key not in FROM_THE_MAKER
    }


def restore(optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str], saved: Mapping[str, Tensor]) -> None:
    memories: dict[str, dict[str, Tensor]] = {}
    for place, value in saved.items():
        key, _, name = place.partition(".")
        memories.setdefault(name, {})[key] = value
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                if memory := memories.get(names[parameter]):
                    _remember(optimizer, (number, place), parameter, memory)


def _remember(optimizer: Any, place: tuple[int, int], parameter: Tensor, memory: Mapping[str, Tensor]) -> None:
    """bitsandbytes makes its memory itself, paged where that is asked for; it counts steps in plain numbers."""
    group = optimizer.param_groups[place[0]]
    if not hasattr(optimizer, "init_state"):
        on_device = [key for key in memory if key != "step" or group.get("fused")]
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key in on_device else value for key, value in memory.items()
        }
        return
    optimizer.init_state(group, parameter, *place)
    made = optimizer.state[parameter]
    for key, value in memory.items():
        if isinstance(made[key], Tensor):
            made[key].copy_(value)
        else:
            made[key] = value.item()


def keep(old: list[torch.optim.Optimizer], new: list[torch.optim.Optimizer]) -> None:
    """What the old optimizers remember of tensors that the new ones still move."""
    moved = {id(p) for optimizer in new for group in optimizer.param_groups for p in group["params"]}
    remembered = {id(p): memory for optimizer in old for p, memory in optimizer.state.items() if id(p) in moved}
    for optimizer in new:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in remembered:
                    optimizer.state[parameter] = remembered[id(parameter)]
