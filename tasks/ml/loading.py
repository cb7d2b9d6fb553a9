"""Models from folders, never with code of their own: plain, quantised, or with an adapter."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from tasks.core.errors import DISK_FULL, ModelError, ResourceError

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
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)
    torch.set_num_threads(int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0)))))


def load(folder: Path, dtype: torch.dtype, *, held: str = "plain", attention: str = "sdpa") -> PreTrainedModel:
    """The model of a folder in `dtype`, its frozen linear weights `held` in `nf4` or `int8` if asked.

    NF4: Dettmers et al. 2023, arXiv 2305.14314. int8: Dettmers et al. 2022, arXiv 2208.07339.

    A folder that was quantised says so in its config and is loaded as it is.
    ModelError: transformers can't load it.
    """
    options: dict[str, Any] = {} if held == "plain" else {"quantization_config": quantization(held, dtype)}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, device_map=str(device()),
            local_files_only=True, use_safetensors=True, trust_remote_code=False, **options,
        )  # fmt: skip
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ModelError(f"{folder} can't be loaded as a causal language model: {error}") from None
    keep_packing_reversible(model)
    return model.eval()


def quantization(held: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if held == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_packing_reversible(model: torch.nn.Module) -> None:
    """bitsandbytes 0.50 repacks 4-bit weights in place at the first forward in eval mode on AVX512-BF16 processors;
    afterwards most LoRA matrices silently get no gradient. Its own switch turns that off."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  torch types attributes as tensors


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Safetensors wraps the operating system's refusals in an error of its own. ResourceError: the disk is full."""
    try:
        yield
    except SafetensorError as error:
        if "os error 28" not in str(error):
            raise
        raise ResourceError(f"{folder}: {DISK_FULL}") from None


def forget_path(model: Any) -> None:
    """A path of this machine has no place in a hashed output; manifests name a base by its digest."""
    model.name_or_path = model.config._name_or_path = ""


def with_adapter(model: PreTrainedModel, adapter: Path) -> Runner:
    """The model with a saved adapter on it, in evaluation mode: tuneline's own format or PEFT's."""
    from tasks.ml import own_adapter

    if (adapter / own_adapter.CONFIG).exists():
        return own_adapter.load(model, adapter)
    from peft import PeftModel

    from tasks.ml import peft_tuned

    try:
        return peft_tuned.runner(PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).eval())
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the adapter {adapter} does not fit its base: {error}") from None
