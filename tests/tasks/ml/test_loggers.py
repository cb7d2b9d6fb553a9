"""Experiment loggers: asked for by one line, refused before the training starts, and never its end."""

from __future__ import annotations

import csv
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.core import events, manifest
from tasks.core.errors import ParamsError
from tasks.core.params import Params
from tasks.ml import loggers
from tasks.train import train
from tests import tiny
from tests.hearing import Heard

ROOT = Path(__file__).parents[3]


def test_one_line_names_loggers_and_folders(tmp_path: Path) -> None:
    setting = {loggers.VARIABLE: f"tensorboard, mlflow:runs,wandb:{tmp_path}/w"}
    found = {each.name: each.folder for each in loggers.asked(setting, tmp_path)}
    assert found == {
        "tensorboard": tmp_path / ".tuneline" / "logs" / "tensorboard",
        "mlflow": tmp_path / "runs",
        "wandb": tmp_path / "w",
    }
    anchored = {loggers.VARIABLE: loggers.anchored(setting, tmp_path)}
    assert loggers.asked(anchored, Path("/elsewhere")) == loggers.asked(setting, tmp_path)
    assert loggers.asked({}, tmp_path) == loggers.asked({loggers.VARIABLE: ""}, tmp_path) == []


def test_an_unknown_logger_lists_the_known() -> None:
    with pytest.raises(ParamsError, match="no logger is called 'tensorbord'; there are tensorboard, mlflow, wandb"):
        loggers.check({loggers.VARIABLE: "tensorbord"})


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_what_is_not_installed_is_refused_with_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself calls "not there"
    package = loggers.PACKAGES[name]
    with pytest.raises(ParamsError, match=f"{name} is not installed: pip install {package}, or leave it out"):
        loggers.check({loggers.VARIABLE: name})
    with pytest.raises(ParamsError, match="not installed"), loggers.attached({loggers.VARIABLE: name}, {}):
        pytest.fail("the training has begun")


def test_asking_loads_none_of_them() -> None:
    code = (
        "import sys\nfrom tasks.ml import loggers\n"
        f"try:\n    loggers.check({{{loggers.VARIABLE!r}: 'tensorboard,mlflow,wandb'}})\n"
        "except loggers.ParamsError:\n    pass\n"
        "print([name for name in ('torch', 'tensorboard', 'mlflow', 'wandb') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


class Breaks:
    """A logger whose disk is gone after the first step."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.logged:
            raise BrokenPipeError("gone")
        self.logged.append((step, figures))

    def close(self) -> None:
        raise AssertionError("a logger that has failed is left alone")


def test_a_logger_that_fails_says_so_once() -> None:
    heard, logger = Heard(), Breaks()
    sink = loggers.Sink("board", logger)
    with events.also(heard), events.also(sink):
        for step in (1, 2, 3):
            events.progress("train", step, 3, loss=1.5, stage="late")
        sink.close()
    assert logger.logged == [(1, {"train/loss": 1.5})]
    warnings = heard.texts("warning")
    assert warnings == ["board failed and logs no more, the training goes on: BrokenPipeError: gone"]
    assert [fields["done"] for kind, fields in heard.told if kind == "progress"] == [1, 2, 3]
    events.progress("train", 4, 4)
    assert len(heard.told) == 4


def trained(prepared: Path, folder: Path, base: Path) -> str:
    chosen = Params.model_validate(tiny.params(base, train={"epochs": 1})).train
    made = train(chosen, chat=prepared / "chat", base=prepared / "base", out=folder / "out", report=folder / "report")
    return made.digest


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """`base` and `chat`, and in `plain` what a training without loggers made of them."""
    folder = tiny.prepared(tmp_path_factory.mktemp("logged"), tiny_base, rows=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_WORK", str(folder / "work"))
        trained(folder, folder / "plain", tiny_base)
    return folder


def losses(report: Path) -> dict[int, float]:
    with (report / "history.csv").open(encoding="utf-8", newline="") as file:
        return {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file)}


def read_tensorboard(folder: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore

    (run,) = folder.iterdir()
    found: Any = EventAccumulator(str(run))
    found.Reload()
    assert b"optimizer.learning_rate" in found.Tensors("params/text_summary")[0].tensor_proto.string_val[0]
    return {event.step: event.value for event in found.Scalars("train/loss")}


def read_mlflow(folder: Path) -> dict[int, float]:
    from mlflow.tracking import MlflowClient  # pyright: ignore

    client: Any = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tuneline").experiment_id])
    assert run.data.params["optimizer.learning_rate"] and run.info.status == "FINISHED"
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}


def read_wandb(folder: Path) -> dict[int, float]:
    """W&B's own file: LevelDB's log format behind a header of 7 bytes, its entries are protobuf records."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, entry = file.read_bytes(), 7, b""
    found: dict[int, float] = {}
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:  # too little for a header: the next block
            place += left
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)
        entry += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole entry, or the last part of one
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(entry)
            entry = b""
            if record.WhichOneof("record_type") == "history":
                items = {"".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                found[record.history.step.num] = float(items["train/loss"])
    return found


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


def installed(name: str) -> Any:
    reason = f"{loggers.PACKAGES[name]} is not installed: pip install -e '.[loggers]'"
    return pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=reason))


@pytest.mark.parametrize("name", map(installed, loggers.PACKAGES))
def test_every_step_is_logged_and_the_result_is_the_same(
    prepared: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv(loggers.VARIABLE, f"{name}:{tmp_path / 'logs'}")
    assert trained(prepared, tmp_path, tiny_base) == manifest.read(prepared / "plain" / "out").digest
    found, wanted = READERS[name](tmp_path / "logs"), losses(tmp_path / "report")
    assert len(wanted) >= 2
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", [installed("tensorboard")])
def test_a_folder_that_can_t_be_made_is_refused_before_the_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ParamsError, match=f"{name} does not start in .*file/logs: NotADirectoryError"),
        loggers.attached({loggers.VARIABLE: f"{name}:{tmp_path}/file/logs"}, {}),
    ):
        pytest.fail("the training has begun")
