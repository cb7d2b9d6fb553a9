"""The store that all contenders use, and the states that their runs start from: a bucket and a folder for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from mypy_boto3_s3.client import S3Client

from benchmarks.harness import Contender, Unprepared
from benchmarks.measuring import checkout
from benchmarks.measuring.child import last_line
from benchmarks.transfers import model
from benchmarks.transfers.copiers import Copier
from tasks.storage.embedded import S3

OURS = "tuneline"
SCRIPT = Path(__file__).with_name("by_tuneline.py")


@dataclass(frozen=True)
class Room:
    """`source` is the folder that goes to the store; what comes back lies in `back` until the next run."""

    s3: S3
    folder: Path
    megabytes: int

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def back(self) -> Path:
        return self.folder / "back"

    def publishes(self) -> Contender:
        return Contender(
            OURS, self._ours("publish", self.source), self.folder, self._environment(OURS),
            lambda: self._sending(OURS), answers=True,
        )  # fmt: skip

    def publishes_again(self) -> Contender:
        """With another adapter beside the same shards, where a version stands already."""

        def fresh() -> None:
            model.other_adapter(self.source, self.megabytes)
            self._settle()

        again = f"{OURS}, new adapter"
        argv = self._ours("publish", self.source)
        return Contender(again, argv, self.folder, self._environment(OURS), fresh, answers=True)

    def pulls(self) -> Contender:
        argv = self._ours("pull", self.back)
        return Contender(OURS, argv, self.folder, self._environment(OURS), self._receiving, self._arrived)

    def uploads(self, copier: Copier) -> Contender:
        argv = copier.up(copier.program, self.s3.endpoint, self.source, bucket(copier.name))
        return Contender(
            copier.name, tuple(argv), self.folder, self._environment(copier.name), lambda: self._sending(copier.name)
        )

    def downloads(self, copier: Copier, *, synced: bool) -> Contender:
        """With `synced`, until the files are on the disk, where `pull` leaves them."""
        argv = copier.down(copier.program, self.s3.endpoint, self.back, bucket(copier.name))
        if synced:
            argv = ["sh", "-c", '"$@" && find "$0" -type f -exec sync {} +', str(self.back), *argv]
        name = f"{copier.name}, synced" if synced else copier.name
        return Contender(name, tuple(argv), self.folder, self._environment(copier.name), self._receiving, self._arrived)

    def fill(self, contender: Contender) -> None:
        """Run one that sends, unmeasured, so that what it sent can be fetched."""
        contender.fresh()
        ran = subprocess.run(
            contender.argv, cwd=contender.cwd, env=dict(contender.environment), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if ran.returncode:
            raise Unprepared(f"{contender.name} sent nothing to fetch: {last_line(ran.stderr) or ran.returncode}")

    def _ours(self, action: str, folder: Path) -> tuple[str, ...]:
        return ("python", str(SCRIPT), action, str(folder))

    def _environment(self, name: str) -> dict[str, str]:
        given = {key: value for key, value in self.s3.environment().items() if value}
        return {**checkout.environment(checkout.ROOT), **given, "TUNELINE_REGISTRY": f"s3://{bucket(name)}/registry"}

    def _sending(self, name: str) -> None:
        """An empty bucket; the source is in the page cache, and nothing is on its way to the disk."""
        client = _client(self.s3.environment())
        if bucket(name) in {each.get("Name") for each in client.list_buckets().get("Buckets", [])}:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket(name)):
                for item in page.get("Contents", ()):
                    client.delete_object(Bucket=bucket(name), Key=item.get("Key", ""))
            client.delete_bucket(Bucket=bucket(name))
        client.create_bucket(Bucket=bucket(name))
        self._settle()

    def _receiving(self) -> None:
        shutil.rmtree(self.back, ignore_errors=True)
        self._settle()

    def _settle(self) -> None:
        model.digest(self.source)  # reads it
        os.sync()

    def _arrived(self) -> str:
        return model.digest(self.back)


def bucket(name: str) -> str:
    return f"bench-{re.sub('[^a-z0-9]+', '-', name)}"


def _client(environ: Mapping[str, Any]) -> S3Client:
    return boto3.client(
        "s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
