"""What this machine can do at best, in one JSON line: nothing measured beside it can be faster.

A process of its own, so that whoever asks does not carry torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable

import torch

MATRIX = 1536
"""Rows and columns: three matrices in float32 take 28 MB, and one product takes long enough to be timed alone."""
SMALL = 192
COPY_BYTES = 256 << 20
HASH_BYTES = 64 << 20


def best_seconds(action: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """The fastest of as many as fit into the time, after one that does not count."""
    action()
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        started = clock()
        action()
        best = min(best, clock() - started)
    return best


def product_gflops(dtype: torch.dtype, seconds: float) -> float:
    """Of smaller matrices where one product of the usual ones would outlast the time: bfloat16 in software."""
    small = _gflops(dtype, SMALL, seconds / 10)
    return small if 2e-9 * MATRIX**3 / small > seconds else _gflops(dtype, MATRIX, seconds)


def _gflops(dtype: torch.dtype, size: int, seconds: float) -> float:
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    into = torch.empty(size, size, dtype=dtype)
    return 2e-9 * size**3 / best_seconds(lambda: torch.matmul(left, right, out=into), seconds)


def copy_gigabytes(seconds: float) -> float:
    """Bytes that have moved from one place to another a second, each counted once."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    into = torch.empty_like(source)
    return COPY_BYTES / best_seconds(lambda: into.copy_(source), seconds) / 1e9


def sha256_gigabytes(seconds: float) -> float:
    """On one core: a digest can't be shared out."""
    block = bytes(HASH_BYTES)
    return HASH_BYTES / best_seconds(lambda: hashlib.sha256(block).digest(), seconds) / 1e9


def main() -> None:
    seconds = float(sys.argv[1])
    found = {
        "product_float32_gflops": product_gflops(torch.float32, seconds),
        "product_bfloat16_gflops": product_gflops(torch.bfloat16, seconds),
        "copy_gigabytes_per_second": copy_gigabytes(seconds),
        "sha256_gigabytes_per_second": sha256_gigabytes(seconds),
    }
    print(json.dumps({"threads": torch.get_num_threads()} | {name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
