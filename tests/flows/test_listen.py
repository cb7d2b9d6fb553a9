"""What the queue says reaches the Prefect server: once, by the command, and whatever breaks in between."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows import listening
from flows.arrivals import LANDED, SHOWN, announce
from flows.listening import listen, queue_of
from flows.server import PrefectServer
from tasks.core.errors import ParamsError, ServiceError, StorageError, TransientError
from tasks.storage.notices import Landed
from tasks.storage.queue import Queue
from tests import amazon
from tests.amazon import Amazon
from tests.project import Project
from tests.serving import Server, until

SECONDS = 300.0


@pytest.fixture
def aws(aws: Amazon) -> Amazon:
    """It tells its queue."""
    aws.notify()
    return aws


def seen(server: PrefectServer, bucket: str, count: int = 1) -> list[dict[str, Any]]:
    """The payloads of what was announced of a bucket, once there are so many: the server writes what it has taken a little
    later."""
    asked = Server(server.ui_url, server.sign_in)

    def there() -> list[dict[str, Any]]:
        found = asked.post("/events/filter", {"filter": {"event": {"name": [LANDED]}}})["events"]
        return [event["payload"] for event in found if bucket in event["payload"].get("buckets", ())]

    return until(lambda: len(found := there()) >= count and found, SECONDS)


def test_the_command_announces_what_lies_there_and_ends(
    aws: Amazon, tmp_path: Path, tiny_base: Path, services: dict[str, str], prefect_api: PrefectServer
) -> None:
    environment = {**services, "TUNELINE_QUEUE": aws.url, "TUNELINE_LANDING": f"s3://{aws.bucket}/rows"}
    project = Project(tmp_path / "project", tiny_base, environment)
    aws.put("rows/a b+c.jsonl", "rows/tag-ü.jsonl")
    foreign = aws.send("hello")
    done = project("tuneline", "listen", "--once", "--json")
    told = json.loads(done.stdout)
    assert (told["announced"], told["count"], told["foreign"]) == (True, 2, [foreign])
    assert {file["key"] for file in told["files"]} == {"rows/a b+c.jsonl", "rows/tag-ü.jsonl"}
    assert f"warning: message {foreign}" in done.stderr and aws.waiting() == 1
    (payload,) = seen(prefect_api, aws.bucket)
    assert payload["count"] == 2 and sorted(payload["keys"]) == ["rows/a b+c.jsonl", "rows/tag-ü.jsonl"]
    assert project("tuneline", "listen", "--once").stdout == "nothing has landed\n"


def test_the_command_goes_on_until_it_is_told_to_stop(
    aws: Amazon, tmp_path: Path, tiny_base: Path, services: dict[str, str], prefect_api: PrefectServer
) -> None:
    environment = {**services, "TUNELINE_QUEUE": aws.url, "TUNELINE_LANDING": f"s3://{aws.bucket}/rows"}
    process = Project(tmp_path / "project", tiny_base, environment).start("tuneline", "listen")
    assert process.stdout is not None
    assert process.stdout.readline() == f"queue: {aws.url}\n" and process.stdout.readline() == "Ctrl-C stops.\n"
    for key in ("one", "two"):
        aws.put(key)
        assert process.stdout.readline() == f"announced 1 files: {key}\n"
    process.terminate()
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and said == "stopped\n", said
    assert [payload["keys"] for payload in seen(prefect_api, aws.bucket, 2)] == [["two"], ["one"]]


@pytest.mark.parametrize(
    ("command", "settings", "code", "says"),
    [
        (["listen"], {}, 2, "which queue? Set TUNELINE_QUEUE to its URL"),
        (["listen"], {"TUNELINE_QUEUE": "http://127.0.0.1:1/1/q"}, 2, "TUNELINE_QUEUE is set, but TUNELINE_LANDING is not"),
        (["up"], {"TUNELINE_QUEUE": "http://127.0.0.1:1/1/q"}, 2, "TUNELINE_QUEUE is set, but TUNELINE_LANDING is not"),
        (["up"], {"TUNELINE_QUEUE": "rows", "TUNELINE_LANDING": "."}, 7, "'rows' is no address of a queue"),
        (["listen", "--json"], {}, 2, "--json prints one value at the end: give --once, too"),
        (
            ["listen", "--once"], {"TUNELINE_QUEUE": "http://127.0.0.1:1/1/q", "TUNELINE_LANDING": "."}, 10,
            "no Prefect server to tell: set PREFECT_API_URL, or start `tuneline up` here",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_starts(
    tmp_path: Path, tiny_base: Path, command: list[str], settings: dict[str, str], code: int, says: str
) -> None:
    done = Project(tmp_path / "project", tiny_base, {})("tuneline", *command, code=code, **settings)
    assert done.stdout == "" and done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_without_a_queue_there_is_nothing_to_listen_to() -> None:
    assert queue_of({}) is None and queue_of({"TUNELINE_QUEUE": ""}) is None
    with pytest.raises(ParamsError, match=r"set it to the s3://BUCKET/PREFIX that the queue is told of"):
        queue_of({"TUNELINE_QUEUE": "https://sqs.eu-central-1.amazonaws.com/1/q", "TUNELINE_LANDING": ""})


class Ear:
    """Told of files, it stops the listening; before that it fails as often as it is to."""

    def __init__(self, *failures: Exception) -> None:
        self.stop, self.warned = threading.Event(), list[str]()
        self.told: list[Landed] = []
        self._failures = list(failures)

    def __call__(self, files: Sequence[Landed]) -> None:
        if self._failures:
            raise self._failures.pop()
        self.told.extend(files)
        self.stop.set()

    def listen(self, queue: Queue) -> None:
        listen(queue, self, self.warned.append, self.stop)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "FIRST_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_is_told_again_and_only_then_the_messages_go(aws: Amazon) -> None:
    aws.put("k")
    ear = Ear(TransientError("away"), TransientError("away"))
    ear.listen(aws.queue())
    assert ear.told == [Landed(aws.bucket, "k")] and aws.waiting() == 0
    assert ear.warned == ["away; asked again in 0 s"] * 2


@pytest.mark.usefixtures("quick")
def test_what_another_try_would_not_cure_ends_it_and_the_messages_stay(aws: Amazon) -> None:
    aws.put("k")
    with pytest.raises(ServiceError, match="refused"):
        Ear(ServiceError("refused")).listen(aws.queue())
    with pytest.raises(StorageError, match="there is no such queue"):
        Ear().listen(Queue.open(aws.url + "-x", aws.environ))
    assert aws.waiting() == 2


@pytest.mark.usefixtures("quick")
def test_a_queue_that_is_away_is_waited_for() -> None:
    with amazon.serving() as first:
        aws = Amazon(first, f"landing-{uuid.uuid4().hex[:12]}")
        aws.notify()
        aws.put("k")
        port = first.get_host_and_port()[1]
    ear = Ear()
    thread = threading.Thread(target=ear.listen, args=(aws.queue(),))
    thread.start()
    deadline = time.monotonic() + SECONDS
    while len(ear.warned) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with amazon.serving(port):
        thread.join(SECONDS)
    assert not thread.is_alive() and ear.told == [Landed(aws.bucket, "k")]
    assert all("no answer: check TUNELINE_QUEUE and the network" in text for text in ear.warned)


@pytest.mark.usefixtures("quick")
def test_it_is_told_to_stop_while_nothing_answers() -> None:
    ear = Ear()
    queue = Queue.open("http://127.0.0.1:1/1/q", {**amazon.KEYS, "AWS_MAX_ATTEMPTS": "1"})

    def warn(text: str) -> None:
        ear.stop.set()

    listen(queue, ear, warn, ear.stop)
    assert ear.told == []


def test_beside_other_work_an_error_is_said_and_the_work_goes_on(
    aws: Amazon, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    with listening.beside(Queue.open(aws.url + "-x", aws.environ), Ear()):
        for thread in {each for each in threading.enumerate() if each.name == "queue"} - before:
            thread.join(SECONDS)  # what is read while it writes may be lost
            assert not thread.is_alive()
        said = capsys.readouterr().err
    assert said.startswith("error: looking at") and "no such queue" in said
    assert said.endswith("until the next start what lands is only looked for by schedule\n") and said.count("\n") == 1


def test_beside_other_work_what_lands_is_told(aws: Amazon) -> None:
    ear = Ear()
    with listening.beside(aws.queue(), ear):
        aws.put("k")
        assert ear.stop.wait(SECONDS)
    assert ear.told == [Landed(aws.bucket, "k")]


def test_a_foreign_message_is_warned_of_once_however_often_it_comes(aws: Amazon) -> None:
    aws.sqs.set_queue_attributes(QueueUrl=aws.url, Attributes={"VisibilityTimeout": "0"})
    foreign = aws.send("hello")
    ear = Ear()
    queue, looked = aws.queue(), 0

    class Counting(Queue):
        def look(self, wait: int = 1) -> Any:
            nonlocal looked
            looked += 1
            if looked == 3:
                aws.put("k")
            return super().look(wait)

    ear.listen(Counting(queue.url, queue._client))
    assert looked == 3 and len(ear.warned) == 1 and foreign in ear.warned[0]


def test_an_event_names_a_hundred_keys_and_counts_them_all(prefect_api: PrefectServer) -> None:
    bucket = uuid.uuid4().hex
    announce([Landed(bucket, f"{number:04}") for number in range(SHOWN + 7)])
    (payload,) = seen(prefect_api, bucket)
    assert (payload["count"], payload["keys"][-1], len(payload["keys"])) == (107, "0099", 100)


def test_a_prefect_server_that_is_away_may_come_back() -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(TransientError, match=r"127.0.0.1:1/api/? that files have landed: no answer \(ConnectError\)"),
    ):
        announce([Landed("b", "k")])


def test_a_prefect_server_that_refuses_is_named_with_what_to_check(prefect_api: PrefectServer) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: f"{prefect_api.api_url}/no"}),
        pytest.raises(
            ServiceError, match="refused with status 40.: check PREFECT_API_URL, and PREFECT_API_AUTH_STRING"
        ),
    ):
        announce([Landed("b", "k")])
