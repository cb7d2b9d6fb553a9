"""What each method is told on a tiny base, and where it can't go: one table for every test that goes over all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.sections import Batch, Launch, Optimizer, TrainParams, Validation
from tests.tiny import Family

PARAMS = TrainParams(
    rank=4, alpha=8.0, epochs=2, launch=Launch(dtype="float32"), batch=Batch(packs=4, micro_tokens=96),
    optimizer=Optimizer(learning_rate=1e-2), validation=Validation(times=1),
)  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "adamss": {"options": {"num_subspaces": 2}},
    "adaption_prompt": {"options": {"adapter_len": 4}},
    "fourierft": {"options": {"n_frequency": 64}},
    "oft": {"options": {"oft_block_size": 8}},
    "supertuning": {"options": {"sparsity": 0.9}},
    "trainable_tokens": {"options": {"token_indices": [1, 2, 40, 41]}},
    "waveft": {"options": {"n_frequency": 64}},
}
"""Changes to the params above; a method that is not here takes them as they are."""

CONV1D = "a Conv1D; of its kind these can: "

REFUSED: dict[tuple[str, Family], str] = {
    ("adaption_prompt", "qwen"): "Unsupported model type for adaption prompt: 'qwen2'",
    ("bitfit", "llama"): "LlamaForCausalLM has no biases",
    **dict.fromkeys(
        [
            (name, "gpt2")
            for name in (
                "adamss", "beft", "boft", "c3a", "delora", "glora", "hra", "loha", "lokr", "miss", "oft", "osf",
                "peanut", "psoft", "road", "shira", "supertuning",
            )
        ],
        CONV1D,
    ),
}  # fmt: skip
"""Where a method is refused, and what the refusal says."""

ROUNDED = frozenset({"adalora", "delta_lora"})
"""Methods whose reloaded form computes in another order than the trained one: in bfloat16 the last bits differ."""

RESTS: frozenset[str] = frozenset()
"""Methods of which some trainable tensors may stand still in four steps."""


def params(method: str, base: Path | None = None) -> TrainParams:
    """`base` is the folder of the tiny base, for methods that are given finished adapters of it."""
    return PARAMS.model_copy(update={"method": method, **CASES.get(method, {}), **_given(method, base)})


def options(method: str, base: Path) -> dict[str, Any]:
    return params(method, base).options


def _given(method: str, base: Path | None) -> dict[str, Any]:
    return {"options": {"adapters": experts(base)}} if method == "xlora" and base else {}


def experts(base: Path) -> dict[str, str]:
    """Two plain LoRAs of the base, of unlike ranks and layers, made once and kept beside it."""
    import torch

    from tasks.ml import loading, methods, targets
    from tasks.ml.tuned import Ahead

    folders = {name: base.with_name(f"{base.name}-{name}") for name in ("billing", "tech")}
    for number, folder in enumerate(folders.values()):
        if folder.exists():
            continue
        model = loading.load(base, torch.float32).requires_grad_(False)
        layers = list(targets.linear(model))
        wanted = PARAMS.model_copy(update={"rank": 4 - number, "targets": tuple(layers[number:])})
        method, options = methods.find(wanted)
        torch.manual_seed(number)
        tuned = method.attach(model, wanted, options, Ahead(4, ()))
        with torch.no_grad():
            for value in tuned.trainable().values():
                value.copy_(torch.randn_like(value) * 0.2)
        folder.mkdir()
        tuned.save(folder)
    return {name: str(folder) for name, folder in folders.items()}
