"""Quantise the merged model into one of the finished formats, and measure what that cost."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import QuantizeParams
from tasks.core.standing import Standing
from tasks.core.step import main
from tasks.ml import export


def quantize(params: QuantizeParams, *, format: str, merged: Path, chat: Path, out: Path) -> Manifest:
    """Make one format from the merged model. Each is its own output, so adding one re-makes no other.

    It is loaded back by the runtime that serves it and compared with the model on held-out rows; where it breaks
    `quantize.budget` the known remedies are tried, and the nearest try stays. Whether it may be published is for
    `judge` to say. An adapter that stands beside its base is carried along; a format without room for one is not made,
    and says why.
    ParamsError: no such format, or the package that makes it is not installed.
    """
    writer, _ = export.find(format)
    source = manifest.verify(merged)
    inputs = {"merged": source.digest, "chat": manifest.verify(chat).digest}
    standing = _standing(format, Standing.of(source), writer.CARRIES)
    with manifest.staged(out) as folder:
        facts = {"format": format, **standing.facts}
        if standing.made:
            from tasks.ml import quantizing

            facts |= quantizing.make(format, merged, chat, folder, params)
        else:
            events.warning(f"{format} is {standing.note}")
        chosen = params.model_dump(mode="json", exclude={"formats"})
        return manifest.seal(folder, step="quantize", inputs=inputs, params=chosen, facts=facts)


def _standing(format: str, merged: Standing, carries: bool) -> Standing:
    if merged.merged or carries:
        return merged
    return Standing(
        merged=False, made=False, why=f"{format} has no room for an adapter beside the weights, and {merged.why}"
    )


if __name__ == "__main__":
    sys.exit(main(quantize))
