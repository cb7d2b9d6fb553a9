"""A decoder in onnxruntime: ids and a cache of keys and values in, logits and the longer cache out."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.data.chatset import Tokens
from tasks.ml import head

FILE = "model.onnx"
_ORT: Any = importlib.import_module("onnxruntime")
RUNTIME = f"onnxruntime {_ORT.__version__}"

_STATE = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
REFUSALS: tuple[type[Exception], ...] = (
    _STATE.Fail, _STATE.InvalidArgument, _STATE.InvalidGraph, _STATE.InvalidProtobuf, _STATE.NoSuchFile,
    _STATE.NotImplemented, _STATE.RuntimeException,
)  # fmt: skip

Cache = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Decoder:
    """`empty`: the cache of no tokens, by the names of the inputs; `grown`: an input's name -> that of the output that
    holds it afterwards."""

    session: Any
    empty: Cache
    grown: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> Decoder:
        """ModelError: no model that onnxruntime can run."""
        options: Any = _ORT.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0))))
        options.log_severity_level = 3
        try:
            session: Any = _ORT.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        except REFUSALS as error:
            raise ModelError(f"{folder} can't be run by {RUNTIME}: {str(error).splitlines()[0]:.300}") from None
        size = json.loads((folder / "genai_config.json").read_bytes())["model"]["decoder"]["head_size"]
        caches = [put for put in session.get_inputs() if put.name.startswith("past_key_values.")]
        empty = {put.name: np.zeros((1, put.shape[1], 0, size), np.float32) for put in caches}
        return cls(session, empty, {name: name.replace("past_key_values", "present") for name in empty})

    def extend(self, cache: Cache, ids: Sequence[int]) -> tuple[np.ndarray, Cache]:
        """Logits [tokens, vocabulary] of the tokens that follow those of the cache, and the cache with them."""
        before = next(iter(cache.values())).shape[2]
        out: list[np.ndarray] = self.session.run(
            ["logits", *self.grown.values()],
            {
                "input_ids": np.array([ids], np.int64),
                "attention_mask": np.ones((1, before + len(ids)), np.int64),
                **cache,
            },
        )
        return out[0][0], dict(zip(self.grown, out[1:], strict=True))

    def read(self, ids: Sequence[int]) -> Iterator[tuple[int, np.ndarray, Cache]]:
        """A text 128 tokens at a time: where a portion begins, its logits, the cache after it."""
        cache = self.empty
        for start in range(0, len(ids), head.CHUNK):
            logits, cache = self.extend(cache, ids[start : start + head.CHUNK])
            yield start, logits, cache

    def logits(self, row: Tokens) -> Iterator[Tensor]:
        """What predicts each token that counts, in order, in float32: 128 a chunk, the last one what is left."""
        places = np.array([place - 1 for place, mark in enumerate(row.loss) if mark and place > 0], np.int64)
        waiting = torch.zeros(0, 0)
        for start, logits, _ in self.read(row.ids[: places[-1] + 1] if len(places) else ()):
            inside = places[(places >= start) & (places < start + len(logits))] - start
            fresh = torch.from_numpy(logits[inside]).float()
            waiting = torch.cat([waiting, fresh]) if len(waiting) else fresh
            if len(waiting) >= head.CHUNK:
                yield waiting[: head.CHUNK]
                waiting = waiting[head.CHUNK :]
        if len(waiting):
            yield waiting

    def generate(self, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]) -> list[list[int]]:
        """Greedy new ids a prompt, up to and with the one that ends it, `most` at the most."""
        return [self._answer(prompt, most, ends) for prompt in prompts]

    def _answer(self, prompt: Sequence[int], most: int, ends: frozenset[int]) -> list[int]:
        *_, (_, logits, cache) = self.read(prompt)
        new = [int(logits[-1].argmax())]
        while len(new) < most and new[-1] not in ends:
            logits, cache = self.extend(cache, new[-1:])
            new.append(int(logits[-1].argmax()))
        return new
