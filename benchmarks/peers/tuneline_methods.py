"""Every method's step on one lesson, one after another in one process, each on a fresh model: its processor time and size.

LoRA runs again after every few methods, so that each has one beside it on a machine whose speed drifts.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import lesson
from benchmarks.peers.lesson import Lesson
from benchmarks.peers.tuneline_train import Steps, params
from tasks.core.errors import TunelineError

OPTIONS: dict[str, dict[str, Any]] = {
    "trainable_tokens": {"token_indices": [1, 2, 3, 4]},
    "fourierft": {"n_frequency": 1000},
    "waveft": {"n_frequency": 1000},
}
"""Options of methods that can't do without, or whose defaults are meant for larger models."""
EVERY = 5


def main(file: Path, *names: str) -> None:
    """Of `names`, or of every known method."""
    from tasks.ml import loading, methods

    loading.threads()
    given, lora, found = lesson.load(file), 0.0, dict[str, Any]()
    for place, name in enumerate(name for name in names or methods.known() if name != "lora"):
        if place % EVERY == 0:
            lora = _measure("lora", given)["seconds"]
            print(f"lora {lora:.2f} s", file=sys.stderr)
        try:
            found[name] = _measure(name, given)
            found[name]["ratio"] = found[name]["seconds"] / lora
        except TunelineError as error:
            found[name] = {"failed": str(error)}
        print(name, found[name], file=sys.stderr)
    found["lora"] = {**_measure("lora", given), "ratio": 1.0}
    print(json.dumps(found))


def _measure(name: str, given: Lesson) -> dict[str, Any]:
    """Processor seconds of the lesson's steps after the first, and how many parameters train."""
    import torch

    from tasks.ml import attention, fused, loading, methods, training
    from tasks.ml.checkpoints import Checkpoints
    from tasks.ml.tuned import Ahead

    gc.collect()
    chosen = params({"method": name, "options": _options(name, given)}, given)
    method, options = methods.find(chosen)
    torch.manual_seed(7)
    model = loading.load(given.base, loading.compute_dtype("auto"), held=method.base(options), attention=attention.NAME)
    model.requires_grad_(False)
    packs = Clocked(Steps(given, list(range(given.steps))))
    tuned = method.attach(model, chosen, options, Ahead(given.steps, packs.steps))
    fused.fuse(model)
    with tempfile.TemporaryDirectory() as folder:
        result = training.fit(tuned, packs, [], chosen, Checkpoints(Path(folder), 1e9))
    ended = time.process_time()
    size = sum(value.numel() for value in tuned.trainable().values())
    return {"seconds": ended - packs.read[1], "trainable": size, "losses": [record.loss for record in result.history]}


def _options(name: str, given: Lesson) -> dict[str, Any]:
    if name == "xlora":
        return {"adapters": {expert: str(_expert(given, expert)) for expert in ("first", "second")}}
    return OPTIONS.get(name, {})


def _expert(given: Lesson, name: str) -> Path:
    """The lesson's LoRA with a B of its own, for of LoRAs that say nothing no mixture can be learned."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = given.adapter.with_name(name)
    if not folder.exists():
        shutil.copytree(given.adapter, folder)
        tensors = load_file(folder / "adapter_model.safetensors")
        made = {key: torch.randn_like(value) * 0.01 if ".lora_B." in key else value for key, value in tensors.items()}
        save_file(made, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


class Clocked:
    """The lesson's steps, and the processor's clock when each was read."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.read = steps, list[float]()

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> Any:
        self.read.append(time.process_time())
        return self.steps[place]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
