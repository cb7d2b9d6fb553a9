"""Moves of one alias, and the law that they keep."""

from __future__ import annotations

from datetime import timedelta

from tasks.storage.aliases import Move
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tests.registries import NOW

LATER = NOW + timedelta(days=1)
KEY = "models/m/aliases/champion.json"


def promote(registry: Registry, version: Version, why: str = "better", **more: int | str) -> Move:
    return registry.aliases.promote(version, "champion", who="ada", why=why, now=LATER, **more)  # type: ignore[arg-type]


def rollback(registry: Registry) -> Move:
    return registry.aliases.rollback("m", "champion", who="bob", why="worse", now=LATER)


def moves(registry: Registry) -> list[tuple[int | None, str, int | None, int]]:
    return [(e.generation, e.action, e.previous, e.version) for e in registry.log("m") if e.alias]


def assert_linear(registry: Registry) -> None:
    """Generations 1, 2, 3 ..., each from where the one before arrived; the alias is the last."""
    chain = moves(registry)
    assert [generation for generation, *_ in chain] == [*range(1, len(chain) + 1)]
    assert [previous for _, _, previous, _ in chain] == [None, *(version for *_, version in chain)][: len(chain)]
    now = registry.aliases.read("m", "champion")
    assert (now.generation, now.version) == (chain[-1][0], chain[-1][3]) if now else not chain
