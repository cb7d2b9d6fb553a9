"""A GGUF base's own blocks, kept beside the weights that were unpacked from them: `packed/` in the base's folder.

    packed/blocks.json           format version, and each weight's number format and shape (rows are outputs)
    packed/blocks.safetensors    each weight's bytes as the file has them, a row of blocks an output

In a folder of its own, so that nobody takes the blocks for weights. Only linear layers of a quantised kind are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.ml.gguf_base import tensors
from tasks.ml.gguf_base.architectures import Place
from tasks.ml.gguf_base.blocks import KINDS, Kind
from tasks.ml.gguf_base.reader import Gguf

FOLDER = "packed"
BLOCKS = "blocks.safetensors"
INDEX = "blocks.json"
FORMAT = 1

_PACKED = {kind.name: kind for kind in KINDS.values() if kind.unpack is not None and kind.elements > 1}


@dataclass(frozen=True)
class Weight:
    """A linear layer's weight of `outputs` rows and `inputs` columns."""

    kind: Kind
    outputs: int
    inputs: int

    @property
    def row(self) -> int:
        """Bytes a row."""
        return self.inputs // self.kind.elements * self.kind.size


def write(gguf: Gguf, places: Mapping[str, Place], base: Path) -> int:
    """Keep what can be kept, in the model's order of rows; the number of weights, 0 where the file has no such blocks."""
    names = {
        place.name: name for name, place in places.items() if place.linear and gguf.tensors[name].kind.name in _PACKED
    }
    if not names:
        return 0
    found = {place: Weight(gguf.tensors[name].kind, *places[name].shape) for place, name in sorted(names.items())}
    (base / FOLDER).mkdir()
    with (base / FOLDER / BLOCKS).open("wb") as stream:
        sizes = {place: ("U8", (it.outputs, it.row), it.outputs * it.row) for place, it in found.items()}
        stream.write(weights.compose(sizes, {"format": "pt"}))
        for place in found:
            stream.write(tensors.packed_rows(gguf, gguf.tensors[names[place]], places[names[place]].heads).data)
    entries = {place: {"kind": it.kind.name, "shape": [it.outputs, it.inputs]} for place, it in found.items()}
    text = json.dumps({"format": FORMAT, "weights": entries}, indent=1) + "\n"
    (base / FOLDER / INDEX).write_text(text, encoding="utf-8")
    return len(found)


def read(base: Path) -> Mapping[str, Weight]:
    """What is kept, by the weight's name in the model. ModelError: nothing is, or the two files don't agree."""
    index = base / FOLDER / INDEX
    if not index.is_file():
        raise ModelError(
            f"{base} keeps no packed blocks: only a base fetched from a GGUF file with quantised linear layers does. "
            "Choose another base for qlora, or fetch such a file"
        )
    try:
        value: dict[str, Any] = json.loads(index.read_bytes())
        if value["format"] != FORMAT:
            raise ModelError(f"{index} has the format {value['format']!r}; known here: {FORMAT}. Fetch the base again")
        found = {name: Weight(_PACKED[entry["kind"]], *entry["shape"]) for name, entry in value["weights"].items()}
        stored = {name: tensor.shape for name, tensor in weights.header(base / FOLDER / BLOCKS).items()}
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise ModelError(f"{index} is damaged ({error!r}): fetch the base again") from None
    if stored != {name: (weight.outputs, weight.row) for name, weight in found.items()}:
        raise ModelError(f"{index} and {BLOCKS} beside it don't agree: fetch the base again")
    return found
