"""From a base and a training set to an adapter on disk, in PEFT's own format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from tasks.core.errors import ModelError
from tasks.core.sections import TrainParams
from tasks.data import chatset
from tasks.ml import loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints


@dataclass(frozen=True)
class Outcome:
    """`facts` are equal for equal work; `measured` differ from run to run."""

    model: PeftModel
    result: training.Result
    checkpoints: Checkpoints
    facts: dict[str, Any]
    measured: dict[str, Any]

    def write_reports(self, folder: Path) -> None:
        training.write_reports(self.result, folder)

    def write_adapter(self, folder: Path) -> None:
        """ModelError: the adapter never moved from its start, so it would change nothing."""
        with loading.writing(folder):
            self.model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # the model card is the report's
        _order(folder / "adapter_config.json")
        saved = load_file(folder / "adapter_model.safetensors")
        moved = [name for name, value in saved.items() if ".lora_B." in name and value.count_nonzero()]
        if not moved or not all(value.isfinite().all() for value in saved.values()):
            raise ModelError("the trained adapter is all zero or not finite: nothing was learned, nothing is written")


def _order(file: Path) -> None:
    """PEFT writes its set of target modules in an order that changes from process to process."""
    config: dict[str, Any] = json.loads(file.read_bytes())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def train(params: TrainParams, *, chat: Path, base: Path, checkpoints: Path, seconds: float) -> Outcome:
    """Seed, load, attach, fit, in this order: an adapter made before the seed would differ from run to run."""
    method = methods.find(params.method)
    loading.threads()
    torch.manual_seed(params.seed)
    model = loading.load(base, loading.compute_dtype(params.dtype), nf4=method.NF4_BASE, attention=packing.ATTENTION)
    model.requires_grad_(False)
    tuned = method.attach(model, params)
    keeper = Checkpoints(checkpoints, seconds)
    bare: Any = tuned.get_base_model()
    packs, valid = chatset.Packs(chat / "train"), chatset.read(chat / "valid.parquet")
    try:
        result = training.fit(bare, packs, valid, params, keeper)
    except torch.OutOfMemoryError:
        raise MemoryError from None
    trainable, total = tuned.get_nb_trainable_parameters()
    last = result.history[-1]
    facts = {
        "method": params.method, "trainable_parameters": trainable, "total_parameters": total, "steps": last.step,
        "dtype": str(model.dtype).removeprefix("torch."), "nf4_base": method.NF4_BASE,
    }  # fmt: skip
    measured = {
        "seconds": last.seconds,
        "tokens_per_second": last.tokens / last.seconds,
        "peak_memory_bytes": last.memory_bytes,
    }
    return Outcome(tuned, result, keeper, facts, measured)
