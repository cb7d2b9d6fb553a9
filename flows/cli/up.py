"""`tuneline up`: the Prefect server with its UI, the store, and a worker for the deployments, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import warnings

from flows.services import services, usual_port


def main(arguments: argparse.Namespace) -> int:
    with services(store=True, prefect=True, port=arguments.port or usual_port()) as settings:
        from prefect import serve

        from flows import automations, deployments, parent
        from tasks.core import params
        from tasks.storage.registry import Registry

        print(f"Prefect UI: {settings.get('PREFECT_UI_URL', os.environ['PREFECT_API_URL'])}")
        print(f"registry:   {Registry.open(os.environ).store.url} at {os.environ.get('AWS_ENDPOINT_URL_S3', 'AWS')}")
        landing = os.environ.get("TUNELINE_LANDING")
        print(
            f"landing:    {landing or 'none: set TUNELINE_LANDING, and rows that land there are taken in and trained on'}"
        )
        automations.install(os.environ, params.load().limits)
        os.environ.update(automations.HEARTBEAT, **{parent.VARIABLE: str(os.getpid())})  # for the runs that it starts
        print("Ctrl-C stops all of it.", flush=True)
        # On SIGTERM Prefect's runner stops well but forgets to await itself, which would be all that the user sees.
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited")
        serve(*deployments.made(landing=landing is not None), print_starting_message=False)
    return 0
