"""The page that Prometheus reads: what the worker and every run of it have counted, on loopback.

A counter must not fall when the process that counted ends, so the library keeps the files of dead processes for ever:
`mark_process_dead` removes those of `live*` gauges alone, and there are none here. A worker that starts a process a run
would gather files without end. So the counts of the dead are added to one file of each kind, and their own go.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows import metrics
from tasks.core import layout
from tasks.core.errors import ParamsError, ServiceError

if TYPE_CHECKING:
    from prometheus_client import Metric

VARIABLE = "TUNELINE_METRICS_PORT"
HOST = "127.0.0.1"
DEAD = "dead"
"""In place of a process id, in the name of the file that holds what ended processes have counted."""
TIDY_SECONDS = 60.0


def port_of(environ: Mapping[str, str]) -> int | None:
    """Where the page is wanted. ParamsError: that is no port. ServiceError: another program has it."""
    if not (text := environ.get(VARIABLE)):
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ParamsError(f"{VARIABLE} is {text!r}: set it to a port, 1 to 65535 (9464, for instance), or unset it")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(text)))
        except OSError as error:
            raise _not_served(int(text), error) from None
    return int(text)


@contextmanager
def served(home: Path, port: int) -> Generator[str]:
    """Serve the page for as long as the block lasts; its address. What runs in the block, and is started by it, is counted,
    unless it has imported prometheus_client before. Counts begin at zero. ServiceError: another program has the port."""
    with _folder(home) as folder, _server(Page(folder), port):
        yield f"http://{HOST}:{port}/metrics"


@contextmanager
def _folder(home: Path) -> Generator[Path]:
    """Empty, and in the environment."""
    folder = (home / layout.METRICS).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[metrics.FOLDER] = str(folder)
    try:
        yield folder
    finally:
        os.environ.pop(metrics.FOLDER, None)


@contextmanager
def _server(page: Page, port: int) -> Generator[None]:
    from prometheus_client import CollectorRegistry, start_http_server

    registry, ended = CollectorRegistry(), threading.Event()
    registry.register(page)
    try:
        server, _ = start_http_server(port, HOST, registry)
    except OSError as error:
        raise _not_served(port, error) from None
    threading.Thread(target=page.keep_tidy, args=(ended,), name="metrics", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


class Page:
    """Collects for prometheus_client what lies in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.multiprocess import MultiProcessCollector

        with self._lock:
            self._bury()
            # A file that is this moment being made has no length yet.
            files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
            found = MultiProcessCollector.merge(files)
        return (metric for metric in found if metric.name.startswith(metrics.PREFIX))  # not what Prefect counts

    def keep_tidy(self, ended: threading.Event) -> None:
        """Also when nobody reads the page."""
        while not ended.wait(TIDY_SECONDS):
            with self._lock:
                self._bury()

    def _bury(self) -> None:
        """Add what ended processes have counted to the file of the dead. Law: no figure changes by it."""
        for file in self._folder.glob("*.db"):
            kind, _, process = file.stem.rpartition("_")
            if process != DEAD and not _lives(int(process)):
                _add(file, self._folder / f"{kind}_{DEAD}.db", newest=kind.startswith("gauge"))
                file.unlink()


def _add(file: Path, total: Path, *, newest: bool) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    try:
        counted = list(MmapedDict.read_all_values_from_file(str(file)))
    except (RuntimeError, struct.error):  # killed while it wrote its first line
        return
    into = MmapedDict(str(total))
    for key, value, at, _ in counted:
        before, then = into.read_value(key)
        if not newest:
            into.write_value(key, before + value, 0.0)
        elif at > then:
            into.write_value(key, value, at)
    into.close()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _not_served(port: int, error: OSError) -> ServiceError:
    why = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ServiceError(
        f"metrics cannot be served on port {port} of {HOST}: {why}: set {VARIABLE} to another, or unset it"
    )
