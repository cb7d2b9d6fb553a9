"""How fast this machine multiplies the matrices of a model, in one JSON line: no step can be faster than its products.

    python benchmarks/measuring/products.py BASE TOKENS LABELLED SECONDS

The frozen weights of all linear layers with TOKENS tokens and of the head with LABELLED ones, each forward and for the
gradient of its input, in bfloat16 and float32; each shape is measured once and counts as often as the model has it.
By the wall clock, and by processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from benchmarks.measuring import lessons
from benchmarks.measuring.ceilings import best_seconds


def gflops(
    products: Counter[tuple[int, int, int]], dtype: torch.dtype, seconds: float, clock: Callable[[], float]
) -> float:
    """For a second of the clock, over all products (rows, out, in), as often as they occur; `seconds` is spent on each."""
    device, operations, took = "cuda" if torch.cuda.is_available() else "cpu", 0.0, 0.0
    for (rows, out, into), count in products.items():
        weight, x, g = (torch.randn(size).to(device, dtype) for size in ((out, into), (rows, into), (rows, out)))
        forward, backward = torch.empty_like(g), torch.empty_like(x)
        took += count * best_seconds(lambda x=x, w=weight, y=forward: _product(x, w.t(), y), seconds, clock)
        took += count * best_seconds(lambda g=g, w=weight, y=backward: _product(g, w, y), seconds, clock)
        operations += count * 4 * rows * out * into
    return operations / took / 1e9


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(left, right, out=out)
    if out.is_cuda:  # else only the asking would be timed
        torch.cuda.synchronize()


def main() -> None:
    base, tokens, labelled, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    model = lessons.shape(base)
    products = Counter((tokens, out, into) for out, into in model.layers.values())
    products[labelled, model.vocabulary, model.hidden] = 1
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    found = {
        kind: {name: round(gflops(products, getattr(torch, kind), seconds, clock), 2) for name, clock in clocks.items()}
        for kind in ("bfloat16", "float32")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
