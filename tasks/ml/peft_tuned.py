"""PEFT's tuners as what the training loop takes: attached, saved in PEFT's own format, loaded again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.errors import ModelError, ParamsError
from tasks.ml import loading
from tasks.ml.tuned import Runner, Tuned


def wrap(model: PreTrainedModel, config: PeftConfig) -> Tuned:
    """Fresh trainable parameters as the config says. ParamsError: PEFT finds that they don't fit."""
    loading.forget_path(model)
    try:
        tuned: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ParamsError(f"train.method: PEFT refuses: {' '.join(str(error).split())}") from None
    return Tuned(runner(tuned), partial(save, tuned))


def runner(tuned: PeftModel) -> Runner:
    bare: Any = tuned.get_base_model()
    return replace(Runner.of(bare), generate=tuned.generate)


def save(tuned: PeftModel, folder: Path) -> None:
    """ModelError: something is not finite."""
    with loading.writing(folder):
        tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # the model card is the report's
    _order(folder / "adapter_config.json")
    _check_finite(load_file(folder / "adapter_model.safetensors"))


def write(config: PeftConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Layers of our own, named as in the bare model, as an adapter that PEFT loads. ModelError: one is not finite."""
    _check_finite(tensors)
    named = {f"base_model.model.{name}": tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with loading.writing(folder):
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    _order(folder / "adapter_config.json")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise ModelError(f"{broken[0]} of the trained adapter is not finite: nothing is written")


def _order(file: Path) -> None:
    """PEFT writes its set of target modules in an order that changes from process to process."""
    config: dict[str, Any] = json.loads(file.read_bytes())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
