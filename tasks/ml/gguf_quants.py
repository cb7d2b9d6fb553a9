"""A whole GGUF file into a quantised one, a tensor at a time: which tensor gets which type, and with what weights.

The types are llama.cpp's own mixtures (`llama_tensor_get_type` in its src/llama-quant.cpp): attention values and every
third down projection get more bits, the head most. The blocks are made by libgguf, ggml's reference quantisers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libgguf
import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFReader, GGUFWriter, LlamaFileType, ReaderTensor, get_tensor_name_map
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from tasks.core import events
from tasks.core.errors import ModelError
from tasks.ml.export.recipe import Recipe

Bits = Callable[[int, int], Kind]
"""The type of a tensor of layer i of n."""


def _more(i: int, n: int) -> bool:
    """The first and the last eighth of the layers, and every third between: there errors cost most."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


@dataclass(frozen=True)
class Mixture:
    """`base` for every matrix but those of `special`, by the last part of their names."""

    file_type: LlamaFileType
    base: Kind
    special: Mapping[str, Bits]


HEAD = "head"
"""The output matrix, or the embeddings where they are tied to it."""
_Q6_HEAD: Mapping[str, Bits] = {HEAD: lambda _i, _n: Kind.Q6_K}

MIXTURES = {
    "q8_0": Mixture(LlamaFileType.MOSTLY_Q8_0, Kind.Q8_0, {}),
    "q6_k": Mixture(LlamaFileType.MOSTLY_Q6_K, Kind.Q6_K, {}),
    "q5_k_m": Mixture(
        LlamaFileType.MOSTLY_Q5_K_M, Kind.Q5_K,
        {**_Q6_HEAD, **dict.fromkeys(("attn_v", "ffn_down"), lambda i, n: Kind.Q6_K if _more(i, n) else Kind.Q5_K)},
    ),
    "q4_k_m": Mixture(
        LlamaFileType.MOSTLY_Q4_K_M, Kind.Q4_K,
        {**_Q6_HEAD, **dict.fromkeys(("attn_v", "ffn_down"), lambda i, n: Kind.Q6_K if _more(i, n) else Kind.Q4_K)},
    ),
    "q4_k_s": Mixture(
        LlamaFileType.MOSTLY_Q4_K_S, Kind.Q4_K,
        {
            **_Q6_HEAD,
            "attn_v": lambda i, _n: Kind.Q5_K if i < 4 else Kind.Q4_K,
            "ffn_down": lambda i, n: Kind.Q5_K if i < n // 8 else Kind.Q4_K,
        },
    ),
    "q4_0": Mixture(LlamaFileType.MOSTLY_Q4_0, Kind.Q4_0, _Q6_HEAD),
    "q3_k_m": Mixture(
        LlamaFileType.MOSTLY_Q3_K_M, Kind.Q3_K,
        {
            **_Q6_HEAD,
            "attn_v": lambda i, _n: Kind.Q5_K if i < 2 else Kind.Q4_K,
            "ffn_down": lambda i, n: Kind.Q5_K if i < n // 16 else Kind.Q4_K if _more(i, n) else Kind.Q3_K,
            "attn_output": lambda _i, _n: Kind.Q4_K,
        },
    ),
}  # fmt: skip
NARROW = {Kind.Q3_K: Kind.Q4_0, Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
"""What stands in for a type of 256 weights a block where a row's width is no multiple of that: llama.cpp's choices."""
KEPT = Kind.Q8_0


def write(merged: Path, whole: Path, file: Path, variant: str, recipe: Recipe) -> dict[str, Any]:
    """Quantise the file `whole`, made from the folder `merged`; facts count the tensors of each type."""
    reader, mixture = GGUFReader(whole), MIXTURES[variant]
    weights = _importance(reader, merged, recipe) if recipe.importance else {}
    chosen = {tensor.name: _kind(tensor, reader, mixture, recipe) for tensor in reader.tensors}
    writer = GGUFWriter(file, _architecture(reader))
    _copy_metadata(reader, writer, mixture.file_type)
    for tensor in reader.tensors:
        kind = chosen[tensor.name]
        shape = [int(side) for side in reversed(tensor.shape)]
        size = int(np.prod(shape[:-1], dtype=np.int64)) * _row_bytes(kind, shape[-1])
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, tensor in enumerate(reader.tensors, start=1):
        writer.write_tensor_data(_data(tensor, chosen[tensor.name], weights.get(tensor.name)))
        events.progress("quantise", number, len(reader.tensors))
    writer.close()
    counts = Counter(chosen[tensor.name].name for tensor in reader.tensors)
    return {"types": dict(sorted(counts.items())), "weighted_tensors": sum(name in weights for name in chosen)}


def _architecture(reader: GGUFReader) -> str:
    return str(_value(reader, "general.architecture"))


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ModelError(f"the converted file has no {key}")
    return field.contents()


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter, kind: LlamaFileType) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(kind)


def _kind(tensor: ReaderTensor, reader: GGUFReader, mixture: Mixture, recipe: Recipe) -> Kind:
    """Vectors, norms, routers and positions stay as they are; so does what no type's blocks fit."""
    if not _is_quantised(tensor):
        return tensor.tensor_type
    wanted = _wanted(tensor.name, reader, mixture, recipe)
    width = int(tensor.shape[0])
    for kind in (wanted, NARROW.get(wanted, wanted)):
        if _row_bytes(kind, width):
            return kind
    return Kind.F16


def _is_quantised(tensor: ReaderTensor) -> bool:
    plain = ("norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not tensor.name.endswith(plain)


def _wanted(name: str, reader: GGUFReader, mixture: Mixture, recipe: Recipe) -> Kind:
    block = re.match(r"blk\.(\d+)\.(\w+)\.weight$", name)
    if block is None:
        tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
        if recipe.ends:
            return KEPT
        is_head = name == ("token_embd.weight" if tied else "output.weight")
        return mixture.special[HEAD](0, 1) if is_head and HEAD in mixture.special else mixture.base
    layer, part = int(block[1]), block[2]
    if layer in {int(kept.rpartition(".")[2]) for kept in recipe.keep}:
        return KEPT
    layers = int(_value(reader, f"{_architecture(reader)}.block_count"))
    return mixture.special[part](layer, layers) if part in mixture.special else mixture.base


def _row_bytes(kind: Kind, width: int) -> int:
    """Bytes of a row of so many weights; 0 where the type's blocks don't fit it."""
    if kind is Kind.F32:
        return 4 * width
    return 2 * width if kind in (Kind.F16, Kind.BF16) else libgguf.row_size(kind, width)


def _data(tensor: ReaderTensor, kind: Kind, weights: np.ndarray | None) -> np.ndarray:
    if kind == tensor.tensor_type:
        return tensor.data
    values = dequantize(tensor.data, tensor.tensor_type)
    if kind is Kind.F16:
        return values.astype(np.float16)
    fits = weights is not None and weights.shape[-1] == values.shape[-1] and kind is not KEPT
    return libgguf.quantize_rows(values, kind, weights if fits else None)


def _importance(reader: GGUFReader, merged: Path, recipe: Recipe) -> dict[str, np.ndarray]:
    """For each tensor the mean square of its inputs on the calibration rows, by the file's names: llama.cpp's
    importance matrix (its tools/imatrix). Where the converter cut a module up, it has none."""
    from tasks.ml import activations

    name = _architecture(reader)
    architecture = next(kind for kind, known in MODEL_ARCH_NAMES.items() if known == name)
    names = get_tensor_name_map(architecture, int(_value(reader, f"{name}.block_count")))
    squares = activations.mean_squares(merged, recipe.calibration)
    found = {names.get_name(module): value.numpy() for module, value in squares.items()}
    return {f"{name}.weight": value for name, value in found.items() if name}
