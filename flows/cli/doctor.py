"""`tuneline doctor`: can this machine run the line? Each check says what it found and, where it fails, what to do."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from flows.services import services
from tasks.core import params
from tasks.core.errors import TunelineError

PACKAGES = ("prefect", "torch", "transformers", "peft", "bitsandbytes", "datasets", "dvc", "evaluate", "boto3")
MEMORY_BYTES = 6 << 30


@dataclass(frozen=True)
class Finding:
    """`state` is ok, warning or failed; `next` is what to do about it."""

    check: str
    state: str
    found: str
    next: str = ""


def main(arguments: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in _guarded(check)]
    failed = any(finding.state == "failed" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(
                f"{finding.state:8} {finding.check:18} {finding.found}{'  ->  ' + finding.next if finding.next else ''}"
            )
    return int(failed)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails with an error of ours is a finding, and the others still run."""
    try:
        yield from check()
    except (TunelineError, ImportError) as error:
        yield Finding(check.__name__.strip("_").replace("_", " "), "failed", str(error))


def _versions() -> Iterator[Finding]:
    python = sys.version_info
    state = "ok" if python >= (3, 11) else "failed"
    yield Finding("python", state, platform.python_version(), "" if state == "ok" else "install Python 3.11 or newer")
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "failed", "not installed", "make install")
    for tool in ("git", "weed"):
        found = shutil.which(tool, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        yield Finding(
            tool, "ok" if found else "failed", "found" if found else "not found", "" if found else f"install {tool}"
        )


def _params_yaml() -> Iterator[Finding]:
    chosen = params.load()
    yield Finding("params.yaml", "ok", f"model {chosen.publish.name}, method {chosen.train.method}")


def _base_model() -> Iterator[Finding]:
    from tasks.storage import bases

    chosen = params.load().fetch
    bases.find(chosen.ref, chosen.revision)
    yield Finding("base model", "ok", chosen.ref)


def _formats() -> Iterator[Finding]:
    from tasks.ml import export

    for format in params.load().quantize.formats:
        export.find(format)
        yield Finding(f"format {format}", "ok", "can be made here")


def _disk() -> Iterator[Finding]:
    from flows.preflight import FREE_BYTES

    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= FREE_BYTES
    yield Finding(
        "disk", "ok" if enough else "failed", f"{free / 1e9:.1f} GB free", "" if enough else "free some space"
    )


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    enough = total >= MEMORY_BYTES
    advice = "" if enough else "lower train.batch.micro_tokens and evaluate.batch_size"
    yield Finding("memory", "ok" if enough else "warning", f"{total / 1e9:.1f} GB", advice)


def _accelerator() -> Iterator[Finding]:
    from tasks.ml import loading

    yield Finding("accelerator", "ok", loading.describe_device())


def _store() -> Iterator[Finding]:
    from tasks.storage.registry import Registry

    with services(store=True):
        store = Registry.open(os.environ).store
        store.ensure_bucket()
        conditions = store.probe_conditional_writes()
        honest = conditions.honoured
        yield Finding(
            "store", "ok" if honest else "failed",
            f"{store.url}: conditional writes {'honoured' if honest else 'ignored'}",
            "" if honest else "use a store that honours If-None-Match and If-Match: two publishers could overwrite each other",
        )  # fmt: skip


CHECKS = (_versions, _params_yaml, _base_model, _formats, _disk, _memory, _accelerator, _store)
