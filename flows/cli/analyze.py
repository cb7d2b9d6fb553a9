"""`tuneline analyze`: what the training of a registered version did to its base, and what two versions have in common."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.services import services
from tasks.core import events, manifest
from tasks.core.errors import ModelError, ParamsError
from tasks.storage import bases
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry

if TYPE_CHECKING:
    from tasks.ml.analysis import Comparison, Moved

SHOWN = 12
"""Tensors that the terminal's table has."""


def main(arguments: argparse.Namespace) -> int:
    events.send_to(events.Terminal())
    with services(store=True), tempfile.TemporaryDirectory() as scratch:
        registry = Registry.open(os.environ)
        version = registry.find(arguments.reference)
        other = registry.find(arguments.other) if arguments.other else None
        _check_base(arguments.base, version)
        adapters = [_pull(registry, each, Path(scratch)) for each in (version, other) if each]
        moved, compared = _analyze(arguments.base, adapters, elsewhere=other is not None and not _same(version, other))
    if arguments.out:
        _draw(arguments.out, moved, compared)
    if arguments.json:
        found = {
            "version": version.reference, "other": other and other.reference,
            "tensors": [asdict(each) for each in moved], "similarity": compared and asdict(compared),
        }  # fmt: skip
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        _tell(version, moved)
        if other and compared:
            _tell_similarity(version, other, compared)
    return 0


def _check_base(base: Path, version: Version) -> None:
    """ModelError: this is not the base that the version was made on."""
    record: Any = version.record
    origin: dict[str, Any] = record["base"]
    before = origin.get("continues") or {"keep": "frozen"}
    what = f"the merged model of {before['reference']}" if before["keep"] == "merged" else origin["ref"]
    if not (base / "config.json").is_file():
        raise ModelError(
            f"{base} is no base model: --base has to be the folder of {what}, as `dvc repro fetch` leaves it"
        )
    if origin.get("content") != bases.content(base):
        raise ModelError(f"{version.reference} was made on another base than {base}: --base has to be that of {what}")


def _same(version: Version, other: Version) -> bool:
    records: list[Any] = [version.record, other.record]
    return records[0]["base"].get("content") == records[1]["base"].get("content")


def _pull(registry: Registry, version: Version, into: Path) -> Path:
    folder = into / version.reference
    registry.pull(version, "adapter", folder)
    manifest.verify(folder)
    return folder


def _analyze(base: Path, adapters: Sequence[Path], *, elsewhere: bool) -> tuple[list[Moved], Comparison | None]:
    from tasks.ml import analysis

    first, *rest = adapters
    found = analysis.changes(base, first)
    compared = [analysis.compare(found, analysis.changes(base, each, elsewhere=elsewhere)) for each in rest]
    return list(analysis.moved(found)), compared[0] if compared else None


def _tell(version: Version, moved: Sequence[Moved]) -> None:
    record: Any = version.record
    train = record["params"]["train"]
    ranked = sorted(moved, key=lambda each: -(each.relative or 0.0))
    print(f"{version.reference}  {train['method']}, rank {train['rank']}, on {record['base']['ref']}")
    print(f"{len(moved)} tensors changed, by |dW|/|W| most:")
    print(
        f"\n{'tensor':48}{'|dW|':>9}{'|dW|/|W|':>10}{'eff. rank':>11}{'own':>9}{'top':>9}{'random':>9}{'amplified':>11}"
    )
    for each in ranked[:SHOWN]:
        print(f"{each.name:48}{_row(each)}")
    if len(ranked) > SHOWN:
        print(f"... and {len(ranked) - SHOWN} more: --json has all")
    print("\nmeans by kind of module")
    for kind, members in _kinds(moved).items():
        print(f"{kind:48}{_row_of_means(members)}")
    print(
        "\nown, top, random: |U' W V| in the change's own directions, in W's first, in random ones; amplified: |dW| / own"
    )


def _row(each: Moved) -> str:
    numbers = (each.change, each.relative, each.effective_rank, each.own, each.top, each.random, each.amplification)
    return _columns(numbers)


def _columns(numbers: Sequence[float | None]) -> str:
    widths = (9, 10, 11, 9, 9, 9, 11)
    return "".join(
        f"{'-' if number is None else format(number, '.3g'):>{width}}"
        for number, width in zip(numbers, widths, strict=True)
    )


def _row_of_means(members: Sequence[Moved]) -> str:
    names = ("change", "relative", "effective_rank", "own", "top", "random", "amplification")
    columns = ([value for each in members if (value := getattr(each, name)) is not None] for name in names)
    return _columns([statistics.fmean(column) if column else None for column in columns])


def _kinds(moved: Sequence[Moved]) -> Mapping[str, list[Moved]]:
    from tasks.data.report import heatmaps

    kinds: dict[str, list[Moved]] = {}
    for each in moved:
        kinds.setdefault(heatmaps.short(each.name), []).append(each)
    return kinds


def _tell_similarity(version: Version, other: Version, compared: Comparison) -> None:
    layers = compared.layers
    most = min(len(layer.phi) for layer in layers)
    of = " and ".join(sorted({layer.of for layer in layers}))
    print(f"\nshared with {other.reference}: phi(k, k) of {of} over {len(layers)} matrices (1: the same subspace)")
    print(f"{'k':>4}{'mean':>9}{'lowest':>9}{'highest':>9}{'by chance':>11}")
    for k in dict.fromkeys((1, 2, 4, 8, 16, 32, 64, most)):
        if k <= most:
            phi = [layer.phi[k - 1] for layer in layers]
            chance = statistics.fmean(layer.chance[k - 1] for layer in layers)
            print(f"{k:>4}{statistics.fmean(phi):>9.3f}{min(phi):>9.3f}{max(phi):>9.3f}{chance:>11.3f}")


def _draw(out: Path, moved: Sequence[Moved], compared: Comparison | None) -> None:
    """ParamsError: `out` is a file."""
    if out.exists() and not out.is_dir():
        raise ParamsError(f"--out: {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, svg in _pictures(moved, compared):
        (out / f"{name}.svg").write_text(svg, encoding="utf-8")
        events.note(f"drawn: {out / name}.svg")


def _pictures(moved: Sequence[Moved], compared: Comparison | None) -> Iterator[tuple[str, str]]:
    from tasks.data.report import heatmaps

    for name, title in (
        ("relative", "How far each matrix moved: |dW| / |W|"),
        ("effective_rank", "Effective rank of dW"),
        ("amplification", "Amplification: |dW| / |U' W V|"),
    ):
        matrices = {each.name: getattr(each, name) for each in moved if each.directions is not None}
        if svg := heatmaps.by_layer(name, title, matrices):
            yield name, svg
    if compared:
        rows, columns = (list(map(str, range(1, count + 1))) for count in (len(compared.grid), len(compared.grid[0])))
        title = "Subspaces that both share: phi(i, j), mean"
        yield "similarity", heatmaps.draw("similarity", title, compared.grid, rows, columns, ("i", "j"), (0, 1))
