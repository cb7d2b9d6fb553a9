"""The line's way: `merge.write`, without what the step does around it (digests of its inputs and outputs, proof, fsync).

python benchmarks/merging/by_tuneline.py BASE ADAPTER OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.ml.export import merge


def main() -> None:
    base, adapter, out = map(Path, sys.argv[1:])
    out.mkdir()
    print(json.dumps(merge.write(base, adapter, out, "base")))


if __name__ == "__main__":
    main()
