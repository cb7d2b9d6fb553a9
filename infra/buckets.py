"""The buckets of TUNELINE_REGISTRY and TUNELINE_LANDING, made if they are missing: python -m infra.buckets, as administrator."""

from __future__ import annotations

import os
import sys

from tasks.core.errors import TunelineError
from tasks.storage.store import Store


def main() -> int:
    try:
        for name in ("TUNELINE_REGISTRY", "TUNELINE_LANDING"):
            Store.open(os.environ[name], os.environ).ensure_bucket()
    except TunelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
