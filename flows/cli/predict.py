"""`tuneline predict`: what a training would train, how long it is in steps and what memory it takes; no weight is loaded."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tasks.core import layout, params
from tasks.core.errors import ModelError

if TYPE_CHECKING:
    from tasks.core.sections import TrainParams
    from tasks.ml.unloaded import Prediction


def main(arguments: argparse.Namespace) -> int:
    chosen = params.override(params.load(), arguments.set)
    if not (layout.BASE / "config.json").exists():
        raise ModelError(f"{layout.BASE} is not here: fetch the base first with `dvc repro fetch`")
    from tasks.ml import unloaded

    found = unloaded.predict(chosen.train, chosen.prepare, base=layout.BASE, chat=layout.CHAT)
    if arguments.json:
        totals = {"kept_bytes": found.kept, "recomputed_bytes": found.recomputed}
        print(json.dumps({**asdict(found), **{name: part and part.total for name, part in totals.items()}}, indent=1))
    else:
        _tell(chosen.train, found)
    return 0


def _tell(train: TrainParams, found: Prediction) -> None:
    print(f"method      {train.method}, rank {train.rank}")
    print(f"trainable   {found.trainable:,} of {found.total:,} parameters ({found.trainable / found.total:.2%})")
    if found.steps is None:
        print("steps       unknown: there is no training set yet (dvc repro prepare)")
    else:
        print(f"steps       {found.steps:,}: {found.packs:,} packs, {train.batch.packs} a step, {train.epochs} epochs")
    if found.kept is None or found.recomputed is None:
        print("memory      the method computes with the weights' values: only a run can tell")
        return
    print()
    print(f"{'memory':12}{'as it is':>12}{'recomputed':>12}")
    kept, again = asdict(found.kept), asdict(found.recomputed)
    for part, size in kept.items():
        print(f"{part:12}{_megabytes(size):>12}{_megabytes(again[part]):>12}")
    print(f"{'in all':12}{_megabytes(found.kept.total):>12}{_megabytes(found.recomputed.total):>12}")
    print(f"{'here':12}{_megabytes(found.room):>12}")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
