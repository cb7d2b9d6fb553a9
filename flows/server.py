"""A Prefect server of one's own: API, UI and scheduler on SQLite in a folder, for as long as somebody uses it.

It asks for a password: without one, every user of the machine, and every page in a browser on it, could start its runs.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import ServiceError, from_os_error
from tasks.storage.guard import Probe
from tasks.storage.private_file import kept
from tasks.storage.service import Launch, Ports, Service, running

CLOSED = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
"""Nothing leaves the machine."""
SIGN_IN = "sign-in"
"""File in the server's folder with the words that the UI asks for, `USER:PASSWORD`."""


@dataclass(frozen=True)
class PrefectServer:
    """A server that answers. `home` is its PREFECT_HOME."""

    ui_url: str
    home: Path
    sign_in: str = field(repr=False)

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"

    def environment(self) -> dict[str, str]:
        """What every Prefect client and worker reads."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_AUTH_STRING": self.sign_in,
            "PREFECT_UI_URL": self.ui_url,
            "PREFECT_HOME": str(self.home),
            **CLOSED,
        }


@contextmanager
def prefect_server(home: Path, port: int | None = None, usual: int | None = None) -> Generator[PrefectServer]:
    """The server of this home, on `port`, else on the `usual` one if it is free, else on any free loopback port; one that
    runs already is shared where it is.

    ServiceError: it did not start, or another program has that port.
    """
    folder = home.absolute() / "prefect"
    words = _sign_in(folder / SIGN_IN)
    with running(_service(home, folder, words, port, usual)) as endpoint:
        yield PrefectServer(endpoint.url("api"), folder, words)


def _sign_in(path: Path) -> str:
    try:
        words = kept(path, lambda: f"admin:{secrets.token_urlsafe(18)}\n").strip()
    except OSError as error:
        raise from_os_error(error, "the Prefect server could not keep its password") from None
    if not words.partition(":")[2]:
        raise ServiceError(f"{path} holds no USER:PASSWORD: remove it, and a new one is made")
    return words


def _service(home: Path, folder: Path, words: str, port: int | None, usual: int | None) -> Service:
    return Service(
        name="prefect",
        home=home,
        folder=folder,
        ports=("api",),
        fixed={"api": port} if port else {},
        usual={"api": usual} if usual else {},
        launch=lambda ports: _launch(folder, words, ports),
        # A new database takes 10 s, one that is there 4; several times that on a busy machine.
        start_seconds=180,
        grace_seconds=10,
    )


def _launch(folder: Path, words: str, ports: Ports) -> Launch:
    address = f"http://127.0.0.1:{ports['api']}"
    return Launch(
        argv=[sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports["api"])],
        probes=[Probe(ports["api"], "/api/health")],
        environment={
            **CLOSED,
            "PREFECT_SERVER_API_AUTH_STRING": words,
            "PREFECT_API_AUTH_STRING": words,  # its own services ask it, too
            "PREFECT_HOME": str(folder),  # the SQLite database is in it
            "PREFECT_SERVER_UI_API_URL": f"{address}/api",  # on any port but 4200 the UI is blank without it
            # In memory, the slots that a killed run held would be lost with the server.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        },
    )
