"""Amazon on this machine: moto's server, with a bucket that tells a queue what lands in it."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tasks.storage.queue import Queue

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
REGION = "us-east-1"


def told(*keys: str, event: str = "ObjectCreated:Put") -> dict[str, Any]:
    """A notification as S3 sends it, with more fields than are read."""
    return {"Records": [
        {
            "eventVersion": "2.3", "eventSource": "aws:s3", "awsRegion": "eu-central-1", "eventName": event,
            "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "b", "arn": "arn:aws:s3:::b"},
                   "object": {"key": key, "size": 1, "eTag": "x", "sequencer": "00"}},
        }
        for key in keys
    ]}  # fmt: skip


class Amazon:
    """A server, and in it one bucket with one queue, on whose address all is reached."""

    def __init__(self, server: ThreadedMotoServer, name: str) -> None:
        host, port = server.get_host_and_port()
        self.endpoint, self.bucket = f"http://{host}:{port}", name
        self.environ = {**KEYS, "AWS_DEFAULT_REGION": REGION, "AWS_MAX_ATTEMPTS": "1"}
        self.s3, self.sqs, self.sns = (self.client(service) for service in ("s3", "sqs", "sns"))
        # Long invisible: what was read and not deleted is seen by its count alone.
        made = self.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "900"})
        self.url = f"{self.endpoint}/{made['QueueUrl'].split('/', 3)[3]}"
        self.s3.create_bucket(Bucket=name)

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id="key",
            aws_secret_access_key="secret",
        )  # fmt: skip

    def queue(self) -> Queue:
        return Queue.open(self.url, self.environ)

    def notify(self, *events: str, topic: bool = False) -> None:
        """Let the bucket tell the queue, itself or through a topic; S3 sends a test event at once."""
        place = f"{REGION}:123456789012:{self.bucket}"
        told: dict[str, Any] = {"Events": list(events or ("s3:ObjectCreated:*",))}
        if topic:
            self.sns.create_topic(Name=self.bucket)
            self.sns.subscribe(TopicArn=f"arn:aws:sns:{place}", Protocol="sqs", Endpoint=f"arn:aws:sqs:{place}")
            wanted = {"TopicConfigurations": [{**told, "TopicArn": f"arn:aws:sns:{place}"}]}
        else:
            wanted = {"QueueConfigurations": [{**told, "QueueArn": f"arn:aws:sqs:{place}"}]}
        self.s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration=wanted)

    def put(self, *keys: str) -> None:
        for key in keys:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"{}")

    def send(self, body: object) -> str:
        """Anything, by anybody; the message's id."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.sqs.send_message(QueueUrl=self.url, MessageBody=text)["MessageId"]

    def waiting(self) -> int:
        """Messages that nobody has deleted."""
        return self._count("ApproximateNumberOfMessages") + self.hidden()

    def hidden(self) -> int:
        """Those of them that somebody has received."""
        return self._count("ApproximateNumberOfMessagesNotVisible")

    def _count(self, name: str) -> int:
        return int(self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])["Attributes"][name])


@contextmanager
def serving(port: int = 0) -> Generator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()
