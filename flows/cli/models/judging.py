"""Verdicts, made again from what they were made of: judge."""

from __future__ import annotations

import argparse
import json

from tasks.core.errors import IntegrityError, ModelError
from tasks.data.report import rulings
from tasks.storage import judgements
from tasks.storage.judgements import Judgement
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry


def judge(arguments: argparse.Namespace, registry: Registry) -> int:
    """Exit code 0 if the last verdict lets the version pass, else 1."""
    version = registry.find(arguments.reference)
    found = _in_order(registry, version)
    if not found:
        raise ModelError(f"{version.reference} was never judged: {judgements.by_hand(version)}")
    if arguments.json:
        print(json.dumps([_value(judgement) for judgement in found], indent=1))
    else:
        print("\n\n".join(map(_text, found)))
    if odd := [judgement.digest[:16] for judgement in found if judgement.again() != judgement.rulings]:
        raise IntegrityError(
            f"this tuneline rules otherwise on the same scores than the one that judged (verdict {', '.join(odd)}): "
            "judge the version anew, or look with the tuneline of its commit"
        )
    return int(not found[-1].passed)


def _in_order(registry: Registry, version: Version) -> list[Judgement]:
    """As the log names them; those that it does not name, of comparisons that came too late, are first."""
    logged = [entry.verdict for entry in registry.log(version.name) if entry.verdict]
    found = registry.judgements.of(version)
    return sorted(found, key=lambda judgement: logged.index(judgement.digest) if judgement.digest in logged else -1)


def _value(judgement: Judgement) -> dict[str, object]:
    return {
        "version": judgement.version, "alias": judgement.alias, "champion": judgement.champion,
        "verdict": judgement.digest, "passed": judgement.passed, "again": judgement.again() == judgement.rulings,
        "rulings": [{**ruling.model_dump(), "passed": ruling.passed} for ruling in judgement.rulings],
    }  # fmt: skip


def _text(judgement: Judgement) -> str:
    said = "passed" if judgement.passed else f"refused by {len(judgement.broken)} of {len(judgement.rulings)} rules"
    head = (
        f"{judgement.name}@v{judgement.version} against {judgement.opponents}: {said} (verdict {judgement.digest[:16]})"
    )
    return f"{head}\n{rulings.as_text(judgement.again())}"
