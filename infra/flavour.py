"""Whether the torch that is installed is of the flavour that was asked for: python infra/flavour.py cpu|cuda."""

from __future__ import annotations

import sys

import torch

FLAVOURS = ("cpu", "cuda")


def problem(wanted: str, cuda: str | None) -> str | None:
    """What is wrong, if something is; `cuda` is the version that torch was built for."""
    if wanted not in FLAVOURS:
        return f"FLAVOUR is {wanted!r}: set it to {' or '.join(FLAVOURS)}"
    if (found := "cuda" if cuda else "cpu") != wanted:
        return f"FLAVOUR is {wanted} and torch {torch.__version__} is built for {found}: set TORCH_INDEX to an index of {wanted}"
    return None


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1], torch.version.cuda))
