"""How often each row is seen in an epoch: sources with weights and caps, temperature, the row's own weight.

Temperature as in Raffel et al. 2020 (T5), section 3.5.2: a source of n rows gets a share proportional to n^(1/T). All
choices are made by a hash of the row, so that growth moves none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.core.sections import Mixing, Source

WHOLE = Source()


@dataclass(frozen=True)
class Mixed:
    """`copies[i]` is how often row i is seen an epoch; `capped` how many rows each source lost to its cap."""

    copies: np.ndarray
    capped: Mapping[str, int]


def mix(sources: np.ndarray, names: tuple[str, ...], points: np.ndarray, weights: np.ndarray, params: Mixing) -> Mixed:
    """`sources[i]` is the place of row i's source in `names`, `points[i]` its hash in [0, 1), `weights[i]` its weight.

    Laws: with neither weights, caps nor temperature every row is seen once; the expected sum of a source's copies is its
    weight times its temperature's factor times its rows. Shapes: all (rows,).
    """
    kept, capped = _capped(sources, names, points, params)
    sizes = np.bincount(sources[kept], minlength=len(names)).astype(float)
    factors = _temperature(sizes, params.temperature)
    factors *= [params.sources.get(name, WHOLE).weight for name in names]
    wanted = np.where(kept, factors[sources] * weights, 0.0)
    whole = np.floor(wanted)
    copies = (whole + (_second(points) < wanted - whole)).astype(np.int32)
    return Mixed(copies, capped)


def _capped(
    sources: np.ndarray, names: tuple[str, ...], points: np.ndarray, params: Mixing
) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows stay under the caps: those of the smallest hashes."""
    kept, lost = np.ones(len(sources), dtype=bool), dict[str, int]()
    for place, name in enumerate(names):
        cap = params.sources.get(name, WHOLE).cap
        rows = np.flatnonzero(sources == place)
        if cap is not None and len(rows) > cap:
            kept[rows[np.argsort(points[rows], kind="stable")[cap:]]] = False
            lost[name] = len(rows) - cap
    return kept, lost


def _temperature(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Factor a source, so that shares go with size^(1/T) and the whole stays as large as it was."""
    if temperature == 1.0 or not sizes.any():  # exactly one each: no rounding
        return np.ones_like(sizes)
    shares = np.where(sizes > 0, sizes ** (1 / temperature), 0.0)
    return np.divide(shares / shares.sum() * sizes.sum(), sizes, out=np.zeros_like(sizes), where=sizes > 0)


def _second(points: np.ndarray) -> np.ndarray:
    """A second hash from the first, so that what a cap keeps says nothing about which rows are repeated."""
    return (points * 2**20) % 1.0
