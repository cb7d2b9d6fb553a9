"""Every manifest against Kubernetes' own schemas, and the GPU job as Prefect renders it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from prefect.client.orchestration import get_client
from prefect.utilities.templating import apply_values, find_placeholders

from flows.server import PrefectServer
from tests.project import ROOT

FOLDER = ROOT / "infra" / "k8s"
TEMPLATE = FOLDER / "gpu-job-template.json"
IMAGE = "registry.example.com/tuneline@sha256:" + "0" * 64


def manifests() -> list[dict[str, Any]]:
    return [each for file in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]


def job(**values: object) -> dict[str, Any]:
    """What a worker of Prefect makes of the template."""
    template = json.loads(TEMPLATE.read_text())
    defaults = {key: said["default"] for key, said in template["variables"]["properties"].items() if "default" in said}
    made = apply_values(template["job_configuration"], defaults | {"name": "run", "command": ["python"], **values})
    return made["job_manifest"]


def pods() -> Iterator[dict[str, Any]]:
    yield next(each for each in manifests() if each["kind"] == "Deployment")["spec"]["template"]
    yield job()["spec"]["template"]


def test_every_manifest_is_what_kubernetes_takes() -> None:
    found = manifests()
    assert sorted(each["kind"] for each in found) == [
        "ConfigMap", "Deployment", "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount",
    ]  # fmt: skip
    for each in found:
        kubernetes_validate.validate(each, "1.37", strict=True)
        assert each["metadata"].get("namespace", "tuneline") == "tuneline"


def test_the_gpu_job_is_what_kubernetes_takes() -> None:
    made = job(image=IMAGE, gpus=2)
    assert not find_placeholders(json.dumps(made))
    pod = made["spec"]["template"]["spec"]
    # Prefect's worker refuses a template without these two, and Kubernetes passes over them.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    kubernetes_validate.validate(made, "1.37", strict=True)
    container = pod["containers"][0]
    assert container["image"] == pod["initContainers"][0]["image"] == IMAGE
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_pods_are_confined() -> None:
    count = 0
    for pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["initContainers"] + spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert not any("SECRET" in variable["name"] for variable in container["env"])
            count += 1
    assert count == 4


def test_secrets_are_named_and_not_contained() -> None:
    text = "".join(file.read_text() for file in FOLDER.iterdir())
    assert "kind: Secret" not in text and "secretRef" in text
    assert not any(word in text for word in ("AWS_SECRET_ACCESS_KEY", "password", "PREFECT_API_AUTH_STRING"))


def test_a_prefect_server_takes_the_template_and_the_deployment(prefect_api: PrefectServer, tmp_path: Path) -> None:
    create = ["prefect", "--no-prompt", "work-pool", "create", "gpu", "--type", "kubernetes", "--base-job-template"]
    subprocess.run([sys.executable, "-m", *create, TEMPLATE], check=True, capture_output=True, cwd=tmp_path)
    deploy = [sys.executable, "-m", "infra.deploy", "--pool", "gpu", "--image", IMAGE]
    subprocess.run(deploy, check=True, capture_output=True, cwd=ROOT)

    async def look() -> tuple[Any, Any]:
        async with get_client() as client:
            return await client.read_deployment_by_name("retrain/retrain"), await client.read_work_pool("gpu")

    deployment, pool = asyncio.run(look())
    assert deployment.entrypoint == "flows.retrain.retrain" and deployment.job_variables["image"] == IMAGE
    assert pool.base_job_template == json.loads(TEMPLATE.read_text())
