"""What runs count in processes of their own, Prometheus reads on one page."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import exposition, metrics
from flows.server import PrefectServer
from tasks.core import layout, params
from tasks.core.errors import ParamsError, ServiceError
from tests.project import ROOT, Project
from tests.scraped import free_port, scraped, value

SECONDS = 60.0
COUNTING = """
import sys
from pathlib import Path
from types import SimpleNamespace as Some
from prefect.states import Cancelled, Completed, Failed
from flows import metrics
from tasks.ingest import Ingested

outcomes = {"ran": Completed(), "cached": Completed(name="Cached"), "failed": Failed(), "not": Cancelled(name="NotRun")}
for name in sys.argv[2:]:
    metrics.stage(lambda run, stage, seconds: outcomes[name])(None, Some(name="train"), {"train": 2.0})
metrics.took_in(Ingested(Some(total=lambda kind: len(kind)), created=True))
metrics.took_in(Ingested(Some(total=lambda kind: 1000), created=False))
metrics.took_in(Ingested(None, created=False))
event = {"kind": "progress", "loss": float(sys.argv[1]), "tokens_per_second": 100.0, "memory_gb": 2.0}
metrics.progress(Some(root=Path.cwd()), event)
metrics.progress(Some(root=Path.cwd()), {"kind": "progress", "what": "prepare"})
metrics.promoted("desk")
print("counted", flush=True)
sys.stdin.read()
"""

RETRYING = """
from types import SimpleNamespace as Some
from prefect import Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from flows import metrics
from tasks.core.errors import TransientError

tries = {"train": 0, "merge": 0}

def work(run, stage, seconds):
    tries[stage.name] += 1
    if stage.name == "merge" or tries[stage.name] == 1:
        raise TransientError("away")
    seconds[stage.name] = 1.0
    return Completed()

@flow(name="retrying")
def retrying(reference):
    for name in tries:
        task = Task(metrics.stage(work), name=name, retries=1, cache_policy=NO_CACHE)
        task(None, Some(name=name), {}, return_state=True)

metrics.ends(retrying)
retrying("desk@v1")
"""


@contextmanager
def counting(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted, and lives as long as the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING, *arguments], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "counted\n"
    yield process
    process.communicate("")
    assert process.returncode == 0


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    (tmp_path / params.FILE).write_bytes((ROOT / params.FILE).read_bytes())
    with exposition.served(tmp_path, free_port()) as address:
        yield address


def files(home: Path) -> list[str]:
    return sorted(file.name for file in (home / layout.METRICS).iterdir())


def test_what_two_processes_count_is_one_sum_and_stays_when_they_end(page: str, tmp_path: Path) -> None:
    with counting(tmp_path, "3.5", "ran", "cached", "not") as one, counting(tmp_path, "2.5", "ran", "failed") as two:
        together = scraped(page)
        assert {str(process.pid) in name for process in (one, two) for name in files(tmp_path)} == {True, False}
    assert value(together, "tuneline_stages_total", "train", "ran") == 2
    assert value(together, "tuneline_stages_total", "train", "cached") == 1
    assert value(together, "tuneline_stages_total", "train", "failed") == 1
    assert {labels for name, labels in together if name == "tuneline_stages_total"} == {
        frozenset({"train", outcome}) for outcome in ("ran", "cached", "failed")
    }
    assert value(together, "tuneline_stage_seconds_count", "train") == 2
    assert value(together, "tuneline_stage_seconds_sum", "train") == 4
    assert value(together, "tuneline_stage_seconds_bucket", "train", "1.0") == 0
    assert value(together, "tuneline_stage_seconds_bucket", "train", "5.0") == 2
    for kind in metrics.ROWS:
        assert value(together, "tuneline_rows_ingested_total", kind) == 2 * len(kind)
    model = params.load(ROOT / params.FILE).publish.name
    assert value(together, "tuneline_train_loss", model) == 2.5  # whoever wrote last
    assert value(together, "tuneline_train_tokens_per_second", model) == 100
    assert value(together, "tuneline_train_memory_bytes", model) == 2e9
    assert value(together, "tuneline_last_promotion_timestamp_seconds", "desk") > 1.7e9

    assert scraped(page) == together
    assert files(tmp_path) == ["counter_dead.db", "gauge_mostrecent_dead.db", "histogram_dead.db"]
    with counting(tmp_path, "1.5", "ran"):
        third = scraped(page)
    assert value(third, "tuneline_stages_total", "train", "ran") == 3
    assert value(third, "tuneline_train_loss", model) == 1.5
    assert scraped(page) == third and len(files(tmp_path)) == 3


def test_a_file_that_was_never_written_to_its_end_is_let_go(page: str, tmp_path: Path) -> None:
    with counting(tmp_path, "3.5", "ran") as process:
        pass
    before = scraped(page)
    for text in (b"", b"\xff\x0f\0\0" + b"\0" * 4 + b"\xff\x7f\0\0" + b"\0" * 4096):
        (tmp_path / layout.METRICS / f"counter_{process.pid}.db").write_bytes(text)
        assert scraped(page) == before
    assert len(files(tmp_path)) == 3


def test_files_go_though_nobody_reads_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "TIDY_SECONDS", 0.05)
    with exposition.served(tmp_path, free_port()), counting(tmp_path, "3.5", "ran") as process:
        process.communicate("")
        deadline = time.monotonic() + SECONDS
        while any(str(process.pid) in name for name in files(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(files(tmp_path)) == 3


def test_a_new_start_begins_at_zero(tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        with exposition.served(tmp_path, port) as address:
            assert os.environ[metrics.FOLDER] == str(tmp_path / layout.METRICS)
            assert scraped(address) == {} and files(tmp_path) == []
            (tmp_path / params.FILE).write_bytes((ROOT / params.FILE).read_bytes())
            with counting(tmp_path, "3.5", "ran"):
                assert scraped(address)
        assert metrics.FOLDER not in os.environ


def test_a_stage_that_is_tried_again_is_told_from_one_that_is_not(
    page: str, tmp_path: Path, prefect_api: PrefectServer
) -> None:
    environment = {**os.environ, **prefect_api.environment(), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", RETRYING], cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = scraped(page)
    assert value(found, "tuneline_stages_total", "train", "retried") == 1
    assert value(found, "tuneline_stages_total", "train", "ran") == 1
    assert value(found, "tuneline_stages_total", "merge", "retried") == 1
    assert value(found, "tuneline_stages_total", "merge", "failed") == 1
    assert {labels for name, labels in found if name == "tuneline_runs_total"} == {
        frozenset({"retrying", "desk", "completed"})
    }


@pytest.mark.parametrize("folder", [None, "no/such/folder"])
def test_where_nobody_looks_nothing_is_loaded_and_nothing_written(tmp_path: Path, folder: str | None) -> None:
    (tmp_path / params.FILE).write_bytes((ROOT / params.FILE).read_bytes())
    code = (
        "import sys\nfrom pathlib import Path\nfrom types import SimpleNamespace as Some\n"
        "from flows import exposition, metrics\n"
        "metrics.promoted('desk'); metrics.progress(Some(root=Path.cwd()), {'loss': 1.0})\n"
        "metrics.ends(None); print([name for name in ('prometheus_client', 'prefect') if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({metrics.FOLDER: folder} if folder else {})}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n" and list(tmp_path.iterdir()) == [tmp_path / params.FILE]


@pytest.mark.parametrize("text", ["x", "0", "65536", "-1", "९४६४", "94 64"])
def test_a_port_that_is_none_is_said(text: str) -> None:
    with pytest.raises(ParamsError, match=rf"TUNELINE_METRICS_PORT is '{text}': set it to a port, 1 to 65535"):
        exposition.port_of({exposition.VARIABLE: text})


def test_without_a_port_there_is_no_page() -> None:
    assert exposition.port_of({}) is None and exposition.port_of({exposition.VARIABLE: ""}) is None
    port = free_port()
    assert exposition.port_of({exposition.VARIABLE: str(port)}) == port


def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = (
            f"metrics cannot be served on port {port} of 127.0.0.1: another program has it: set TUNELINE_METRICS_PORT"
        )
        with pytest.raises(ServiceError, match=said):
            exposition.port_of({exposition.VARIABLE: str(port)})
        with pytest.raises(ServiceError, match=said), exposition.served(tmp_path, port):
            pytest.fail("served on a taken port")
    assert metrics.FOLDER not in os.environ


def test_up_with_a_port_that_is_taken_starts_nothing(tmp_path: Path, tiny_base: Path) -> None:
    project = Project(tmp_path / "project", tiny_base, {})
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = project("tuneline", "up", code=10, TUNELINE_METRICS_PORT=str(other.getsockname()[1]))
    assert (
        done.stdout == "" and done.stderr.startswith("error: metrics cannot be served") and done.stderr.count("\n") == 1
    )
    assert not (project.folder / layout.HOME).exists()


def test_the_page_of_docs_names_every_metric() -> None:
    text = (ROOT / "docs" / "scheduling.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tuneline_\w+)(?:\{([\w, ]+)\})?` \| (\w+) \|", text, re.MULTILINE)
    assert [(name, tuple(labels.split(", ")), kind) for name, labels, kind in rows] == [
        (metric.name, metric.labels, metric.kind) for metric in metrics.METRICS
    ]
    assert len(rows) == 8
