"""What trains beside the adapters: biases, and whole modules of the base."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from tasks.core.errors import ParamsError
from tasks.ml import targets
from tasks.ml.lora import patterns
from tasks.ml.lora.sections import LoraOptions


def settings(model: PreTrainedModel, options: LoraOptions, adapted: list[str]) -> dict[str, Any]:
    """PEFT's settings for them. ParamsError: there are none such, or one of them gets an adapter as well."""
    _check_bias(model, options.bias, adapted)
    saved = [name for wanted in options.modules_to_save for name in _matching(model, wanted)]
    for name in saved:
        if twice := [layer for layer in adapted if layer == name or layer.startswith(f"{name}.")]:
            raise ParamsError(
                f"train.options.modules_to_save: {name} trains in full, and {twice[0]} in it has an adapter: "
                "take it out of one of them (train.targets)"
            )
    return {"bias": options.bias, "modules_to_save": saved or None} | _tie(model, saved)


def _check_bias(model: PreTrainedModel, bias: str, adapted: list[str]) -> None:
    layers = targets.linear(model)
    biases = {
        "none": True,
        "lora_only": any(getattr(layers[name], "bias", None) is not None for name in adapted),
        "all": any(name.endswith("bias") for name, _ in model.named_parameters()),
    }
    if not biases[bias]:
        raise ParamsError(f"train.options.bias={bias}: the layers of this base have no biases; leave it at none")


def _matching(model: PreTrainedModel, wanted: str) -> list[str]:
    """The full names, so that nothing else ends like them: PEFT would take `norm` for `input_layernorm` as well."""
    names = [name for name, module in model.named_modules() if name and list(module.parameters())]
    if found := [name for name in names if name == wanted or name.endswith(f".{wanted}")]:
        return found
    raise ParamsError(
        f"train.options.modules_to_save: no module is called {wanted!r}; {patterns.nearest(wanted, names)}"
    )


def _tie(model: PreTrainedModel, saved: list[str]) -> dict[str, Any]:
    """Tied embeddings and head stay one weight: a copy of one alone would be lost when the model is merged or reloaded."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    if not model.config.tie_word_embeddings or not set(tied) & set(saved):
        return {}
    if "lm_head" not in tied:
        raise ParamsError(
            f"train.options.modules_to_save: {tied[0]} shares its weight with {tied[-1]}, and PEFT ties no copies of them: "
            "leave it out, or use train.method=full"
        )
    return {"modules_to_save": [*(name for name in saved if name not in tied), "lm_head"], "ensure_weight_tying": True}
