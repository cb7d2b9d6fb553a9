"""A format made, measured against the model it is made of, and made again with the known remedies where it breaks it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core import digest, events, verdict
from tasks.core.sections import QuantizeParams
from tasks.data import chatset
from tasks.data.chatset import Tokens
from tasks.ml import evaluation, export, fidelity, loading, sensitivity
from tasks.ml.export.recipe import Recipe, Remedy
from tasks.ml.fidelity import Fidelity
from tasks.ml.serving import Served


@dataclass(frozen=True)
class Bench:
    """What every try of one format shares: the model it is made of, and the rows it is measured on."""

    name: str
    merged: Path
    reference: Served
    held_out: Sequence[Tokens]


@dataclass(frozen=True)
class Try:
    """One way to make the format; it lies in `folder`, `size` bytes of it."""

    recipe: Recipe
    folder: Path
    made: dict[str, Any]
    size: int
    likeness: Fidelity

    def within(self, params: QuantizeParams) -> bool:
        return all(ruling.passed for ruling in verdict.of_likeness(self.likeness.facts, params.budget))

    def facts(self, params: QuantizeParams) -> dict[str, Any]:
        return {
            **self.recipe.facts, "bytes": self.size, **self.likeness.facts, "within_budget": self.within(params)
        }  # fmt: skip


def make(name: str, merged: Path, chat: Path, into: Path, params: QuantizeParams) -> dict[str, Any]:
    """Leave the best try in `into`. Facts: every try with its figures, and by digest the rows that they rest on.

    A remedy stays if the format is nearer to the model with it; the first try within the budget is the last one.
    """
    loading.threads()
    calibration, held_out = _calibration(chat, params.calibration), _held_out(chat, params.held_out)
    bench = Bench(name, merged, evaluation.load("merged", merged, merged), held_out or calibration)
    best = _try(bench, Recipe(calibration), into / "try-1")
    tries = [best]
    for remedy in export.find(name)[0].REMEDIES if params.second_try else ():
        if best.within(params):
            break
        events.note(f"{name} is not within its budget (kl {best.likeness.kl:.3g}): trying {remedy}")
        found = _try(bench, _with(remedy, best.recipe, bench), into / f"try-{len(tries) + 1}")
        tries.append(found)
        best, worse = (found, best) if found.likeness.kl < best.likeness.kl else (best, found)
        shutil.rmtree(worse.folder)
    for file in sorted(best.folder.iterdir()):
        file.rename(into / file.name)
    best.folder.rmdir()
    return {
        **best.made, "likeness": best.likeness.facts, "recipe": best.recipe.facts,
        "tries": [each.facts(params) for each in tries],
        "measured_on": {"split": "valid" if held_out else "train", **_named(bench.held_out)},
        "calibration": {"split": "train", **_named(calibration)},
    }  # fmt: skip


def _try(bench: Bench, recipe: Recipe, folder: Path) -> Try:
    format, variant = export.find(bench.name)
    folder.mkdir()
    made = format.write(bench.merged, folder, variant, recipe)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if (bench.merged / export.BESIDE).is_dir():
        export.carry(bench.merged, folder)
    likeness = fidelity.compare(bench.reference, format.load(folder), bench.held_out, f"{bench.name}: likeness")
    return Try(recipe, folder, made, size, likeness)


def _with(remedy: Remedy, recipe: Recipe, bench: Bench) -> Recipe:
    if remedy == "importance":
        return replace(recipe, importance=True)
    if remedy == "ends":
        return replace(recipe, ends=True)
    return replace(recipe, keep=sensitivity.most_sensitive(bench.merged, recipe.calibration))


def _calibration(chat: Path, wanted: int) -> Sequence[Tokens]:
    """Rows of the training split, evenly spread over it."""
    packs = chatset.Packs(chat / "train")
    step = max(1, len(packs) // wanted)
    rows = [row for place in range(0, len(packs), step) for row in packs[place][:1]]
    return rows[:wanted]


def _held_out(chat: Path, wanted: int) -> Sequence[Tokens]:
    """The first rows of the validation split: their order is that of their hashes, so they are any."""
    return chatset.read(chat / "valid.parquet")[:wanted]


def _named(rows: Sequence[Tokens]) -> dict[str, Any]:
    return {"rows": len(rows), "digest": digest.of_value([[row.id, list(row.ids)] for row in rows])}
