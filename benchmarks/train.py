"""Training: tokens a second, processor time and peak memory, against TRL, unsloth and LLaMA-Factory.

Every contender trains SmolLM2-135M with LoRA r=16 on all linear layers on the same token ids in the same steps (real
conversations of mixed length, the loss on answers alone), from the same initial weights, with AdamW at one constant rate.
Their losses are compared step by step, and the line's with TRL's in float32, where nothing is left to rounding. Then the share
of what the machine's matrix products allow, steps of DoRA and AdaLoRA beside LoRA's, the base's import from GGUF
against transformers, and how the cost grows with the length of rows, the rank and the corpus.

The peers need an environment each, which `make peers` makes (docs/benchmarks.md); one that is not there is left out of the table.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Findings, Flag, Options
from benchmarks.measuring import checkout
from benchmarks.training import against, course, gguf, gpu, growth, methods, settings
from tasks.core import params
from tasks.fetch import fetch

FLAGS = (
    Flag("plots", "draw how the cost grows, as PNG, there", folder=True),
    Flag("settings", "every setting of the peers that was tried, instead"),
    Flag("gpu", "on an NVIDIA GPU instead: LoRA and QLoRA, small and 8 B-shaped, and 65 B-shaped's memory"),
)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("train", __doc__, measured, rounds=2, quick_rounds=1, argv=argv, flags=FLAGS)


def measured(options: Options) -> Findings:
    if options.flags["gpu"] and (reason := gpu.absent()):
        return Findings(tables=[reason])
    with tempfile.TemporaryDirectory(prefix="train-") as name:
        folder = Path(name)
        given = params.load(checkout.ROOT / params.FILE).fetch
        fetch(given, out=folder / "base")
        if options.flags["gpu"]:
            return gpu.measured(options, folder, folder / "base")
        if options.flags["settings"]:
            return settings.measured(options, folder, folder / "base")
        return course.joined(
            against.measured(options, folder, folder / "base"),
            against.parity(folder),
            methods.measured(options, folder, folder / "lesson.json"),
            gguf.measured(options, folder, given.ref),
            growth.measured(options, folder, folder / "base"),
        )


if __name__ == "__main__":
    sys.exit(main())
