"""The embedded Prefect server: it answers, keeps its database, and tells nobody outside."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.server import SIGN_IN, PrefectServer, prefect_server
from tasks.core.errors import ServiceError
from tests.serving import signed

CLIENT = """
import asyncio, sys
from prefect import get_client
from prefect.client.schemas.objects import Flow

async def main():
    async with get_client() as client:
        if sys.argv[1] == "write":
            await client.create_flow_from_name("kept")
        print([flow.name for flow in await client.read_flows()])

asyncio.run(main())
"""


def get(url: str, sign_in: str = "") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=signed(sign_in)), timeout=60) as answer:
        return json.load(answer)


def client(server: PrefectServer, *arguments: str) -> str:
    """What a client in a process of its own sees that has only `environment()` to go by.

    Its filters are JSON nulls: FastAPI from 0.151 on answers them with 422, where Prefect 3.8 means its defaults.
    """
    environment = {"PATH": os.environ["PATH"], **server.environment()}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def test_it_answers_and_a_second_user_shares_it(prefect_api: PrefectServer) -> None:
    assert get(f"{prefect_api.api_url}/health") is True
    with prefect_server(prefect_api.home.parent) as second:
        assert second == prefect_api
    with prefect_server(prefect_api.home.parent, 4200) as third:
        assert third == prefect_api, "it is shared where it runs, whatever port was wished for"
    assert get(f"{prefect_api.api_url}/health") is True


def test_the_ui_finds_its_api_on_the_chosen_port(prefect_api: PrefectServer) -> None:
    assert get(f"{prefect_api.ui_url}/ui-settings")["api_url"] == prefect_api.api_url
    with urllib.request.urlopen(prefect_api.ui_url, timeout=60) as page:
        assert b"<html" in page.read()


def test_it_tells_nobody_and_keeps_leases_on_disk(prefect_api: PrefectServer) -> None:
    settings = get(f"{prefect_api.api_url}/admin/settings", prefect_api.sign_in)["server"]
    assert settings["analytics_enabled"] is False
    assert settings["concurrency"]["lease_storage"] == "prefect.server.concurrency.lease_storage.filesystem"
    assert settings["services"]["scheduler"]["enabled"] is True


@pytest.mark.parametrize("words", ["", "admin:", "admin:guessed"])
def test_without_its_password_nothing_is_told_or_done(prefect_api: PrefectServer, words: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{prefect_api.api_url}/admin/version", words)
    assert get(f"{prefect_api.ui_url}/ui-settings")["auth"] == "BASIC", "the UI asks for it"
    file = prefect_api.home / SIGN_IN
    assert file.read_text().strip() == prefect_api.sign_in and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert prefect_api.sign_in not in repr(prefect_api)


@pytest.mark.parametrize("text", ["", "admin", "admin:\n"])
def test_a_damaged_password_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / SIGN_IN).write_text(text)
    with pytest.raises(ServiceError, match="holds no USER:PASSWORD"), prefect_server(tmp_path):
        pytest.fail("started without one")


def test_the_session_is_set_up_for_it(prefect_api: PrefectServer) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    assert os.environ["PREFECT_API_URL"] == PREFECT_API_URL.value() == prefect_api.api_url
    assert PREFECT_HOME.value() == prefect_api.home


def test_what_it_knows_outlives_it(tmp_path: Path) -> None:
    home = tmp_path / "a home, with {braces} and 100%"
    with prefect_server(home) as server:
        assert client(server, "write") == "['kept']"
    with pytest.raises(OSError, match="refused"):
        get(f"{server.api_url}/health")
    port = int(server.ui_url.rpartition(":")[2])
    with prefect_server(home, port) as again:
        assert again == server
        assert client(again, "read") == "['kept']"


def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"prefect can't listen on port {port}"), prefect_server(tmp_path, port):
            pytest.fail("started on a taken port")


def test_prefect_itself_is_not_imported_by_its_user() -> None:
    subprocess.run([sys.executable, "-c", "import sys, flows.server; assert 'prefect' not in sys.modules"], check=True)
