"""Register the deployments in a work pool, whose worker makes a Job for each run (docs/deployment.md).

python -m infra.deploy --pool gpu --image registry.example.com/tuneline:0.1.0-cuda
"""

from __future__ import annotations

import argparse
from typing import Any, cast

from prefect.types.entrypoint import EntrypointType

from flows.retrain import retrain


def main() -> int:
    parser = argparse.ArgumentParser(description="Register the deployments in a Prefect work pool.")
    parser.add_argument("--pool", required=True, help="the work pool: prefect work-pool create makes one")
    parser.add_argument("--image", required=True, help="what its Jobs run")
    arguments = parser.parse_args()
    # A path entrypoint would put flows/ first on sys.path, where its modules would shadow libraries. The image is a job
    # variable: as `image` of Flow.deploy, NAME@sha256:DIGEST becomes NAME:sha256:DIGEST (Prefect 3.8).
    deployment = cast("Any", retrain).to_deployment(
        f"retrain-{arguments.pool}", work_pool_name=arguments.pool, job_variables={"image": arguments.image},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )  # fmt: skip
    deployment.apply()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
