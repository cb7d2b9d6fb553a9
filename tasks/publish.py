"""Publish the finished models of a workspace as one version in the registry. A door to the outside, so no DVC stage."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tasks.core import digest, events, layout, manifest, params
from tasks.core.errors import IntegrityError
from tasks.core.params import Params
from tasks.core.sections import PublishParams
from tasks.core.standing import Standing
from tasks.core.step import main
from tasks.core.verdict import Verdict
from tasks.data import verdicts
from tasks.data.report import rulings
from tasks.storage import blobs, checkout, keys, lineage, revision
from tasks.storage.keys import PrivateKey
from tasks.storage.registry import Published, Registry
from tasks.storage.revision import Snapshot

LARGEST_CHANGES = 8 << 20


def publish(params: PublishParams, *, workspace: Path) -> Published:
    """Register what the workspace's stages made, in the embedded store unless `TUNELINE_REGISTRY` names another.

    Law: the same models from the same inputs are one version.
    IntegrityError: an output is missing, altered, or made from another input than the one that lies there.
    """
    with checkout.connected(os.environ) as environ:
        published = publish_from(params, workspace, revision.snapshot(workspace), {}, Registry.open(environ))
    events.note(f"{published.version.reference} {'registered' if published.created else 'was registered already'}")
    return published


def publish_from(
    params: PublishParams, workspace: Path, snapshot: Snapshot, seconds: Mapping[str, float], into: Registry
) -> Published:
    """As `publish`, for a run that knows its commit and what each stage it ran cost in seconds.

    The version is signed where `TUNELINE_SIGNING_KEY` names a key, also one that was registered before. ParamsError: a
    key that can't be used, before anything is registered.
    """
    signer = keys.signer(os.environ)
    models = _models(workspace)
    report = workspace / layout.RUN_REPORT
    sealed = {"report": manifest.verify(report), **{part: manifest.read(folder) for part, folder in models.items()}}
    verified = {f"{part}/{name}": entry for part, made in sealed.items() for name, entry in made.files.items()}
    folders = {"report": report, **models}
    files = {f"{part}/{name}": folders[part] / name for part, made in sealed.items() for name in made.files}
    files |= {f"{part}/{manifest.NAME}": folder / manifest.NAME for part, folder in models.items()}
    into.store.ensure_bucket()
    with _changes(snapshot) as changes:
        files |= changes
        record = _record(workspace, snapshot, seconds)
        published = into.publish(
            params.name, files, _identity(models), record, datetime.now(UTC), checkout.user(), verified
        )
        if signer:
            _sign(published, files, signer, into)
    return published


@contextmanager
def _changes(snapshot: Snapshot) -> Generator[dict[str, Path]]:
    """The uncommitted changes as a file of the version, so that anybody who has the commit can make it again."""
    if snapshot.difference is None:
        yield {}
        return
    if len(snapshot.difference) > LARGEST_CHANGES:
        events.warning(
            f"the uncommitted changes are {len(snapshot.difference) / 1e6:.0f} MB, more than a version keeps, so that it "
            "can't be reproduced from the registry: commit them, or ignore what is no code, then run again"
        )
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "changes.patch"
        patch.write_bytes(snapshot.difference)
        yield {lineage.CHANGES: patch}


def _sign(published: Published, files: Mapping[str, Path], key: PrivateKey, into: Registry) -> None:
    """IntegrityError: what was registered before as the same work holds other models than those here."""
    version = published.version
    if any(each.key_id == key.public.id and not each.problem for each in into.signatures.of(version)):
        return
    if not published.created and lineage.of_models(version.files) != blobs.measure(lineage.of_models(files), {}):
        raise IntegrityError(
            f"{version.reference} says that it is the same work and holds other files than those here, so that it is not "
            f"signed: tuneline models verify {version.reference} tells more, or publish under another name"
        )
    into.signatures.sign(version, key, who=checkout.user(), now=datetime.now(UTC))
    events.note(f"{version.reference} is signed with the key {key.public.id}")


def _models(workspace: Path) -> dict[str, Path]:
    """The folders that make the version, each verified, and each made from the one that lies there now: of the formats
    those alone that are within their budget."""
    passed = [verdict.format for verdict in _verdicts(workspace) if verdict.passed]
    folders = {
        "adapter": workspace / layout.ADAPTER,
        "merged": workspace / layout.MERGED,
        **{format: workspace / layout.model(format) for format in passed},
    }
    digests = {name: manifest.verify(folder).digest for name, folder in folders.items()}
    for folder in folders.values():
        for source, found in manifest.read(folder).inputs.items():
            if digests.get(source, found) != found:
                raise IntegrityError(f"{folder} was made from another {source} than the one there: run dvc repro")
    return folders


def _verdicts(workspace: Path) -> tuple[Verdict, ...]:
    """IntegrityError: they are not those of the formats and the merged model that lie here."""
    folder, formats = workspace / layout.VERDICTS, params.load(workspace / params.FILE).quantize.formats
    judged, merged = manifest.verify(folder), manifest.read(workspace / layout.MERGED)
    given = verdicts.read(folder)
    if judged.inputs["merged"] != merged.digest or tuple(verdict.format for verdict in given) != formats:
        raise IntegrityError(f"{folder} judges other formats, or another merged model, than those there: run dvc repro")
    return given


def _identity(models: Mapping[str, Path]) -> str:
    """Digest of every model's manifest: bytes, params and, through the inputs, data and base."""
    return digest.of_value({name: manifest.read(folder).digest for name, folder in models.items()})


def _record(workspace: Path, snapshot: Snapshot, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Where the version came from, complete enough to make it again without any other database."""
    chosen = params.load(workspace / params.FILE)
    raw, base = manifest.read(workspace / layout.RAW), manifest.read(workspace / layout.BASE)
    trained = manifest.read(workspace / layout.TRAIN_REPORT)
    evaluations = manifest.read(workspace / layout.RUN_REPORT)
    return {
        "data": {
            "version": checkout.current(workspace),
            "digest": raw.digest,
            "rows": raw.facts["rows"],
            "dvc": _yaml(workspace / "data/raw.dvc"),
        },
        "base": {"digest": base.digest, **base.facts},
        "params": chosen.model_dump(mode="json"),
        "dvc_lock": _yaml(workspace / "dvc.lock"),
        "git": {"commit": snapshot.head, "snapshot": snapshot.commit, "changes": snapshot.changes},
        "seed": chosen.train.launch.seed,
        "notes": _notes(chosen, workspace),
        "metrics": yaml.safe_load((workspace / layout.RUN_REPORT / "metrics.json").read_text(encoding="utf-8")),
        "report": evaluations.digest,
        "verdicts": [verdict.model_dump(mode="json") for verdict in _verdicts(workspace)],
        "cost": {"training": trained.facts, "stages_seconds": dict(seconds)},
        "environment": lineage.environment(workspace),
    }


def _notes(chosen: Params, workspace: Path) -> dict[str, str]:
    """What a reader has to know of a part: that it was not made, or is whole only with the adapter beside it."""
    folders = {"merged": layout.MERGED, **{format: layout.model(format) for format in chosen.quantize.formats}}
    standings = {part: Standing.of(manifest.read(workspace / folder)) for part, folder in folders.items()}
    notes = {part: standing.note for part, standing in standings.items() if standing.note}
    refused = [verdict for verdict in _verdicts(workspace) if verdict.made and not verdict.passed]
    return notes | {verdict.format: f"refused, not published: {rulings.broken(verdict)}" for verdict in refused}


def _yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None


if __name__ == "__main__":
    sys.exit(main(publish))
