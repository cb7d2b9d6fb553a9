"""The deployments that infra/prefect.yaml lists, for a machine that serves them itself and for work pools."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import construct_schedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentTriggerTypes
from prefect.types.entrypoint import EntrypointType
from pydantic import TypeAdapter

from flows import automations

FILE = Path("infra", "prefect.yaml")


def listed() -> list[dict[str, Any]]:
    """As they are written in this checkout; in a folder without that file, beside this code (an image's has none)."""
    file = FILE if FILE.is_file() else Path(__file__).parents[1] / FILE
    return yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]


def made(*, landing: bool, **more: Any) -> list[RunnerDeployment]:
    """Each as Prefect serves or applies it, with more of what `to_deployment` takes. Without a landing place nothing is
    looked for there by itself."""
    unasked = {} if landing else {"ingest": {"schedules": []}}
    return [_deployment({**given, **unasked.get(given["name"], {})}, more) for given in listed()]


def flow_of(entrypoint: str) -> Flow[..., Any]:
    """A path entrypoint would put flows/ first on sys.path, where its modules would shadow libraries."""
    module, _, name = entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _deployment(given: dict[str, Any], more: dict[str, Any]) -> RunnerDeployment:
    deployment = flow_of(given["entrypoint"]).to_deployment(
        given["name"], description=given["description"], tags=[automations.OURS, *given["tags"]],
        schedules=[_schedule(each) for each in given.get("schedules", [])],
        triggers=[_TRIGGER.validate_python({"name": f"{given['name']}-{place}", **each})
                  for place, each in enumerate(given.get("triggers", []))],
        concurrency_limit=ConcurrencyLimitConfig.model_validate(given["concurrency_limit"])
        if "concurrency_limit" in given else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
        **more,
    )  # fmt: skip
    return cast("RunnerDeployment", deployment)


_TRIGGER: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)


def _schedule(given: dict[str, Any]) -> DeploymentScheduleCreate:
    schedule = construct_schedule(
        interval=given.get("interval"), cron=given.get("cron"), timezone=given.get("timezone")
    )
    return DeploymentScheduleCreate(schedule=schedule, parameters=given.get("parameters", {}))
