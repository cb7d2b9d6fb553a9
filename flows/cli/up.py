"""`tuneline up`: the Prefect server with its UI, the store, and a worker for the deployments, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import warnings
from typing import Any, cast

from flows.services import services, usual_port


def main(arguments: argparse.Namespace) -> int:
    with services(store=True, prefect=True, port=arguments.port or usual_port()) as settings:
        from prefect import serve
        from prefect.types.entrypoint import EntrypointType

        from flows.retrain import retrain
        from tasks.storage.registry import Registry

        print(f"Prefect UI: {settings.get('PREFECT_UI_URL', os.environ['PREFECT_API_URL'])}")
        print(f"registry:   {Registry.open(os.environ).store.url} at {os.environ.get('AWS_ENDPOINT_URL_S3', 'AWS')}")
        print("Ctrl-C stops all of it.", flush=True)
        # A path entrypoint would put flows/ first on sys.path, where its modules would shadow libraries.
        # On SIGTERM Prefect's runner stops well but forgets to await itself, which would be all that the user sees.
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited")
        deployment = cast("Any", retrain.to_deployment("retrain", entrypoint_type=EntrypointType.MODULE_PATH))
        serve(deployment, print_starting_message=False)
    return 0
