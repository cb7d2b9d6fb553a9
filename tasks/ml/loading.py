"""Models from folders, never with code of their own: plain, quantised, or with an adapter."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tasks.core import collector, weights
from tasks.core.errors import ModelError

if TYPE_CHECKING:
    from tasks.ml.tuned import Runner


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(name: str) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it, else float32: software bfloat16 is slower than float32."""
    if name != "auto":
        return getattr(torch, name)
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        capable = torch.cpu.get_capabilities()
        fast = bool(capable.get("avx512_bf16") or capable.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def describe_device() -> str:
    """What this machine computes on, in words."""
    dtype = str(compute_dtype("auto")).removeprefix("torch.")
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, computing in {dtype}"
    return f"no accelerator: {len(os.sched_getaffinity(0))} processor cores, computing in {dtype}"


def threads() -> None:
    """Use the cores this process may run on; the count belongs to a bit-exact result, so the user can pin it.

    glibc gives freed memory back to the kernel, which zeroes it again at the next step: a seventh of a training's time.
    oneDNN keeps the code that it makes for each new shape, 1,024 pieces: packs are of ever new shapes, so that a long training
    would grow by hundreds of MB. With 64 it takes no longer.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # read at its first product
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)
    torch.set_num_threads(int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0)))))


def load(
    folder: Path, dtype: torch.dtype, *, held: str = "plain", keep: Collection[str] = (), attention: str = "sdpa"
) -> PreTrainedModel:
    """The model of a folder in `dtype`, its frozen linear weights `held` in `nf4`, `int8` or `packed` if asked; those
    of the modules named in `keep` stay in `dtype`.

    NF4: Dettmers et al. 2023, arXiv 2305.14314. int8: Dettmers et al. 2022, arXiv 2208.07339. packed: the base's own
    GGUF blocks (tasks/ml/packed.py).

    A folder that was quantised says so in its config and is loaded as it is.
    ModelError: transformers can't load it, it is to be quantised and already is, or a weight is not finite.
    """
    collector.usual()
    if held != "plain" and (found := stored_quantisation(folder)):
        raise ModelError(
            f"{folder} is already quantised ({found}): train.method=lora trains beside it as it is; "
            f"to hold it in {held}, fetch the unquantised base"
        )
    if held == "packed":
        from tasks.ml import packed

        return packed.load(folder, dtype, attention=attention)
    options: dict[str, Any] = {} if held == "plain" else {"quantization_config": quantization(held, dtype, keep)}
    if stored_quantisation(folder) == "compressed-tensors":
        options = {"quantization_config": _unpacked()}
    if held != "plain":
        check_files(folder)
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a warning a product in int8, else
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, device_map=str(device()),
            local_files_only=True, use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, output_loading_info=True, **options,
        )  # fmt: skip
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ModelError(f"{folder} can't be loaded as a causal language model: {error}") from None
    model: PreTrainedModel = loaded[0]
    check_whole(loaded[1], folder)
    check_finite(model, folder)
    if stored_quantisation(folder) == "bitsandbytes":
        _all_in(model, dtype)
    keep_packing_reversible(model)
    keep_int8_scales(model)
    return model.eval()


def empty(folder: Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
    """The frozen model of a folder's config on the meta device: shapes and no weights. ModelError: it has none."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ModelError(f"{folder} has no config of a causal language model: {error}") from None
    return model.requires_grad_(False).eval()


def stored_quantisation(folder: Path) -> str | None:
    """How the folder's weights are quantised, as its config says; None: they are not."""
    file = folder / "config.json"
    config: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
    quantised: dict[str, Any] = config.get("quantization_config") or {}
    return quantised.get("quant_method")


def check_whole(found: dict[str, Any], folder: Path) -> None:
    """ModelError: a tensor is not there, or of another shape than the config says. transformers would draw it at random."""
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise ModelError(f"{folder}: {name} has the shape {tuple(stored)}, its config asks for {tuple(wanted)}")
    if lacking := sorted(found["missing_keys"]):
        raise ModelError(f"{folder} lacks {len(lacking)} of its tensors, {lacking[0]} first: fetch or make it again")


def check_finite(model: torch.nn.Module, folder: Path) -> None:
    """ModelError: a weight is NaN or infinite. Sums see both, and cost a fraction of reading the file."""
    for name, parameter in model.named_parameters():
        for value in parts(parameter):
            _check_finite(name, value, folder)


def check_files(folder: Path) -> None:
    """As `check_finite`, of weights that are about to be quantised: their codes would hide it."""
    for shard in weights.shards(folder):
        with safe_open(shard, "pt") as tensors:
            for name in weights.header(shard):
                _check_finite(name, tensors.get_tensor(name), folder)


def _check_finite(name: str, value: torch.Tensor, folder: Path) -> None:
    if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite():
        for place in (~value.isfinite()).nonzero().tolist():
            raise ModelError(
                f"{folder}: {name} is {value[tuple(place)].item()} at {place}: fetch or make the model again"
            )


def parts(value: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a packed one is made of; of a plain one, itself."""
    if not is_traceable_wrapper_subclass(value):
        return [value]
    return [inner for name in value.__tensor_flatten__()[0] for inner in parts(getattr(value, name))]


def quantization(held: str, dtype: torch.dtype, keep: Collection[str] = ()) -> Any:
    from transformers import BitsAndBytesConfig

    # Without names transformers leaves out the head; with names it leaves out those alone.
    skip: dict[str, Any] = {"llm_int8_skip_modules": [*sorted(keep), "lm_head"]} if keep else {}
    if held == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **skip)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
        **skip,
    )  # fmt: skip


def _unpacked() -> Any:
    """compressed-tensors unpacks at the first forward in any case, has no weights until then, and in 0.20 can't read the
    zeros of packed weights. Unpacked at loading they are whole."""
    from transformers import CompressedTensorsConfig

    warnings.filterwarnings("ignore", "You passed `quantization_config` or equivalent")  # it is what the folder says
    return CompressedTensorsConfig(dequantize=True)


def keep_packing_reversible(model: torch.nn.Module) -> None:
    """bitsandbytes 0.50 repacks 4-bit weights in place at the first forward in eval mode on AVX512-BF16 processors;
    afterwards most LoRA matrices silently get no gradient. Its own switch turns that off."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  torch types attributes as tensors


def _all_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Of a folder in int8, transformers 5.23 brings the biases to `dtype` and leaves the plain weights as they were stored:
    a norm with both can't compute."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def keep_int8_scales(model: torch.nn.Module) -> None:
    """bitsandbytes 0.50 takes the scales off an int8 weight at its first product; PEFT 0.21 dequantises the weight in
    every DoRA forward and, on a CPU, puts it back without them. They stay on the weight instead."""
    for module in model.modules():
        if hasattr(module, "init_8bit_state"):
            setattr(module, "init_8bit_state", partial(_take_scales, module))  # noqa: B010


def _take_scales(layer: Any) -> None:
    layer.state.CB, layer.state.SCB = layer.weight.CB, layer.weight.SCB
    layer.weight.CB = None


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Safetensors wraps the operating system's refusals in an error of its own. OSError: what it was."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None


def forget_path(model: Any) -> None:
    """A path of this machine has no place in a hashed output; manifests name a base by its digest."""
    model.name_or_path = model.config._name_or_path = ""


def with_adapter(model: PreTrainedModel, adapter: Path) -> Runner:
    """The model with a saved adapter on it, in evaluation mode: tuneline's own format or PEFT's."""
    from tasks.ml import own_adapter

    if (adapter / own_adapter.CONFIG).exists():
        return own_adapter.load(model, adapter)
    from tasks.ml import peft_tuned

    try:
        return peft_tuned.load(model, adapter)
    except (ValueError, TypeError, RuntimeError, KeyError, OSError, re.error, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"the adapter {adapter} is damaged or does not fit its base: {said:.300}") from None
