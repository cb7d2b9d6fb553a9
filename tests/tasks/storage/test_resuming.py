"""A publisher that was killed, or whose credentials ran out, is gone on from by the next one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import StorageError
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.faulty_store import Answer, Proxy, refusal
from tests.large_blob import KEY, PARTS, Open, assert_whole, is_end, is_part, sent
from tests.registries import Service, laid

ROOT = Path(__file__).parents[3]
NOW = datetime.now(UTC)


# Killed


PUBLISHER = """
    import json, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from tasks.storage.registry import Registry
    from tasks.storage.store import Store

    url, environ, file = sys.argv[1:]
    registry = Registry(Store.open(url, json.loads(environ)))
    registry.publish("m", {"weights": Path(file)}, "work", {}, datetime.now(UTC), "a process")
"""


def killed_when(
    proxy: Proxy, environ: dict[str, str], url: str, file: Path, moment: Callable[[str, str], bool]
) -> None:
    """A publisher that SIGKILL ends when the proxy has received such a request, which then does not reach the store."""
    argv = [sys.executable, "-c", textwrap.dedent(PUBLISHER), url, json.dumps(environ), str(file)]
    process = subprocess.Popen(argv, cwd=ROOT)

    def spoil(method: str, path: str) -> Answer | None:
        if not moment(method, path) and process.poll() is None:
            return None
        process.kill()
        process.wait()
        return refusal(500, "Killed")

    proxy.spoil = spoil
    assert process.wait(60) == -signal.SIGKILL
    proxy.spoil = lambda _method, _path: None


MOMENTS: dict[str, Callable[[str, str], bool]] = {
    "beginning": lambda method, path: method == "POST" and path.endswith("?uploads"),
    "first part": lambda _, path: is_part(path, 1),
    "third part": lambda _, path: is_part(path, 3),
    "last part": lambda _, path: is_part(path, 4),
    "end": is_end,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_who_comes_after_a_killed_publisher_sends_only_what_is_missing(
    registry: Registry, behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open, moment: str
) -> None:
    seen, environ = proxy
    killed_when(seen, environ, behind.store.url, file, MOMENTS[moment])
    assert registry.names() == []
    assert registry.store.head(KEY) is None
    there = somebody.settled() if somebody.ids() else set[int]()
    if moment == "end":
        assert there == PARTS
    seen.seen.clear()
    published = behind.publish("m", {"weights": file}, "work", {}, NOW, "ada")
    assert published.version.number == 1
    assert set(sent(seen)) == PARTS - there
    assert_whole(registry)
    assert somebody.ids() == []


def test_killed_after_the_end_nothing_is_left_to_send(
    registry: Registry, behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path
) -> None:
    seen, environ = proxy
    killed_when(seen, environ, behind.store.url, file, lambda method, path: method == "PUT" and "/versions/" in path)
    assert registry.names() == []
    seen.seen.clear()
    published = behind.publish("m", {"weights": file}, "work", {}, NOW, "ada")
    assert (published.version.number, published.uploaded_bytes) == (1, 0)
    assert sent(seen) == []


# Credentials


@pytest.mark.parametrize("status", [400, 403])
def test_credentials_that_expire_meanwhile(
    registry: Registry, behind: Registry, proxy: tuple[Proxy, dict[str, str]], file: Path, somebody: Open, status: int
) -> None:
    seen, environ = proxy
    expired = [0]

    def spoil(method: str, path: str) -> Answer | None:
        expired[0] += bool(expired[0]) or is_part(path, 3)
        return refusal(status, "ExpiredToken", "The provided token has expired.") if expired[0] else None

    seen.spoil = spoil
    with pytest.raises(StorageError, match=r"credentials have expired: get new ones .*what was sent is kept"):
        behind.publish("m", {"weights": file, "config": laid(file.parent, {"c": b"1"})["c"]}, "work", {}, NOW, "ada")
    assert expired[0] < 10
    assert registry.names() == []
    assert registry.store.head(KEY) is None
    there = somebody.settled()
    seen.spoil = lambda _method, _path: None
    seen.seen.clear()
    again = Registry(Store.open(registry.store.url, environ))
    assert again.publish("m", {"weights": file}, "work", {}, NOW, "ada").created
    assert set(sent(seen)) == PARTS - there
    assert_whole(registry)


def test_refreshed_credentials_of_a_profile_are_used(
    registry: Registry, s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile whose credentials come from a program is asked again when they run out; nobody else's job."""
    given = s3.environment()
    program = tmp_path / "credentials.py"
    program.write_text(
        textwrap.dedent(f"""
            import json
            from datetime import datetime, timedelta, UTC
            from pathlib import Path
            calls = Path({str(tmp_path / "calls")!r})
            calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
            print(json.dumps({{
                "Version": 1, "AccessKeyId": {given["AWS_ACCESS_KEY_ID"]!r},
                "SecretAccessKey": {given["AWS_SECRET_ACCESS_KEY"]!r},
                "Expiration": (datetime.now(UTC) + timedelta(seconds=60)).isoformat(),
            }}))
        """)
    )
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    environ = {"AWS_PROFILE": "p", "AWS_ENDPOINT_URL_S3": given["AWS_ENDPOINT_URL_S3"]}
    store = Store.open(registry.store.url, environ)
    store.put("k", b"1")
    store.put("k", b"2")
    assert len((tmp_path / "calls").read_text()) >= 2
