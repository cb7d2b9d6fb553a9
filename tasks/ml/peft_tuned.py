"""PEFT's tuners as what the training loop takes: attached, saved in PEFT's own format, loaded again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.errors import ModelError, ParamsError
from tasks.ml import loading
from tasks.ml.lora import offset
from tasks.ml.tuned import Runner, Tuned


def wrap(model: PreTrainedModel, config: PeftConfig, *, float32: bool = False) -> Tuned:
    """Fresh trainable parameters as the config says, in the base's dtype unless float32 is asked for.

    ParamsError: PEFT finds that they don't fit.
    """
    return of(attach(model, config, float32=float32))


def attach(model: PreTrainedModel, config: PeftConfig, *, float32: bool = False) -> PeftModel:
    """The model with fresh parameters, for methods that set some of them themselves. ParamsError: as `wrap`."""
    loading.forget_path(model)
    with refusals():
        tuned: Any = get_peft_model(model, config, autocast_adapter_dtype=float32)
    return tuned


@contextmanager
def refusals() -> Generator[None]:
    """PEFT says what does not fit by one of these errors, none of them its own."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError) as error:
        raise ParamsError(f"train.method: PEFT refuses: {' '.join(str(error).split())}") from None


def of(tuned: PeftModel) -> Tuned:
    return Tuned(runner(tuned), partial(save, tuned))


def load(model: PreTrainedModel, folder: Path) -> Runner:
    """The model with a saved adapter on it, in evaluation mode, each tensor in the type that it was saved in.

    PEFT would read DoRA's float32 magnitudes into the bfloat16 of their layer. So it makes all of the adapter in
    float32, what is drawn again from a seed included, and what was saved in fewer bits goes back to them.

    ModelError: the folder holds no safetensors file, or another adapter than its config says, or one that is not finite.
    """
    saved = _read(folder)
    with warnings.catch_warnings():
        # PEFT takes AdaLoRA's own pattern for a LoRA pattern and says that it fits nothing, before it applies it.
        warnings.filterwarnings("ignore", "The following rank_pattern keys did not match")
        tuned = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=True).eval()
    # The state is handed over: of one that it takes itself, PEFT says that halves of rank 0 are damaged.
    kept = get_peft_model_state_dict(tuned, state_dict=tuned.state_dict())
    if strange := saved.keys() ^ kept.keys():
        name = min(strange)
        what = (
            "has a tensor that its config knows nothing of"
            if name in saved
            else "is without a tensor that its config asks for"
        )
        raise ModelError(f"{folder}: the adapter {what}: {name}; train it again")
    names = {value.data_ptr(): name for name, value in kept.items() if value.numel()}  # empty ones all lie at 0
    for value in tuned.parameters():
        name = names.get(value.data_ptr())
        if name is not None and saved[name].dtype != value.dtype:
            value.data = saved[name].to(value.device)
    if tuned.active_peft_config.is_prompt_learning:
        from tasks.ml import prompts

        return prompts.runner(tuned)
    return runner(tuned)


def _read(folder: Path) -> dict[str, Tensor]:
    """Its tensors, all finite, beside a config whose numbers are. Of a pickle (`adapter_model.bin`) nothing is read."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(
            f"{folder} has no {file.name}: an adapter is read from safetensors only, for pickles can run code"
        )

    def refuse(number: str) -> None:
        raise ModelError(
            f"{folder / 'adapter_config.json'}: {number} is no number to compute with; train the adapter again"
        )

    json.loads((folder / "adapter_config.json").read_bytes(), parse_constant=refuse)
    tensors = load_file(file)
    if broken := _not_finite(tensors):
        raise ModelError(f"{file}: {broken} is not finite; train the adapter again")
    return tensors


def runner(tuned: PeftModel) -> Runner:
    bare: Any = tuned.get_base_model()
    return replace(Runner.of(bare), generate=tuned.generate)


def save(tuned: PeftModel, folder: Path) -> None:
    """ModelError: something is not finite."""
    with loading.writing(folder):
        tuned.save_pretrained(str(folder), state_dict=offset.plain(tuned, tuned.state_dict()))
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
    if broken := _not_finite(tensors):
        raise ModelError(f"{broken} of the trained adapter is not finite: nothing is written")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in tensors.items() if not value.isfinite().all()), None)


def _order(file: Path) -> None:
    """PEFT writes its sets of modules in an order that changes from process to process."""
    config: dict[str, Any] = json.loads(file.read_bytes())
    for name in config.keys() & {"target_modules", "exclude_modules", "feedforward_modules"}:
        if isinstance(config[name], list):
            config[name].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
