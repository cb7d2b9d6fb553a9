"""Promotion by a person: on a verdict, unless they say that they have none."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.storage import aliases
from tasks.storage.aliases import Move
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry


def promote(
    registry: Registry, version: Version, alias: str, *, who: str, why: str, expect: int | None = None, unjudged: bool = False
) -> Move:  # fmt: skip
    """Make an alias name the version, by a verdict against the version that it names now.

    expect: as `Aliases.promote`. unjudged: without a verdict; the log shows that it lacks one.
    ModelError: no verdict allows it. ConflictError: the alias moved meanwhile.
    """
    verdict = None
    if not unjudged:
        standing = registry.aliases.read(version.name, alias)
        number = standing.version if standing else aliases.NOWHERE
        if expect in (None, number) and number != version.number:
            expect, verdict = number, registry.judgements.allowing(version, number or None).digest
    return registry.aliases.promote(
        version, alias, who=who, why=why, now=datetime.now(UTC), expect=expect, verdict=verdict
    )
