"""Merge the adapter into the base: one plain model, in the base's own layout. One that can't be merged stands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.errors import ModelError
from tasks.core.manifest import Manifest
from tasks.core.sections import MergeParams
from tasks.core.standing import Standing
from tasks.core.step import main


def merge(params: MergeParams, *, base: Path, adapter: Path, chat: Path, out: Path) -> Manifest:
    """Bring the adapter into 16-bit weights, in float32, rounded once. Never into quantised weights.

    Validation rows of `chat` prove that the merged model answers as base and adapter do, and choose between the base's own
    weights and what a training with quantised ones saw of them (`merge.onto`). Where the method trained no change of the
    weights, `out` holds the base's files and the adapter, and says why. ModelError: the adapter does not fit the base, or the
    merged model is too far from both; it names the tensor, or the figures.
    """
    from tasks.ml import beside
    from tasks.ml.merging import making
    from tasks.ml.updates import Unmergeable

    trained = manifest.verify(adapter)
    inputs = {"base": manifest.verify(base).digest, "adapter": trained.digest, "chat": manifest.verify(chat).digest}
    if trained.inputs["base"] != inputs["base"]:
        raise ModelError(f"{adapter} was trained on another base than {base}: run dvc repro train")
    if params.also:
        from tasks.ml.merging import several

        inputs |= several.check(params, trained, adapter)
    with manifest.staged(out) as folder:
        try:
            facts = {**making.make(params, base, adapter, chat, folder, trained), **Standing().facts}
        except Unmergeable as error:
            beside.keep(base, adapter, folder)
            events.warning(f"the adapter can't be merged and stands beside its base: {error}")
            held = {name: trained.facts[name] for name in ("dtype", "base")}  # how the base was held in training
            facts = {**held, **Standing(merged=False, why=str(error)).facts}
        return manifest.seal(folder, step="merge", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(merge))
