"""Register the deployments of infra/prefect.yaml in a work pool, whose worker runs them (docs/deployment.md).

python -m infra.deploy --pool gpu --image registry.example.com/tuneline:0.1.0-cuda
"""

from __future__ import annotations

import argparse
import os
from typing import Any, cast

from flows import automations, deployments
from tasks.core import params


def main() -> int:
    parser = argparse.ArgumentParser(description="Register the deployments in a Prefect work pool.")
    parser.add_argument("--pool", required=True, help="the work pool: prefect work-pool create makes one")
    parser.add_argument("--image", help="what its Jobs run, where the pool is one of containers")
    arguments = parser.parse_args()
    # A job variable: as `image` of Flow.deploy, NAME@sha256:DIGEST becomes NAME:sha256:DIGEST (Prefect 3.8).
    job: dict[str, Any] = {"env": automations.HEARTBEAT, **({"image": arguments.image} if arguments.image else {})}
    for deployment in deployments.made(landing=True, work_pool_name=arguments.pool, job_variables=job):
        cast("Any", deployment).apply()
    automations.install(os.environ, params.load().limits)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
